"""Checks of the records of native datasets, and the report of records that fail them."""

import codecs
import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image
from tabulate import tabulate

from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.utils.io import atomic_write

_SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
_LARGE = 2**24  # pixels; up to here float32 holds every whole number
_MARGIN = 0.1  # of the photo's longer side
_TAIL = 4096  # bytes
_REPORT_COLUMNS = ("path", "item", "lost", "kind", "reason")
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class RecordError(ValueError):
    """A part of a record that cannot be used.

    Args:
        kind: a few words that many records share, to be counted.
        reason: the field, what was expected and what was found.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class RecordIssue:
    """A line of the report.

    Attributes:
        path: the annotation file, or the photo where the fault is the photo's.
        item: the part of it, "" for all of it.
        dropped: what was left out because of it: photo, garment, landmark, polygon, attribute or nothing.
        kind: as in :class:`RecordError`.
        reason: as in :class:`RecordError`.
    """

    path: Path
    item: str
    dropped: str
    kind: str
    reason: str

    @classmethod
    def of(cls, error: RecordError, path: Path, item: str, dropped: str) -> "RecordIssue":
        """Make the line of an error."""
        return cls(path, item, dropped, error.kind, error.reason)

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.path), self.item, self.reason)))


# --- checks; each raises RecordError unless it says otherwise ---


def field(content: dict, name: str, kind: type[Any]) -> Any:
    """Return a value of a JSON object, of exactly that type; an int also fits 64 bits."""
    if name not in content:
        raise RecordError("field missing", f"{name} is missing")
    value = content[name]
    if type(value) is not kind:  # isinstance would take true for an int
        raise RecordError("wrong type", f"{name}: expected {kind.__name__}, got {shortened(value)}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise RecordError("number too large", f"{name}: expected 64 bits, got {shortened(value)}")
    return value


def numbers(name: str, values: Any, length: int | None = None, *, kind: str = "wrong length") -> np.ndarray:
    """Convert a flat list of ``length`` finite numbers to float32.

    Args:
        name: the field's, for errors.
        values: the list.
        length: None for any.
        kind: the kind of the error about another length.
    """
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise RecordError("wrong type", f"{name}: expected a list of numbers, got {shortened(values)}")
    if length is not None and len(values) != length:
        raise RecordError(kind, f"{name}: expected {length} numbers, got {len(values)}")
    # Not all(): NaN is in no order with anything, so that min and max would depend on where it stands.
    if not all(-_LARGE < value < _LARGE for value in values):
        raise RecordError(
            "number not finite or too large",
            f"{name}: expected finite numbers below {_LARGE}, got {shortened(values)}",
        )
    return np.array(values, dtype=np.float32)


def check_box(name: str, box: np.ndarray, width: int, height: int) -> None:
    """Check that a box x1 y1 x2 y2 in pixels has area and meets the photo."""
    x1, y1, x2, y2 = box.tolist()
    if not (x1 < x2 and y1 < y2):
        raise RecordError("box without area", f"{name}: expected x1 < x2 and y1 < y2, got {box.tolist()}")
    if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
        raise RecordError(
            "box outside the photo",
            f"{name}: expected a part in the photo of {width} x {height} pixels, got {box.tolist()}",
        )


def check_visibility(keypoints: np.ndarray) -> None:
    """Check that the v of landmarks (K_c, 3) is 0, 1 or 2."""
    wrong = set(keypoints[:, 2].tolist()) - {0, 1, 2}
    if wrong:
        raise RecordError(
            "visibility",
            f"landmarks: expected visibility 0, 1 or 2, got {', '.join(map(repr, sorted(wrong)))}",
        )


def drop_far_keypoints(
    keypoints: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, list[RecordError]]:
    """Zero the labelled landmarks that stand more than a tenth of the photo's longer side outside it.

    Args:
        keypoints: (K_c, 3) of x, y, v in pixels.
        width: of the photo, in pixels.
        height: of the photo, in pixels.

    Returns:
        Landmarks (K_c, 3), and the reason for each one that was zeroed.
    """
    points, size = keypoints[:, :2], np.array((width, height))
    margin = _MARGIN * size.max()
    far = ((points < -margin) | (points > size + margin)).any(axis=1) & (keypoints[:, 2] > 0)
    if not far.any():
        return keypoints, []
    errors = [
        RecordError(
            "landmark far outside the photo",
            f"landmark {index + 1}: expected at most {margin:g} pixels outside the photo of "
            f"{width} x {height}, got {points[index].tolist()}",
        )
        for index in np.flatnonzero(far).tolist()
    ]
    return np.where(far[:, None], np.float32(0), keypoints), errors


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels of the image that Detectron2 reads, without decoding it.

    The end of a JPEG or PNG is checked as well: a file that was cut off anywhere after its header has no end
    marker behind it. Bytes that follow the end do not matter. Damage within is not detected.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            width, height = image.size
            if not _has_end(file, _END_MARKERS.get(image.format or "", b"")):
                raise RecordError("image truncated", f"{path.name}: the {image.format} end marker is missing")
            return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)
    except FileNotFoundError:
        raise RecordError("image missing", f"{path}: there is no such photo") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise RecordError("not an image", f"{path.name}: {error}") from error


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds for a damaged EXIF block, which read_image ignores too
        return None


def _has_end(file: BinaryIO, marker: bytes) -> bool:
    """Find the marker behind the header, at whose end Pillow left the file.

    A thumbnail's own end stands in the header. Compressed data never holds a JPEG's marker.
    """
    header, size = file.tell(), file.seek(0, os.SEEK_END)
    for start in (max(header, size - _TAIL), header):
        file.seek(start)
        if marker in file.read():
            return True
    return False


# --- the report ---


def write_report(file: BinaryIO, problems: Iterable[RecordIssue]) -> None:
    """Write tab-separated columns path, item, lost (dropped), kind, reason, named in the first line."""
    text = codecs.getwriter("utf-8")(file, "backslashreplace")
    writer = csv.writer(text, csv.excel_tab, lineterminator="\n")
    writer.writerow(_REPORT_COLUMNS)
    writer.writerows(map(astuple, problems))


def write_split(
    folder: Path,
    split: str,
    annotations: AnnotationTable,
    problems: Sequence[RecordIssue],
    others: Mapping[str, Callable[[BinaryIO], None]] | None = None,
) -> None:
    """Write ``<split>.npz``, ``<split>_report.tsv`` and other files by name, all or none; print counts.

    An interruption leaves what was there before, but for one in the moment in which all are renamed.
    """
    file, report = folder / f"{split}.npz", folder / f"{split}_report.tsv"
    with ExitStack() as stack:
        for name, write in (others or {}).items():
            write(stack.enter_context(atomic_write(folder / name)))
        write_report(stack.enter_context(atomic_write(report)), problems)
        annotations.save(file)
    print(f"{file}: {len(annotations)} photos, {len(annotations.category_id)} garments")
    if problems:
        print(f"{report}: {len(problems)} problems\n{count_problems(problems)}", file=sys.stderr)


def count_problems(problems: Iterable[RecordIssue]) -> str:
    """Make a table of the kinds of problems, what each has left out, and how often."""
    counts = Counter((problem.kind, problem.dropped) for problem in problems)
    rows = [(kind, dropped, count) for (kind, dropped), count in counts.most_common()]
    return tabulate(rows, ("problem", "left out", "times"))
