"""Records of native datasets as their readers find them, and the report of what is wrong with them."""

import codecs
import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image
from tabulate import tabulate

from kgdet_d2.data.images import open_image
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.validation import LARGE
from kgdet_d2.utils.check import whole_number
from kgdet_d2.utils.io import atomic_write

_SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that exchange width and height
_TAIL = 4096  # bytes
REGION = "garment (region to ignore)"
_REPORT_COLUMNS = ("path", "item", "lost", "kind", "reason")
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class RecordError(ValueError):
    """A part of a record that cannot be used.

    Args:
        kind: a few words that many records share, to be counted.
        reason: the field, what was expected and what was found.
        path: the file, where it is not the photo's annotation file.
    """

    def __init__(self, kind: str, reason: str, path: Path | None = None) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason, self.path = kind, reason, path

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class RecordIssue:
    """A line of the report.

    Attributes:
        path: the annotation file, or the photo where the fault is the photo's.
        item: the part of it, "" for all of it.
        dropped: what was lost by it: the photo; the garment, which became a region to ignore (``REGION``); a
            landmark, polygon or attribute of it; or nothing.
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


@dataclass(kw_only=True, eq=False)
class GarmentRecord:
    """A garment as a reader found it; :func:`kgdet_d2.data.convert.usable.usable_photos` checks its values.

    A reader fills in what it can read, class and box first, and sets ``error`` where it can go no further.

    Attributes:
        item: the part of the file that it is, for the report.
        category_id: class index; -1 where it cannot be read.
        box: float32 (4,), x1 y1 x2 y2 in pixels; None where it cannot be read, or the class is not certain.
        keypoints: float32 (n, 3), x y v; None where none is labelled.
        polygons: float32 (V, 2) each.
        attributes: those that it has; 0 or "" where the value is not usable.
        iscrowd: it is a region to ignore.
        error: why it cannot be used, where its reader knows.
        paths: the files of its fields, named as in :class:`Fault`, that are not in the photo's file.
    """

    item: str
    category_id: int = -1
    box: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    polygons: Sequence[np.ndarray] = ()
    attributes: dict[str, int | str] = dataclass_field(default_factory=dict)
    iscrowd: bool = False
    error: RecordError | None = None
    paths: Mapping[str, Path] = dataclass_field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class PhotoRecord:
    """A photo as a reader found it: as :class:`Photo`, and the annotation file, for the report."""

    path: Path
    file_name: str
    image_id: int
    width: int
    height: int
    garments: Sequence[GarmentRecord]
    attributes: Mapping[str, int | str] = dataclass_field(default_factory=dict)


# --- values; each raises RecordError unless it says otherwise ---


def field(content: dict, name: str, kind: type[Any]) -> Any:
    """Return a value of a JSON object, of exactly that type."""
    if name not in content:
        raise RecordError("field missing", f"{name} is missing")
    value = content[name]
    if type(value) is not kind:
        raise RecordError("wrong type", f"{name}: expected {kind.__name__}, got {shortened(value)}")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object of JSON's pairs, for ``object_pairs_hook``, where no name occurs twice."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise RecordError("field occurs twice", f"a name occurs twice among {[name for name, _ in pairs]}")
    return content


def integer(content: dict, name: str) -> int:
    """Return a whole number of a JSON object, see :func:`whole_number`."""
    if name not in content:
        raise RecordError("field missing", f"{name} is missing")
    try:
        return whole_number(content[name])
    except ValueError as error:
        raise RecordError("wrong type", f"{name}: {error}") from error


def numbers(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """Convert a flat list of ``length`` numbers to float32; what is too large becomes infinite.

    Args:
        name: the field's, for errors.
        values: the list.
        length: None for any.
    """
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise RecordError("wrong type", f"{name}: expected a list of numbers, got {shortened(values)}")
    if length is not None and len(values) != length:
        raise RecordError("wrong length", f"{name}: expected {length} numbers, got {len(values)}")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.float32)
    except OverflowError:  # an int beyond float64
        return np.array([value if -LARGE < value < LARGE else np.inf for value in values], np.float32)


def landmarks(name: str, values: Any) -> np.ndarray:
    """Convert a flat list of x, y and v of any number of landmarks to float32 (n, 3)."""
    found = numbers(name, values)
    if len(found) % 3:
        reason = f"{name}: expected x, y and v of each landmark, got {len(found)} numbers"
        raise RecordError("landmark count", reason)
    return found.reshape(-1, 3)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels of the image that Detectron2 reads, without decoding it.

    The end of a JPEG or PNG is checked as well: a file that was cut off anywhere after its header has no end
    marker behind it. Bytes that follow the end do not matter. Damage within is not detected.
    """
    try:
        with open(path, "rb") as file, open_image(file) as image:
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
    regions = int(annotations.iscrowd.sum())
    garments = annotations.num_garments - regions
    print(f"{file}: {len(annotations)} photos, {garments} garments, {regions} regions to ignore")
    if problems:
        print(f"{report}: {len(problems)} problems\n{count_problems(problems)}", file=sys.stderr)


def count_problems(problems: Iterable[RecordIssue]) -> str:
    """Make a table of the kinds of problems, what each has left out, and how often."""
    counts = Counter((problem.kind, problem.dropped) for problem in problems)
    rows = [(kind, dropped, count) for (kind, dropped), count in counts.most_common()]
    return tabulate(rows, ("problem", "left out", "times"))
