"""Columns of the containers of annotations and of predictions: their declaration, checks and files.

A container is a dataclass that annotates each of its columns, numpy arrays, with a :class:`Column`. Ragged
data is stored flat with offsets: what belongs to row i of ``x`` is rows ``x_offsets[i]`` up to
``x_offsets[i + 1]`` of the columns that these offsets count.
"""

import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, BinaryIO, get_origin, get_type_hints

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.utils.archives import DAMAGED, check_unpacked_size, unpacked_size
from kgdet_d2.utils.check import check
from kgdet_d2.utils.io import atomic_write

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Column:
    """A column's declaration.

    Attributes:
        rows: the kind of thing that has a row each, such as "garment".
        dtype: numpy's type.
        shape: the shape of a row; a name in it stands for a number that the container gives.
        counts: the kind of thing that an offsets column counts; it has one row more than ``rows``.
        optional: the column is left out of the file where all of it is 0.
    """

    rows: str
    dtype: type[np.generic]
    shape: tuple[int | str, ...] = ()
    counts: str = ""
    optional: bool = False


def declared_columns(container: type) -> dict[str, Column]:
    """Return the columns that a container's class declares, by name, in their order."""
    hints = get_type_hints(container, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated}


# --- checks; each raises ValueError ---


def check_types(container: object, columns: Mapping[str, Column]) -> None:
    """Check that every column has its declared type."""
    for name, column in columns.items():
        dtype = getattr(container, name).dtype
        check(np.issubdtype(dtype, column.dtype), f"{name}: expected {column.dtype.__name__}, got {dtype}")


def check_shapes(container: object, columns: Mapping[str, Column], sizes: Mapping[str, int]) -> None:
    """Check that offsets begin with 0 and never fall, and that every column has its declared shape.

    Args:
        container: what has the columns.
        columns: their declarations.
        sizes: numbers of rows by kind, but for those that offsets count, and of the names in shapes.
    """
    sizes = dict(sizes)
    for name, column in columns.items():
        if column.counts:
            offsets = getattr(container, name)
            rising = offsets[:1].tolist() == [0] and bool((np.diff(offsets) >= 0).all())
            check(rising, f"{name}: expected 0 first and no decrease")
            sizes[column.counts] = int(offsets[-1])
    for name, column in columns.items():
        shape, expected = getattr(container, name).shape, _shape(column, sizes)
        check(shape == expected, f"{name}: expected shape {expected}, got {shape}")


def check_class_indices(category_id: np.ndarray, schema: KeypointSchema) -> None:
    """Check that class indices (n,) are the schema's."""
    last = schema.num_classes - 1
    wrong = category_id[(category_id < 0) | (category_id > last)]
    check(not wrong.size, f"category_id: expected 0..{last}, got {np.unique(wrong)}")


def check_unique(image_id: np.ndarray, complaint: str) -> None:
    """Check that no image id occurs twice; the error is ``image <id>: <complaint>``."""
    ids, counts = np.unique(image_id, return_counts=True)
    for repeated in ids[counts > 1]:
        raise ValueError(f"image {repeated}: {complaint}")


def check_finite(name: str, array: np.ndarray) -> None:
    """Check that there is neither a NaN nor an infinity."""
    bad = array.size - np.count_nonzero(np.isfinite(array))
    check(bad == 0, f"{name}: expected finite numbers, {bad} of {array.size} are not")


# --- making columns ---


def _shape(column: Column, sizes: Mapping[str, int]) -> tuple[int, ...]:
    rows = sizes[column.rows] + bool(column.counts)
    return (rows, *(sizes[side] if isinstance(side, str) else side for side in column.shape))


def empty_columns(columns: Mapping[str, Column], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return columns without rows; ``sizes`` holds the numbers of the names in shapes."""
    rows = {column.rows: 0 for column in columns.values()}
    return {
        name: np.zeros(_shape(column, {**rows, **sizes}), column.dtype) for name, column in columns.items()
    }


def concatenate_columns(containers: Sequence[object], columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Return the columns of one container after another, at least one; offsets go on counting."""
    joined = {}
    for name, column in columns.items():
        arrays = [getattr(container, name) for container in containers]
        if column.counts:
            joined[name] = offsets_from_lengths(np.concatenate([np.diff(offsets) for offsets in arrays]))
        else:
            joined[name] = np.concatenate(arrays)
    return joined


def offsets_from_lengths(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return int64 (n + 1,), the offsets of n rows with such lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


# --- files ---


def stored_name(column: str) -> str:
    """Return a column's name on disk, where keypoints are called landmarks."""
    return column.replace("keypoint", "landmark")


def write_columns(
    path: str | Path | BinaryIO,
    container: Any,
    columns: Mapping[str, Column],
    *,
    version: int,
    further: Mapping[str, Any],
    deflate: bool,
) -> None:
    """Write an .npz file, whole or not at all; its folder is made where it is missing.

    Args:
        path: the file, or one that is open.
        container: what has the columns, and their ``schema``.
        columns: their declarations.
        version: the format's version.
        further: what else goes into the file, by its name there.
        deflate: compress.
    """
    arrays = {}
    for name, column in columns.items():
        array = getattr(container, name)
        if not column.optional or array.any():
            arrays[stored_name(name)] = array
    save = np.savez_compressed if deflate else np.savez
    with atomic_write(path) if isinstance(path, str | Path) else nullcontext(path) as file:
        schema = json.dumps(container.schema.to_dict(), separators=(",", ":"))
        save(
            file,
            format_version=version,
            schema=container.schema.name,
            keypoint_schema=np.bytes_(schema.encode()),
            **arrays,
            **further,
        )


@contextmanager
def open_columns(
    path: str | Path, *, kind: str, version: int, schema: KeypointSchema, hint: str = ""
) -> Iterator[Mapping[str, np.ndarray]]:
    """Open a file that :func:`write_columns` wrote, to read it and make a container in the block.

    Args:
        path: the file.
        kind: the kind of file, for errors.
        version: the format's version that it must have.
        schema: the schema whose classes and landmarks it must have.
        hint: a further sentence for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: another version, other classes or landmarks, a damaged file, or an error
            that reading it or making the container raised.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: there is no such {kind} file.{hint}")
    try:
        check(zipfile.is_zipfile(path), "truncated, or of another kind")
        with np.load(path, allow_pickle=False) as archive:
            check_unpacked_size(max(unpacked_size(path), _size_of_arrays(archive.zip)))
            found = archive["format_version"].item()
            check(found == version, f"format_version: expected {version!r}, got {found!r}")
            _check_schema(archive, schema)
            yield archive
    except (*DAMAGED, KeyError) as error:
        raise ValueError(f"{path}: not a usable {kind} file: {error}.{hint}") from error


def _size_of_arrays(archive: zipfile.ZipFile) -> int:
    """Return the bytes of an archive's arrays as their headers say, for which numpy makes room at once."""
    size = 0
    for name in archive.namelist():
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            check(version in _HEADERS, f"{name}: expected numpy's format 1.0 or 2.0, got {version}")
            shape, _, dtype = _HEADERS[version](file)
            size += math.prod(shape) * dtype.itemsize
    return size


def _check_schema(archive: Mapping[str, np.ndarray], schema: KeypointSchema) -> None:
    """Check that a file is of a schema's classes and landmarks; earlier files have its name alone."""
    if "keypoint_schema" not in archive:
        name = archive["schema"].item()
        check(name == schema.name, f"schema: expected {schema.name!r}, got {name!r}")
        return
    stored = KeypointSchema.from_dict(json.loads(archive["keypoint_schema"].item()))
    difference = schema.difference(stored)
    check(
        not difference, f"schema: expected {schema.name!r}, got {stored.name!r}: {shorten(difference, 300)}"
    )


def read_columns(archive: Mapping[str, np.ndarray], columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Return the columns of an open file by name, without the optional ones that it lacks.

    Raises:
        KeyError: a column is missing.
    """
    arrays = {}
    for name, column in columns.items():
        if column.optional and stored_name(name) not in archive:
            continue
        arrays[name] = archive[stored_name(name)]
    return arrays
