"""Files that are written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO


@contextmanager
def atomic_write(path: str | Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; it appears under its name when the block ends well, else not at all.

    Args:
        path: the file; its folder is made where there is none. An older file of the name stays until the
            block has ended.
        sync: have it on the disk before it appears, so that it is whole after a power failure, too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, report: object) -> None:
    """Write a report, indented, as a whole file.

    Args:
        path: the file; its folder is made where there is none.
        report: what JSON can express.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(report, indent=2).encode() + b"\n")


def write_json_array(file: IO[bytes], items: Iterable[object], *, allow_nan: bool = False) -> None:
    """Write items as one JSON array, an item a line; one item at a time is held as text.

    Args:
        file: open for writing bytes.
        items: what JSON can express, each.
        allow_nan: write NaN, which many readers take, though JSON has no such number.

    Raises:
        ValueError: a number that is not finite, unless that is allowed.
    """
    file.write(b"[")
    for number, item in enumerate(items):
        file.write(b",\n" if number else b"\n")
        file.write(json.dumps(item, allow_nan=allow_nan).encode())
    file.write(b"\n]\n")


def sha256(blocks: Iterable[bytes]) -> str:
    """Return the SHA-256 of blocks of bytes, one after another, in hexadecimal digits."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """Return a file's SHA-256, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return sha256(iter(lambda: file.read(2**20), b""))
