"""Photos that lie at URIs, such as s3://bucket/photos: any file system of pyarrow's or fsspec's.

Credentials and endpoints are read from the environment, as each file system does.
"""

import io
import re
from functools import lru_cache
from typing import Any, BinaryIO

import pyarrow as pa
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from pyarrow.fs import FileSelector, FileSystem, FileType, FSSpecHandler, PyFileSystem

_ROOT = re.compile(r"([a-z][a-z0-9+.-]*://)[^/]*")
_READ_BY_DETECTRON2 = frozenset({"http://", "https://", "ftp://"})


def is_uri(path: str) -> bool:
    """Return whether a path is a URI, and not one of a local disk."""
    return _ROOT.match(path) is not None


def list_uri(uri: str) -> list[str]:
    """Return the URI of the file, or of all files below the folder, sorted; none where there is nothing.

    Raises:
        OSError: it cannot be listed.
        ValueError: no file system is known for it, or its package is missing.
    """
    uri = uri.rstrip("/")
    system, path = _resolve(uri)
    found = system.get_file_info(path)
    if found.type == FileType.File:
        return [uri]
    if found.type == FileType.NotFound:
        return []
    below = system.get_file_info(FileSelector(path, recursive=True))
    return sorted(uri + info.path[len(path) :] for info in below if info.type == FileType.File)


def let_photos_be_read_from(uri: str) -> None:
    """Register the URI's scheme with Detectron2's PathManager, through which photos are read."""
    _register(_root(uri)[1])


class _UriHandler(PathHandler):
    """Reads the files of one scheme, each whole."""

    def __init__(self, prefix: str):
        super().__init__()
        self._prefix = prefix

    def _get_supported_prefixes(self) -> list[str]:
        return [self._prefix]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> BinaryIO:
        system, name = _resolve(path)
        try:
            with system.open_input_stream(name) as stream:
                return _Content(stream.read())
        except Exception as error:  # each file system of fsspec raises its own
            raise OSError(f"{type(error).__name__}: {error}") from error


class _Content(io.BytesIO):
    """What a file holds; Pillow names it in errors, which are to be the same in each run."""

    def __repr__(self) -> str:
        return f"of {len(self.getbuffer())} bytes"


@lru_cache
def _register(prefix: str) -> None:
    if prefix not in _READ_BY_DETECTRON2:
        PathManager.register_handler(_UriHandler(prefix))


def _root(uri: str) -> tuple[str, str]:
    """Return the URI up to its path, and its scheme, with ://."""
    match = _ROOT.match(uri)
    assert match is not None, uri
    return match[0], match[1]


def _resolve(uri: str) -> tuple[FileSystem, str]:
    """Return the file system, and the path in it. Names are taken as they are, with spaces and %."""
    root = _root(uri)[0]
    system, base = _file_system(root)
    return system, base + uri[len(root) :]


@lru_cache
def _file_system(root: str) -> tuple[FileSystem, str]:
    """Return a file system, and the path in it that the root of a URI stands for."""
    try:
        system, base = FileSystem.from_uri(f"{root}/")
    except pa.ArrowInvalid:  # of no scheme that pyarrow knows
        system, base = _fsspec_file_system(root)
    return system, base.rstrip("/")


def _fsspec_file_system(root: str) -> tuple[FileSystem, str]:
    import fsspec

    try:
        system, base = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{root}: neither pyarrow nor fsspec can open it: {error}") from error
    return PyFileSystem(FSSpecHandler(system)), base
