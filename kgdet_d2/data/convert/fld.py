"""The reading of FLD's native text lists: each photo's split, the box and the landmarks of its garment.

A list has the number of its rows in line 1, the names of its columns in line 2, then a row for each photo
that begins with the photo's name below the root, ``img/img_00000001.jpg``. FLD does not document whose left
its left landmarks are; in the frontal photos that were inspected, it is the image's.
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kgdet_d2.data.convert.parallel import read_photos
from kgdet_d2.data.convert.records import (
    RecordError,
    RecordIssue,
    check_box,
    check_visibility,
    drop_far_keypoints,
    image_size,
    numbers,
)
from kgdet_d2.schema import FLD
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo

BOXES, LANDMARKS, PARTITION = "Anno/list_bbox.txt", "Anno/list_landmarks.txt", "Eval/list_eval_partition.txt"
SPLITS = ("train", "val", "test")
_NUM_VARIATIONS = 5  # variation_type: normal, medium, large pose, medium, large zoom-in
_UNKNOWN = 0  # in the place of a variation_type that is wrong

_Rows = dict[str, list[list[str]]]  # photo's name -> its rows, as words after the name


@dataclass(frozen=True)
class Listed:
    """A photo of a split: its name, and its rows' words in two lists, one row each where nothing is wrong."""

    name: str
    box_rows: list[list[str]]
    landmark_rows: list[list[str]]


def read_lists(root: Path, *, strict: bool = False) -> tuple[dict[str, list[Listed]], list[RecordIssue]]:
    """Read the three lists, and group the photos by split; those without exactly one known split are in none.

    Args:
        root: the folder of ``Anno``, ``Eval`` and ``img``.
        strict: stop at the first problem.

    Returns:
        The photos of each split in the order of the partition, and the problems that concern no split alone.

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
    for name, rows in partition.items():
        try:
            splits[_split_of(rows)].append(Listed(name, boxes.get(name, []), keypoints.get(name, [])))
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
    return splits, problems


def _read_rows(path: Path, problems: list[RecordIssue]) -> _Rows:
    """Read a list; a wrong number of rows is appended to ``problems``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such list")
    lines = path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
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

    A photo is left out when something in it or in its rows is wrong: without its only garment it would be
    an example of background. Left out by themselves are a landmark far outside the photo (it becomes 0, 0, 0)
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
        ValueError: there is no usable photo; or any problem when ``strict``.
    """
    if not listed:
        raise ValueError(f"{root / PARTITION}: expected photos of split {split!r}, found none")
    read = partial(_read_photo, root)
    annotations, problems = read_photos(read, listed, FLD, description=split, workers=workers, strict=strict)
    if not len(annotations):
        raise ValueError(f"{root}: no photo of split {split!r} can be used; {problems[0]}")
    return annotations, problems


def _read_photo(root: Path, listed: Listed) -> tuple[Photo | None, list[RecordIssue]]:
    """Read one photo: the photo, or None when it cannot be used, and the problems met."""
    path = root / listed.name
    try:
        image_id = _image_id(listed.name)
        width, height = image_size(path)
        path = root / BOXES
        box = _numbers("box", _only(listed.box_rows), 4)
        check_box("box", box, width, height)
        path = root / LANDMARKS
        category_id, keypoints, variation = _read_keypoints(_only(listed.landmark_rows))
    except RecordError as error:
        return None, [RecordIssue.of(error, path, listed.name, "photo")]
    keypoints, far = drop_far_keypoints(keypoints, width, height)
    problems = [RecordIssue.of(error, path, listed.name, "landmark") for error in far]
    try:
        variation_type = _choice("variation_type", variation, _NUM_VARIATIONS)
    except RecordError as error:
        variation_type = _UNKNOWN
        problems.append(RecordIssue.of(error, path, listed.name, "attribute"))
    garment = Garment(category_id, box, keypoints, attributes={"variation_type": variation_type})
    return Photo(listed.name, image_id, width, height, [garment]), problems


def _image_id(name: str) -> int:
    match = re.fullmatch(r"img/img_([0-9]{8})\.jpg", name)
    if match is None:
        raise RecordError("name", f"expected img/img_<eight digits>.jpg, got {name!r}")
    return int(match[1])


def _read_keypoints(words: list[str]) -> tuple[int, np.ndarray, str]:
    """Read a row of clothes_type, variation_type, then visibility, x and y of each landmark of that type.

    Returns:
        The class index; landmarks (K_c, 3) of x, y, v with zeros where truncated; variation_type unread.
    """
    if len(words) < 2:
        raise RecordError("wrong length", f"expected clothes_type and variation_type, got {words}")
    category_id = _choice("clothes_type", words[0], FLD.num_classes) - 1
    count = FLD.num_class_keypoints(category_id)
    native = _numbers("landmarks", words[2:], 3 * count, kind="landmark count").reshape(count, 3)
    keypoints = native[:, [1, 2, 0]]
    check_visibility(keypoints)
    keypoints[:, 2] = 2 - keypoints[:, 2]  # FLD: 0 visible, 1 occluded, 2 truncated
    keypoints[keypoints[:, 2] == 0] = 0
    return category_id, keypoints, words[1]


def _choice(name: str, word: str, last: int) -> int:
    if word not in map(str, range(1, last + 1)):
        raise RecordError(f"{name} out of range", f"{name}: expected 1..{last}, got {word!r}")
    return int(word)


def _numbers(name: str, words: list[str], length: int, *, kind: str = "wrong length") -> np.ndarray:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise RecordError("wrong type", f"{name}: {error}") from error
    return numbers(name, values, length, kind=kind)
