"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; it appears under its name when the block ends well, else not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, report: object) -> None:
    """Write a report, indented, as a whole file."""
    with atomic_write(path) as file:
        file.write(json.dumps(report, indent=2).encode() + b"\n")


def write_json_array(file: BinaryIO, items: Iterable[object]) -> None:
    """Write items as one JSON array, an item a line; one item at a time is held as text.

    Raises:
        ValueError: a number that is not finite, for which JSON has no word.
    """
    file.write(b"[")
    for number, item in enumerate(items):
        file.write(b",\n" if number else b"\n")
        file.write(json.dumps(item, allow_nan=False).encode())
    file.write(b"\n]\n")
