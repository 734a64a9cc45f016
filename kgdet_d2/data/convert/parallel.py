"""Many records of a native tree read by many processes into one split's columns."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from kgdet_d2.data.convert.records import RecordIssue
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable, Photo

Record = TypeVar("Record")
ReadPhoto = Callable[[Record], tuple[Photo | None, list[RecordIssue]]]

_CHUNK = 64  # records that a process reads at a time


def default_workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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

    Processes send columns of some photos at a time; no record is held as objects once it is read.

    Args:
        read: makes the photo of a record, or None when it cannot be used, and lists the problems met. With
            several workers it is called in other processes: a function of a module, or a ``partial`` of one.
        records: what ``read`` takes: files, or lines of a list.
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
    parts, problems = [], []
    with _process_map(workers) as process_map:
        # Processes start here, before the progress bar starts a thread, which a fork would not copy.
        results = process_map(partial(_read_chunk, read, schema), chunks)
        with tqdm(total=len(records), desc=description, unit="photo", smoothing=0.05) as bar:
            for chunk, (part, found) in zip(chunks, results, strict=True):
                if strict and found:
                    raise ValueError(str(found[0]))
                parts.append(part)
                problems += found
                bar.update(len(chunk))
    return _concatenate(parts, schema), problems


@contextmanager
def _process_map(workers: int) -> Iterator[Callable]:
    """``map``, run by that many processes and in order; leaving the block cancels what is not begun."""
    if workers == 1:
        yield map
        return
    # Ctrl-C reaches every process of the terminal; this one alone answers it.
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield partial(_submitted, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, function: Callable, arguments: Iterable) -> Iterator:
    """The executor's own ``map`` cancels in this thread what its manager marks as failed in another.

    When a worker is killed the two meet, the manager dies, and the other workers are waited for for ever.
    """
    futures = [pool.submit(function, argument) for argument in arguments]
    return (future.result() for future in futures)


def _read_chunk(
    read: ReadPhoto, schema: KeypointSchema, records: Sequence[Record]
) -> tuple[dict[str, Any], list[RecordIssue]]:
    photos, problems = [], []
    for record in records:
        photo, found = read(record)
        problems += found
        if photo is not None:
            photos.append(photo)
    return _columns(photos, schema), problems


def _columns(photos: Sequence[Photo], schema: KeypointSchema) -> dict[str, Any]:
    """All but the schema, of which each part would bring a copy from its process."""
    columns = dict(vars(AnnotationTable.from_photos(photos, schema)))
    del columns["schema"]
    return columns


def _concatenate(parts: Sequence[dict[str, Any]], schema: KeypointSchema) -> AnnotationTable:
    """The photos of all parts, one part after another."""
    parts = [_columns([], schema), *parts]
    joined = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name.endswith("_attributes"):
            # A part without rows has no attributes.
            joined[name] = {
                attribute: np.concatenate([value[attribute] for value in values if attribute in value])
                for attribute in dict.fromkeys(chain.from_iterable(values))
            }
        elif name.endswith("_offsets"):
            joined[name] = np.cumsum(np.concatenate([[0], *map(np.diff, values)]))
        else:
            joined[name] = np.concatenate(values)
    return AnnotationTable(schema=schema, **joined)
