"""The reading of FLD's native text lists: each photo's split, the box and the landmarks of its garment.

A list has the number of its rows in line 1, the names of its columns in line 2, then a row for each photo
that begins with the photo's name below the root, ``img/img_00000001.jpg``. FLD does not document whose left
its left landmarks are; in the frontal photos that were inspected, it is the image's.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kgdet_d2.data.convert.parallel import read_photos
from kgdet_d2.data.convert.records import (
    GarmentRecord,
    PhotoRecord,
    RecordError,
    RecordIssue,
    image_size,
    landmarks,
    numbers,
)
from kgdet_d2.schema import FLD
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.utils.check import whole_number

BOXES, LANDMARKS, PARTITION = "Anno/list_bbox.txt", "Anno/list_landmarks.txt", "Eval/list_eval_partition.txt"
SPLITS = ("train", "val", "test")
_NUM_VARIATIONS = 5  # variation_type: normal, medium, large pose, medium, large zoom-in
_UNKNOWN = 0  # in the place of a variation_type that is wrong
_NAMES = {"bbox": "box", "keypoints": "landmarks"}

_Rows = dict[str, list[list[str]]]  # photo's name -> its rows, as words after the name


@dataclass(frozen=True)
class Listed:
    """A photo of a split: its name, and its rows' words in two lists, one row each where nothing is wrong."""

    name: str
    image_id: int
    box_rows: list[list[str]]
    landmark_rows: list[list[str]]


def read_lists(root: Path, *, strict: bool = False) -> tuple[dict[str, list[Listed]], list[RecordIssue]]:
    """Read the three lists, and group the photos by split; those without exactly one known split are in none.

    Args:
        root: the folder of ``Anno``, ``Eval`` and ``img``.
        strict: stop at the first problem.

    Returns:
        The photos of each split in the order of the partition, and the problems that concern no split alone.
        Their ids are the numbers in their names, or where a name has none their places in the partition.

    Raises:
        FileNotFoundError: a folder or a list is missing.
        ValueError: a list lacks its two first lines; or any problem when ``strict``.
    """
    for folder in (root, root / "img"):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder")
    problems: list[RecordIssue] = []
    boxes = _read_rows(root / BOXES, problems)
    keypoints = _read_rows(root / LANDMARKS, problems)
    partition = _read_rows(root / PARTITION, problems)
    splits: dict[str, list[Listed]] = {split: [] for split in SPLITS}
    image_ids, notes = _number(partition, root / PARTITION)
    for name, rows in partition.items():
        try:
            listed = Listed(name, image_ids[name], boxes.get(name, []), keypoints.get(name, []))
            splits[_split_of(rows)].append(listed)
        except RecordError as error:
            problems.append(RecordIssue.of(error, root / PARTITION, name, "photo"))
    on_disk = sorted(f"img/{name}" for name in os.listdir(root / "img"))
    for source, names in ((BOXES, boxes), (LANDMARKS, keypoints), ("img", on_disk)):
        stray = RecordError("photo in no split", f"there is no row of it in {PARTITION}")
        for name in names:
            if name not in partition:
                problems.append(RecordIssue.of(stray, root / source, name, "photo"))
    if strict and problems:
        raise ValueError(str(problems[0]))
    return splits, problems + notes


def _number(photos: Iterable[str], path: Path) -> tuple[dict[str, int], list[RecordIssue]]:
    """Return the ids of photos by name, and a line that says so where they are their places."""
    names = list(photos)
    matches = [re.fullmatch(r"img/img_([0-9]{8})\.jpg", name) for name in names]
    if None not in matches:
        return {match[0]: int(match[1]) for match in matches if match}, []
    other = names[matches.index(None)]
    reason = f"image ids are the places in the list, from 1, since {other!r} is not img/img_<8 digits>.jpg"
    note = RecordIssue(path, "", "nothing", "file name is no number", reason)
    return {name: place for place, name in enumerate(names, 1)}, [note]


def _read_rows(path: Path, problems: list[RecordIssue]) -> _Rows:
    """Read a list; a wrong number of rows is appended to ``problems``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such list")
    lines = path.read_text(encoding="utf-8-sig", errors="backslashreplace").splitlines()
    if len(lines) < 2 or not re.fullmatch(r"\s*\d{1,18}\s*", lines[0]) or ".jpg" in lines[1]:
        raise ValueError(
            f"{path}: expected the number of rows in line 1 and the names of the columns in line 2, "
            f"got {[line[:80] for line in lines[:2]]}"
        )
    rows = [line.split() for line in lines[2:] if line.strip()]
    if len(rows) != int(lines[0]):
        reason = f"expected {int(lines[0])} rows, the number in line 1, got {len(rows)}"
        problems.append(RecordIssue(path, "line 1", "nothing", "number of rows", reason))
    by_name: _Rows = defaultdict(list)
    for name, *words in rows:
        by_name[name].append(words)
    return by_name


def _split_of(rows: list[list[str]]) -> str:
    words = _only(rows)
    if len(words) != 1 or words[0] not in SPLITS:
        raise RecordError("unknown split", f"expected one of {', '.join(SPLITS)}, got {' '.join(words)!r}")
    return words[0]


def _only(rows: list[list[str]]) -> list[str]:
    if len(rows) != 1:
        raise RecordError("row repeated" if rows else "row missing", f"expected one row, got {len(rows)}")
    return rows[0]


def read_split(
    root: Path, split: str, listed: list[Listed], *, workers: int = 1, strict: bool = False
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read the boxes and landmarks of a split and the sizes of its photos, in their order.

    A garment whose landmarks cannot be used becomes a region to ignore; its photo is left out when it, the
    class or the box cannot. Left out by themselves are a landmark far outside the photo (it becomes 0, 0, 0)
    and a variation_type that is not 1 to 5 (it becomes 0).

    Args:
        root: as in :func:`read_lists`.
        split: its name.
        listed: its photos, of :func:`read_lists`.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos, and the problems.

    Raises:
        ValueError: there is no usable photo, or most garments of a class are lost; or any problem when
            ``strict``.
    """
    if not listed:
        raise ValueError(f"{root / PARTITION}: expected photos of split {split!r}, found none")
    annotations, problems = read_photos(
        partial(_read_photo, root),
        listed,
        FLD,
        source=root,
        description=split,
        names=_NAMES,
        workers=workers,
        strict=strict,
    )
    if not len(annotations):
        raise ValueError(f"{root}: no photo of split {split!r} can be used; {problems[0]}")
    return annotations, problems


def _read_photo(root: Path, listed: Listed) -> tuple[PhotoRecord | None, list[RecordIssue]]:
    """Read one photo: what can be read of it, or None when it cannot be used, and the problems met."""
    try:
        width, height = image_size(root / listed.name)
    except RecordError as error:
        return None, [RecordIssue.of(error, root / listed.name, listed.name, "photo")]
    garment, dropped = _read_garment(root, listed)
    photo = PhotoRecord(
        path=root / LANDMARKS,
        file_name=listed.name,
        image_id=listed.image_id,
        width=width,
        height=height,
        garments=[garment],
    )
    return photo, [RecordIssue.of(error, photo.path, listed.name, "attribute") for error in dropped]


def _read_garment(root: Path, listed: Listed) -> tuple[GarmentRecord, list[RecordError]]:
    """Read the rows of a photo: what can be read of its garment, and what is wrong with its attributes."""
    record = GarmentRecord(item=listed.name, paths={"bbox": root / BOXES})
    dropped: list[RecordError] = []
    try:
        words = _only(listed.landmark_rows)
        if len(words) < 2:
            raise RecordError("wrong length", f"expected clothes_type and variation_type, got {words}")
        record.category_id = _choice("clothes_type", words[0], FLD.num_classes) - 1
        record.box = _read_box(root / BOXES, listed.box_rows)
        record.keypoints = _read_keypoints(words[2:])
        try:
            record.attributes["variation_type"] = _choice("variation_type", words[1], _NUM_VARIATIONS)
        except RecordError as error:
            record.attributes["variation_type"] = _UNKNOWN
            dropped.append(error)
    except RecordError as error:
        record.error = error
    return record, dropped


def _read_box(path: Path, rows: list[list[str]]) -> np.ndarray:
    try:
        return numbers("box", _floats("box", _only(rows)), 4)
    except RecordError as error:
        error.path = path
        raise


def _read_keypoints(words: list[str]) -> np.ndarray:
    """Read visibility, x and y of each landmark: x, y, v, with zeros where it is truncated."""
    keypoints = landmarks("landmarks", _floats("landmarks", words))[:, [1, 2, 0]]
    v = keypoints[:, 2]
    # FLD: 0 visible, 1 occluded, 2 truncated. Other values are left as they are, to be found as faults.
    keypoints[:, 2] = np.where(np.isin(v, (0, 1, 2)), 2 - v, v)
    keypoints[keypoints[:, 2] == 0] = 0
    return keypoints


def _choice(name: str, word: str, last: int) -> int:
    try:
        number = whole_number(word)
    except ValueError as error:
        raise RecordError("wrong type", f"{name}: {error}") from error
    if not 1 <= number <= last:
        raise RecordError(f"{name} out of range", f"{name}: expected 1..{last}, got {word!r}")
    return number


def _floats(name: str, words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise RecordError("wrong type", f"{name}: {error}") from error
