"""The photos that are to be predicted: files, folders, patterns, lists, URIs, films, registered datasets."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from detectron2.data import DatasetCatalog
from PIL import Image

from kgdet_d2.engine.predict.file_systems import is_uri, list_uri
from kgdet_d2.engine.predict.films import FILM_SUFFIXES, count_pictures


class Source(NamedTuple):
    """A photo, or a picture of a film.

    Attributes:
        path: of the file, or its URI.
        name: of the photo in what is written: the path below the folder that all inputs share, with / between
            folders; of a film with the picture's number behind it.
        image_id: for COCO results.
        frame: index of a film's picture; None for photos.
    """

    path: str
    name: str
    image_id: int
    frame: int | None = None


def find_sources(inputs: Sequence[str], list_file: str | None, *, output: Path | None = None) -> list[Source]:
    """Return the photos of all inputs, each file once, in the order of the inputs, folders sorted.

    Args:
        inputs: files, folders (with all that is below them), patterns, such as ``photos/**/*.jpg``, and URIs
            of photos and of folders.
        list_file: a file with such an input a line, "-" for the standard input; None for none. A photo of it
            that does not exist counts, for it is reported when it is read.
        output: what is in this folder is no input.

    Raises:
        FileNotFoundError: an input does not exist, or a pattern or folder has no photo.
        OSError: a folder cannot be read.
        ValueError: there is no input, or a URI of no known kind.
    """
    found: dict[str, str] = {}  # absolute path -> the folder that it counts from
    for text, listed in [*((text, False) for text in inputs), *((line, True) for line in _lines(list_file))]:
        expanded, folder = _expand(text)
        if not expanded and listed and _is_likely(text) and not has_magic(text):
            expanded = [text]
        files = [path for path in map(_absolute, expanded) if output is None or not _is_in(path, output)]
        if not files:
            raise FileNotFoundError(f"{text}: expected photos or films, outside of --output; found none")
        for path in files:
            found.setdefault(path, _absolute(folder) if folder else os.path.dirname(path))
    if not found:
        raise ValueError("expected photos: files, folders, patterns, --list or --dataset; got none")
    base = os.path.commonpath({_place(folder) for folder in found.values()})
    return _numbered(_pictures(found, base))


def dataset_sources(name: str) -> list[Source]:
    """Return the photos of a registered dataset, with its ids."""
    records = DatasetCatalog.get(name)
    paths = [_absolute(record["file_name"]) for record in records]
    base = os.path.commonpath({os.path.dirname(_place(path)) for path in paths}) if paths else ""
    return [
        Source(path, _name(path, base), record["image_id"])
        for path, record in zip(paths, records, strict=True)
    ]


def _lines(list_file: str | None) -> list[str]:
    """Return the lines of a list; zero bytes, as ``find -print0`` writes them, end lines, too."""
    if list_file is None:
        return []
    content = sys.stdin.buffer.read() if list_file == "-" else Path(list_file).read_bytes()
    text = os.fsdecode(content)
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]


# --- inputs ---


def _expand(text: str) -> tuple[list[str], str | None]:
    """Return the files of an input, and the folder that it is, if any.

    Of folders and patterns those files count that look like photos or films and are not hidden.
    """
    if is_uri(text):
        return _expand_uri(text.rstrip("/"))
    if os.path.isfile(text):
        return [text], None
    if os.path.isdir(text):
        return sorted(filter(_is_likely, _files_below(text))), text
    anchor = Path(text).anchor
    # Unlike glob's, pathlib's ** follows no links, so that it comes to an end.
    paths = map(str, Path(anchor or ".").glob(os.path.relpath(text, anchor) if anchor else text))
    hidden_too = "/." in f"/{text}"
    return sorted(
        path
        for path in paths
        if os.path.isfile(path) and _is_likely(path) and (hidden_too or "/." not in f"/{path}")
    ), None


def _expand_uri(uri: str) -> tuple[list[str], str | None]:
    if _is_likely_photo(uri):  # no request for each of a million
        return [uri], None
    files = list_uri(uri)
    if files == [uri]:
        return files, None
    return [file for file in files if _is_likely_photo(file) and "/." not in file[len(uri) :]], uri


def _files_below(folder: str) -> Iterator[str]:
    """Generate all files but hidden ones, of each folder once where links lead to it again."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (os.path.join(place, name) for name in files if not name.startswith(".")):
            # A link that leads nowhere is reported when it is read; reading a pipe would not end.
            if os.path.isfile(path) or os.path.islink(path):
                yield path


def _raise(error: OSError) -> None:
    raise error


def _is_likely(path: str) -> bool:
    return Path(path).suffix.lower() in FILM_SUFFIXES or _is_likely_photo(path)


def _is_likely_photo(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    return suffix not in FILM_SUFFIXES and Image.registered_extensions().get(suffix) in Image.OPEN


def _is_in(path: str, folder: Path) -> bool:
    if is_uri(path):
        return False
    real = _real(str(folder))
    return os.path.commonpath([real, _real(os.path.dirname(path))]) == real


@lru_cache(maxsize=1000)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


# --- names ---


def as_text(path: str) -> str:
    """Return a path, or a text with one, as Unicode can express it: other bytes as backslash escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _absolute(path: str) -> str:
    return path.rstrip("/") if is_uri(path) else os.path.abspath(path)


def _place(path: str) -> str:
    """Return where a file is in one tree of all local disks and URIs."""
    return os.path.normpath(f"/{path}") if is_uri(path) else path


def _name(path: str, base: str) -> str:
    return as_text(_place(path).removeprefix(base).lstrip("/"))


def _pictures(found: Iterable[str], base: str) -> Iterator[tuple[str, str, int | None]]:
    """Generate path, name and frame of each photo, and of each picture of a film."""
    for path in found:
        name = _name(path, base)
        if Path(path).suffix.lower() not in FILM_SUFFIXES:
            yield path, name, None
            continue
        for frame in range(count_pictures(path)):
            yield path, f"{name}/{frame:06d}", frame


def _numbered(pictures: Iterable[tuple[str, str, int | None]]) -> list[Source]:
    return [Source(path, name, number, frame) for number, (path, name, frame) in enumerate(pictures, start=1)]
