"""The strict reading of all photos of a dataset, in several processes."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from kgdet_d2.data.images import read_image, read_strictly
from kgdet_d2.data.inspect.problems import DOUBLE_PHOTO, Kind, Problem, double_photos
from kgdet_d2.utils.processes import process_map

MISSING = Kind("missing photo", "has no file", is_error=True)
UNREAD = Kind("unread photo", "cannot be read: cut off, damaged, or no picture", is_error=True)
DAMAGED = Kind("damaged photo", "is read without an error, and yet damaged inside", is_error=True)
RESIZED = Kind(
    "photo of another size", "is, upright by EXIF, not of the size of its annotation", is_error=True
)
WARNED = Kind("photo with a warning", "makes its decoder warn, of bytes around those of the picture")
KINDS = (MISSING, UNREAD, DAMAGED, RESIZED, WARNED, DOUBLE_PHOTO)

_CHUNK = 16  # photos that a process reads at a time


class PhotoFile(NamedTuple):
    """A photo's file and its size by the annotation, in pixels."""

    path: str
    width: int
    height: int


class _Finding(NamedTuple):
    """What was found of one photo, None for nothing; its pixels' digest, None where they were not read."""

    kind: Kind | None
    reason: str
    digest: bytes | None


def check_photos(photos: Sequence[PhotoFile], *, workers: int) -> list[Problem]:
    """Read all photos strictly, with a progress bar, and compare their sizes and their pixels.

    Args:
        photos: N of them.
        workers: processes that read. One is a process of its own, too: see
            :func:`kgdet_d2.data.images.read_strictly`, which redirects standard error, where the bar is.

    Returns:
        The problems, of :data:`KINDS`; a photo that cannot be read is one.

    Raises:
        concurrent.futures.process.BrokenProcessPool: a worker was killed.
    """
    chunks = [photos[start : start + _CHUNK] for start in range(0, len(photos), _CHUNK)]
    findings: list[_Finding] = []
    with process_map(workers, always_apart=True) as map_chunks:
        # Processes start here, before the progress bar starts a thread, which a fork would not copy.
        results = map_chunks(_read_chunk, chunks)
        with tqdm(total=len(photos), desc="reading photos", unit="photo", smoothing=0.05) as bar:
            for chunk_findings in results:
                findings += chunk_findings
                bar.update(len(chunk_findings))
    problems = [
        Problem(finding.kind, row, finding.reason)
        for row, finding in enumerate(findings)
        if finding.kind is not None
    ]
    digests = [finding.digest for finding in findings]
    return problems + double_photos(digests, [photo.path for photo in photos])


def _read_chunk(photos: Sequence[PhotoFile]) -> list[_Finding]:
    return [_read_photo(photo) for photo in photos]


def _read_photo(photo: PhotoFile) -> _Finding:
    if not photo.path or not PathManager.isfile(photo.path):
        return _Finding(MISSING, "no such file", None)
    try:
        image, warning = read_strictly(photo.path)
    except RuntimeError as error:
        reason = str(error).removeprefix(f"{photo.path}: cannot read the image: ")
        return _Finding(DAMAGED if _is_read_leniently(photo.path) else UNREAD, reason, None)
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(image.data)
    height, width = image.shape[:2]
    if (width, height) != (photo.width, photo.height):
        reason = f"{width} x {height} pixels, {photo.width} x {photo.height} by the annotation"
        if (height, width) == (photo.width, photo.height):
            reason += ", which may leave out the EXIF orientation"
        return _Finding(RESIZED, reason, digest.digest())
    return _Finding(WARNED if warning else None, warning, digest.digest())


def _is_read_leniently(path: str) -> bool:
    """Return whether training would read a photo, as :func:`read_image` does."""
    try:
        read_image(path, "RGB")
    except RuntimeError:
        return False
    return True
