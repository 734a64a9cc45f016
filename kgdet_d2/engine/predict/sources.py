"""The photos that are to be predicted: files, folders, patterns, lists, films and registered datasets."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import DatasetCatalog
from PIL import Image, UnidentifiedImageError

FILM_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})


class Source(NamedTuple):
    """A photo, or a picture of a film.

    Attributes:
        path: of the file.
        name: of the photo in what is written: the path below the folder that all inputs share, with / between
            folders; of a film with the picture's number behind it.
        image_id: for COCO results.
        frame: index of a film's picture; None for photos.
    """

    path: str
    name: str
    image_id: int
    frame: int | None = None


def find_sources(inputs: Sequence[str], list_file: str | None) -> list[Source]:
    """Return the photos of all inputs, each file once, in the order of the inputs, folders sorted.

    Args:
        inputs: files, folders (with all that is below them) and patterns, such as ``photos/**/*.jpg``.
        list_file: a file with a path a line, "-" for the standard input; None for none.

    Raises:
        FileNotFoundError: an input does not exist, or a pattern or folder has no photo.
        ValueError: there is no input, or a film that cannot be read.
    """
    found: dict[str, str] = {}  # absolute path -> the folder that it counts from
    for text in [*inputs, *_lines(list_file)]:
        files = list(_expand(text))
        if not files:
            raise FileNotFoundError(f"{text}: expected photos or films there, found none")
        folder = text if os.path.isdir(text) else None
        for path in map(os.path.abspath, files):
            found.setdefault(path, os.path.abspath(folder or os.path.dirname(path)))
    if not found:
        raise ValueError("expected photos: files, folders, patterns, --list or --dataset; got none")
    base = os.path.commonpath(list(found.values()))
    return _numbered(_pictures(found, base))


def dataset_sources(name: str) -> list[Source]:
    """Return the photos of a registered dataset, with its ids."""
    records = DatasetCatalog.get(name)
    paths = [os.path.abspath(record["file_name"]) for record in records]
    base = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [
        Source(path, _name(path, base), record["image_id"])
        for path, record in zip(paths, records, strict=True)
    ]


def _lines(list_file: str | None) -> list[str]:
    if list_file is None:
        return []
    text = sys.stdin.read() if list_file == "-" else Path(list_file).read_text()
    return [line for line in text.splitlines() if line.strip()]


def _expand(text: str) -> Iterator[str]:
    """Generate the files of an input; of folders and patterns those that look like photos or films."""
    if os.path.isfile(text):
        yield text
        return
    pattern = os.path.join(glob.escape(text), "**", "*") if os.path.isdir(text) else text
    for path in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isfile(path) and _is_likely(path):
            yield path


def _is_likely(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    return suffix in FILM_SUFFIXES or suffix in Image.registered_extensions()


def _name(path: str, base: str) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def _pictures(found: Iterable[str], base: str) -> Iterator[tuple[str, str, int | None]]:
    """Generate path, name and frame of each photo, and of each picture of a film."""
    for path in found:
        name = _name(path, base)
        if Path(path).suffix.lower() not in FILM_SUFFIXES:
            yield path, name, None
            continue
        for frame in range(_count_frames(path)):
            yield path, f"{name}/{frame:06d}", frame


def _numbered(pictures: Iterable[tuple[str, str, int | None]]) -> list[Source]:
    return [Source(path, name, number, frame) for number, (path, name, frame) in enumerate(pictures, start=1)]


def _count_frames(path: str) -> int:
    """Count by reading: what a film says of itself is not always true."""
    film, count = cv2.VideoCapture(path), 0
    try:
        while film.grab():
            count += 1
    finally:
        film.release()
    if not count:
        raise ValueError(f"{path}: expected a film that OpenCV reads, found no picture in it")
    return count


class FilmReader:
    """Reads the pictures of films one after another; going back starts a film again."""

    def __init__(self) -> None:
        self._path, self._next = "", 0
        self._film: cv2.VideoCapture | None = None

    def read(self, path: str, frame: int) -> np.ndarray:
        """Return a picture, uint8 (H, W, 3) in RGB.

        Raises:
            RuntimeError: there is no such picture.
        """
        if path != self._path or frame < self._next or self._film is None:
            self._film, self._path, self._next = cv2.VideoCapture(path), path, 0
        read, picture = True, None
        while read and self._next <= frame:
            last = self._next == frame
            read, picture = self._film.read() if last else (self._film.grab(), None)
            self._next += 1
        if not read or picture is None:
            raise RuntimeError(f"{path}: cannot read picture {frame}")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def stated_size(source: Source) -> tuple[int, int]:
    """Return the height and width in a photo's header, zeros where there is none or of a film."""
    if source.frame is not None:
        return 0, 0
    try:
        with Image.open(source.path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0  # reading the whole photo reports what is wrong with it
