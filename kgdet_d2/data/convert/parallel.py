"""The reading of a native dataset's records by several processes into one split's annotation table."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from kgdet_d2.data.convert.records import PhotoRecord, RecordIssue
from kgdet_d2.data.convert.usable import Tally, usable_photos
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import offsets_from_lengths
from kgdet_d2.structures.annotations import AnnotationTable, columns_of_photos
from kgdet_d2.utils.processes import process_map

Record = TypeVar("Record")
ReadPhoto = Callable[[Record], tuple[PhotoRecord | None, list[RecordIssue]]]

_CHUNK = 64  # records that a process reads at a time


def read_photos(
    read: ReadPhoto,
    records: Sequence[Record],
    schema: KeypointSchema,
    *,
    source: Path,
    description: str,
    names: Mapping[str, str],
    workers: int = 1,
    strict: bool = False,
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read all records of a split, with a progress bar.

    What cannot be used is left out, as :func:`usable_photos` says. Processes send the columns of a chunk of
    photos at a time; no record is held as objects once it is read.

    Args:
        read: makes the photo of a record, or None when it cannot be used, and lists the problems met. With
            several workers it is called in other processes: a function of a module, or a ``partial`` of one.
            No two photos have the same image id.
        records: the arguments of ``read``: files, or lines of a list.
        schema: the landmarks.
        source: the file or folder that is read, for what concerns all of it.
        description: the progress bar's.
        names: the native names of the fields of a garment, by their names in :class:`Fault`.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos in the order of their records, and all problems in the same order; last a line for each
        attribute that some lack. An attribute that all lack is no column.

    Raises:
        ValueError: most garments of a class are lost; or any problem when ``strict``.
        concurrent.futures.process.BrokenProcessPool: a worker was killed.
    """
    chunks = [records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK)]
    parts: list[dict[str, Any]] = []
    problems: list[RecordIssue] = []
    tally = Tally()
    with process_map(workers) as map_chunks:
        # Processes start here, before the progress bar starts a thread, which a fork would not copy.
        results = map_chunks(partial(_read_chunk, read, schema, names), chunks)
        with tqdm(total=len(records), desc=description, unit="photo", smoothing=0.05) as bar:
            for chunk, (part, chunk_problems, chunk_tally) in zip(chunks, results, strict=True):
                if strict and chunk_problems:
                    raise ValueError(str(chunk_problems[0]))
                parts.append(part)
                problems += chunk_problems
                tally.add(chunk_tally)
                bar.update(len(chunk))
    tally.check_losses(source, schema)
    return _concatenate(parts, schema), problems + tally.missing_attributes(source)


def _read_chunk(
    read: ReadPhoto, schema: KeypointSchema, names: Mapping[str, str], records: Sequence[Record]
) -> tuple[dict[str, Any], list[RecordIssue], Tally]:
    photos, problems, tally = usable_photos(map(read, records), schema, names)
    return columns_of_photos(photos), problems, tally


def _concatenate(parts: Sequence[dict[str, Any]], schema: KeypointSchema) -> AnnotationTable:
    """Join the photos of all parts, one part after another."""
    parts = [columns_of_photos([]), *parts]
    joined: dict[str, Any] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name.endswith("_attributes"):
            rows = "file_name" if name == "photo_attributes" else "category_id"
            joined[name] = _concatenate_attributes(values, [len(part[rows]) for part in parts])
        elif name.endswith("_offsets"):
            joined[name] = offsets_from_lengths(np.concatenate([np.diff(offsets) for offsets in values]))
        else:
            joined[name] = np.concatenate(values)
    return AnnotationTable(schema=schema, **joined)


def _concatenate_attributes(
    parts: Sequence[dict[str, np.ndarray]], lengths: Sequence[int]
) -> dict[str, np.ndarray]:
    """Join the attributes' columns; a part without one has 0 or "" there."""
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(parts)):  # in order of first occurrence
        dtype = next(part[name].dtype for part in parts if name in part)
        columns[name] = np.concatenate(
            [part.get(name, np.zeros(length, dtype)) for part, length in zip(parts, lengths, strict=True)]
        )
    return columns
