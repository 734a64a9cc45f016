"""The compact annotation file: one split's images, garments, landmarks and polygons as columns of one .npz.

Ragged data is stored flat with offsets: the garments of image i are rows ``garment_offsets[i]`` up to
``garment_offsets[i + 1]`` of the garment columns, and so on down to the vertices of a polygon.
"""

import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_origin, get_type_hints

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import stored_name
from kgdet_d2.utils.io import atomic_write

FORMAT_VERSION = 2
_ATTRIBUTES = ("photo_attributes", "garment_attributes")


@dataclass(frozen=True, eq=False)
class Garment:
    """One garment of one photo; coordinates in pixels of the photo.

    Attributes:
        category_id: class index, 0-based.
        box: float32 (4,), x1 y1 x2 y2.
        landmarks: float32 (K_c, 3), x y v of the class's own landmarks.
        polygons: float32 (V, 2) each.
        attributes: what else the dataset says of a garment (DeepFashion2: item, style, scale, occlusion,
            zoom_in, viewpoint), the same names for each of its garments.
    """

    category_id: int
    box: np.ndarray
    keypoints: np.ndarray
    polygons: Sequence[np.ndarray] = ()
    attributes: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo; ``file_name`` is relative to the split's image folder, width and height are in pixels.

    ``attributes`` is what else the dataset says of a photo (DeepFashion2: source, pair_id), the same names
    for each of its photos.
    """

    file_name: str
    image_id: int
    width: int
    height: int
    garments: Sequence[Garment]
    attributes: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Column:
    """What an array holds: a row for each of ``rows``, one more for offsets, which count ``counts``."""

    rows: str
    dtype: type
    shape: tuple[int, ...] = ()
    counts: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationTable:
    """The annotations of one split of N photos, G garments, L landmarks, P polygons, V vertices.

    Columns are numpy arrays, a row for each photo, garment, landmark, polygon or vertex as declared;
    offsets have one row more. Contents as in :class:`Photo` and :class:`Garment`; an attribute is a column of
    integers or strings.

    Raises:
        ValueError: when a column's type or shape, or an offset, a class or a landmark count is wrong.
    """

    schema: KeypointSchema

    file_name: Annotated[np.ndarray, _Column("photo", np.str_)]
    image_id: Annotated[np.ndarray, _Column("photo", np.int64)]
    width: Annotated[np.ndarray, _Column("photo", np.int32)]
    height: Annotated[np.ndarray, _Column("photo", np.int32)]
    garment_offsets: Annotated[np.ndarray, _Column("photo", np.int64, counts="garment")]

    category_id: Annotated[np.ndarray, _Column("garment", np.int32)]
    box: Annotated[np.ndarray, _Column("garment", np.float32, (4,))]
    keypoint_offsets: Annotated[np.ndarray, _Column("garment", np.int64, counts="keypoint")]
    polygon_offsets: Annotated[np.ndarray, _Column("garment", np.int64, counts="polygon")]

    keypoints: Annotated[np.ndarray, _Column("keypoint", np.float32, (3,))]
    vertex_offsets: Annotated[np.ndarray, _Column("polygon", np.int64, counts="vertex")]
    vertices: Annotated[np.ndarray, _Column("vertex", np.float32, (2,))]

    photo_attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    garment_attributes: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"photo": len(self.file_name)}
        for name, column in _COLUMNS.items():
            if column.counts:
                offsets = getattr(self, name)
                rising = offsets[:1].tolist() == [0] and (np.diff(offsets) >= 0).all()
                _require(rising, f"{name}: expected 0 first and no decrease")
                sizes[column.counts] = int(offsets[-1])
        for name, column in _COLUMNS.items():
            array, shape = getattr(self, name), (sizes[column.rows] + bool(column.counts), *column.shape)
            _require(array.shape == shape, f"{name}: expected shape {shape}, got {array.shape}")
            kind = column.dtype.__name__
            _require(np.issubdtype(array.dtype, column.dtype), f"{name}: expected {kind}, got {array.dtype}")
        _require(len(np.unique(self.image_id)) == len(self), "image_id: a number occurs twice")
        self._check_attributes(self.photo_attributes, sizes["photo"])
        self._check_attributes(self.garment_attributes, sizes["garment"])
        self._check_classes()

    @staticmethod
    def _check_attributes(attributes: Mapping[str, np.ndarray], rows: int) -> None:
        for name, array in attributes.items():
            _require(array.shape == (rows,), f"{name}: expected shape {(rows,)}, got {array.shape}")
            _require(array.dtype.kind in "iuU", f"{name}: expected integers or strings, got {array.dtype}")

    def _check_classes(self) -> None:
        last = self.schema.num_classes - 1
        in_range = (self.category_id >= 0) & (self.category_id <= last)
        _require(in_range.all(), f"category_id: expected 0..{last}, got {np.unique(self.category_id)}")
        counts = np.array([self.schema.num_class_keypoints(index) for index in range(last + 1)])
        fits = np.diff(self.keypoint_offsets) == counts[self.category_id]
        _require(fits.all(), f"keypoint_offsets: {(~fits).sum()} garments do not fit their class")

    def __len__(self) -> int:
        """N, the number of photos."""
        return len(self.file_name)

    @classmethod
    def from_photos(cls, photos: Sequence[Photo], schema: KeypointSchema) -> "AnnotationTable":
        """Columns of the photos, in their order."""
        garments = [garment for photo in photos for garment in photo.garments]
        polygons = [polygon for garment in garments for polygon in garment.polygons]
        ragged = {
            "garment_offsets": _cumulated(len(photo.garments) for photo in photos),
            "keypoint_offsets": _cumulated(len(garment.keypoints) for garment in garments),
            "polygon_offsets": _cumulated(len(garment.polygons) for garment in garments),
            "vertex_offsets": _cumulated(len(polygon) for polygon in polygons),
            "keypoints": _stacked((garment.keypoints for garment in garments), 3),
            "vertices": _stacked(polygons, 2),
        }
        rows = {"photo": photos, "garment": garments}
        plain = {}
        for name in _COLUMNS.keys() - ragged.keys():
            column = _COLUMNS[name]
            values = np.array([getattr(row, name) for row in rows[column.rows]], column.dtype)
            plain[name] = values.reshape(-1, *column.shape)
        return cls(
            schema=schema,
            photo_attributes=_attribute_columns(photos),
            garment_attributes=_attribute_columns(garments),
            **plain,
            **ragged,
        )

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all; its folder is made where it is missing."""
        columns = {stored_name(name): getattr(self, name) for name in _COLUMNS}
        for kind in _ATTRIBUTES:
            columns |= {f"{kind}.{name}": array for name, array in getattr(self, kind).items()}
        with atomic_write(path) as file:
            np.savez_compressed(file, format_version=FORMAT_VERSION, schema=self.schema.name, **columns)

    @classmethod
    def load(
        cls, path: str | Path, schema: KeypointSchema, *, prepare_command: str = ""
    ) -> "AnnotationTable":
        """Read and check a file that :meth:`save` wrote.

        Args:
            path: the file.
            schema: the schema it must be of.
            made_by: the command that makes the file, for the error when it is missing.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: another version or schema, a damaged file, columns that contradict one another.
        """
        hint = f" Make it with: {prepare_command}" if prepare_command else ""
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: there is no such annotation file.{hint}")
        try:
            _require(zipfile.is_zipfile(path), "truncated, or of another kind")
            with np.load(path, allow_pickle=False) as archive:
                _require_equal("format_version", FORMAT_VERSION, archive["format_version"].item())
                _require_equal("schema", schema.name, archive["schema"].item())
                columns = {name: archive[stored_name(name)] for name in _COLUMNS}
                return cls(schema=schema, **columns, **{kind: _stored(archive, kind) for kind in _ATTRIBUTES})
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: not a usable annotation file: {error}.{hint}") from error


_COLUMNS: dict[str, _Column] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(AnnotationTable, include_extras=True).items()
    if get_origin(hint) is Annotated
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_equal(name: str, expected: object, found: object) -> None:
    _require(found == expected, f"{name}: expected {expected!r}, got {found!r}")


def _stored(archive: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The attributes of a kind, by name."""
    return {name.removeprefix(f"{kind}."): archive[name] for name in archive if name.startswith(f"{kind}.")}


def _attribute_columns(rows: Sequence[Photo] | Sequence[Garment]) -> dict[str, np.ndarray]:
    names = rows[0].attributes.keys() if rows else ()
    for row in rows:
        _require(row.attributes.keys() == names, f"attributes: expected {[*names]}, got {[*row.attributes]}")
    return {name: np.array([row.attributes[name] for row in rows]) for name in names}


def _cumulated(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _stacked(arrays: Iterable[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.zeros((0, width), dtype=np.float32), *arrays], dtype=np.float32)
