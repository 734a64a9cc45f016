"""Archives, which may be damaged, or say that they hold more than a machine has room for."""

import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

from kgdet_d2.utils.check import check

# What zipfile raises for damaged archives, and numpy for damaged headers of arrays in them.
DAMAGED = (
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_unpacked_size(size: int) -> None:
    """Check that a file that unpacks to ``size`` bytes can be read.

    Raises:
        ValueError: it is more than the machine's memory.
    """
    memory = physical_memory()
    check(
        size <= memory, f"unpacks to {size / 1e9:,.1f} GB, this machine has {memory / 1e9:,.1f} GB of memory"
    )


def unpacked_size(path: str | Path) -> int:
    """Return the bytes of an archive's members; 0 for another file, or a damaged one, left to its reader."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except DAMAGED:
        return 0


def is_whole_archive(path: str | Path) -> bool:
    """Return whether a file is there that is an archive to its end, with all its check sums right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except DAMAGED:
        return False
