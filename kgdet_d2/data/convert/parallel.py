"""The reading of a native dataset's records by several processes into one split's annotation table."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from kgdet_d2.data.convert.records import RecordIssue
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable, Photo
from kgdet_d2.utils.processes import process_map

Record = TypeVar("Record")
ReadPhoto = Callable[[Record], tuple[Photo | None, list[RecordIssue]]]

_CHUNK = 64  # records that a process reads at a time


def read_photos(
    read: ReadPhoto,
    records: Sequence[Record],
    schema: KeypointSchema,
    *,
    description: str,
    workers: int = 1,
    strict: bool = False,
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read all records of a split, with a progress bar.

    Processes send the columns of a chunk of photos at a time; no record is held as objects once it is read.

    Args:
        read: makes the photo of a record, or None when it cannot be used, and lists the problems met. With
            several workers it is called in other processes: a function of a module, or a ``partial`` of one.
        records: the arguments of ``read``: files, or lines of a list.
        schema: the landmarks.
        description: the progress bar's.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos in the order of their records, and all problems in the same order.

    Raises:
        ValueError: any problem when ``strict``.
        concurrent.futures.process.BrokenProcessPool: a worker was killed.
    """
    chunks = [records[start : start + _CHUNK] for start in range(0, len(records), _CHUNK)]
    parts: list[dict[str, Any]] = []
    problems: list[RecordIssue] = []
    with process_map(workers) as map_chunks:
        # Processes start here, before the progress bar starts a thread, which a fork would not copy.
        results = map_chunks(partial(_read_chunk, read, schema), chunks)
        with tqdm(total=len(records), desc=description, unit="photo", smoothing=0.05) as bar:
            for chunk, (part, chunk_problems) in zip(chunks, results, strict=True):
                if strict and chunk_problems:
                    raise ValueError(str(chunk_problems[0]))
                parts.append(part)
                problems += chunk_problems
                bar.update(len(chunk))
    return _concatenate(parts, schema), problems


def _read_chunk(
    read: ReadPhoto, schema: KeypointSchema, records: Sequence[Record]
) -> tuple[dict[str, Any], list[RecordIssue]]:
    photos: list[Photo] = []
    problems: list[RecordIssue] = []
    for record in records:
        photo, record_problems = read(record)
        problems += record_problems
        if photo is not None:
            photos.append(photo)
    return _columns(photos, schema), problems


def _columns(photos: Sequence[Photo], schema: KeypointSchema) -> dict[str, Any]:
    """Make the columns of photos, without the schema, of which each process would send a copy."""
    table = AnnotationTable.from_photos(photos, schema)
    return {column.name: getattr(table, column.name) for column in fields(table) if column.name != "schema"}


def _concatenate(parts: Sequence[dict[str, Any]], schema: KeypointSchema) -> AnnotationTable:
    """Join the photos of all parts, one part after another."""
    parts = [_columns([], schema), *parts]
    joined: dict[str, Any] = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name.endswith("_attributes"):
            joined[name] = _concatenate_attributes(values)
        elif name.endswith("_offsets"):
            lengths = [np.diff(offsets) for offsets in values]
            joined[name] = np.cumsum(np.concatenate([[0], *lengths]))
        else:
            joined[name] = np.concatenate(values)
    return AnnotationTable(schema=schema, **joined)


def _concatenate_attributes(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the attributes' columns; a part without rows has no attributes."""
    names = dict.fromkeys(chain.from_iterable(parts))  # in order of first occurrence
    return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
