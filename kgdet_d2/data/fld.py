"""FLD's native text lists, read and checked: each photo's split, the box and the landmarks of its garment.

A list has the number of its rows in line 1, the names of its columns in line 2, then a row for each photo
that begins with the photo's name below the root, ``img/img_00000001.jpg``. FLD does not say whose left its
left landmarks are; in the frontal photos looked at, it is the image's.
"""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kgdet_d2.data.compact import CompactAnnotations, Garment, Photo
from kgdet_d2.data.native import (
    BadRecord,
    Problem,
    check_box,
    check_visibility,
    drop_far_landmarks,
    image_size,
    numbers,
)
from kgdet_d2.data.reading import read_photos
from kgdet_d2.schema import FLD

BOXES, LANDMARKS, PARTITION = "Anno/list_bbox.txt", "Anno/list_landmarks.txt", "Eval/list_eval_partition.txt"
SPLITS = ("train", "val", "test")
_NUM_VARIATIONS = 5  # variation_type: normal, medium, large pose, medium, large zoom-in
_UNKNOWN = 0  # the variation_type that is none

_Rows = dict[str, list[list[str]]]  # of each photo, its rows' words without its name


@dataclass(frozen=True)
class Listed:
    """A photo of a split: its name, and its rows' words in two lists, one row each if all is well."""

    name: str
    box_rows: list[list[str]]
    landmark_rows: list[list[str]]


def read_lists(root: Path, *, strict: bool = False) -> tuple[dict[str, list[Listed]], list[Problem]]:
    """Read the three lists and part the photos by split; those without exactly one known split are in none.

    Args:
        root: the folder of ``Anno``, ``Eval`` and ``img``.
        strict: stop at the first problem.

    Returns:
        The photos of each split in the order of the partition, and the problems that are no split's own.

    Raises:
        FileNotFoundError: a folder or a list is missing.
        ValueError: a list has not its two first lines; or any problem when ``strict``.
    """
    for folder in (root, root / "img"):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder")
    problems: list[Problem] = []
    boxes, landmarks, partition = (
        _read_rows(root / file, problems) for file in (BOXES, LANDMARKS, PARTITION)
    )
    splits: dict[str, list[Listed]] = {split: [] for split in SPLITS}
    for name, rows in partition.items():
        try:
            splits[_split_of(rows)].append(Listed(name, boxes.get(name, []), landmarks.get(name, [])))
        except BadRecord as error:
            problems.append(Problem.of(error, root / PARTITION, name, "photo"))
    on_disk = sorted(f"img/{name}" for name in os.listdir(root / "img"))
    for source, names in ((BOXES, boxes), (LANDMARKS, landmarks), ("img", on_disk)):
        error = BadRecord("photo in no split", f"there is no row of it in {PARTITION}")
        strays = (name for name in names if name not in partition)
        problems += [Problem.of(error, root / source, name, "photo") for name in strays]
    if strict and problems:
        raise ValueError(str(problems[0]))
    return splits, problems


def _read_rows(path: Path, problems: list[Problem]) -> _Rows:
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
        reason = f"expected as many rows as it says, {int(lines[0])}, got {len(rows)}"
        problems.append(Problem(path, "line 1", "nothing", "number of rows", reason))
    by_name = defaultdict(list)
    for name, *words in rows:
        by_name[name].append(words)
    return by_name


def _split_of(rows: list[list[str]]) -> str:
    words = _only(rows)
    if len(words) != 1 or words[0] not in SPLITS:
        raise BadRecord("unknown split", f"expected one of {', '.join(SPLITS)}, got {' '.join(words)!r}")
    return words[0]


def _only(rows: list[list[str]]) -> list[str]:
    if len(rows) != 1:
        raise BadRecord("row repeated" if rows else "row missing", f"expected one row, got {len(rows)}")
    return rows[0]


def read_split(
    root: Path, split: str, listed: list[Listed], *, workers: int = 1, strict: bool = False
) -> tuple[CompactAnnotations, list[Problem]]:
    """Read the boxes and landmarks of a split and the sizes of its photos, in their order.

    A photo is left out when something in it or in its rows is wrong: without its only garment it would
    teach that there is none. Left out alone are a landmark far outside the photo (it becomes 0, 0, 0) and a
    variation_type that is not 1 to 5 (it becomes 0).

    Args:
        root: as in :func:`read_lists`.
        split: its name.
        listed: its photos, of :func:`read_lists`.
        workers: processes that read.
        strict: stop at the first problem.

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


def _read_photo(root: Path, listed: Listed) -> tuple[Photo | None, list[Problem]]:
    """One photo, or None when it cannot be used; and the problems met."""
    path = root / listed.name
    try:
        image_id = _image_id(listed.name)
        width, height = image_size(path)
        path = root / BOXES
        box = _numbers("box", _only(listed.box_rows), 4)
        check_box("box", box, width, height)
        path = root / LANDMARKS
        category_id, landmarks, variation = _read_landmarks(_only(listed.landmark_rows))
    except BadRecord as error:
        return None, [Problem.of(error, path, listed.name, "photo")]
    landmarks, far = drop_far_landmarks(landmarks, width, height)
    problems = [Problem.of(error, path, listed.name, "landmark") for error in far]
    try:
        variation_type = _choice("variation_type", variation, _NUM_VARIATIONS)
    except BadRecord as error:
        variation_type = _UNKNOWN
        problems.append(Problem.of(error, path, listed.name, "attribute"))
    garment = Garment(category_id, box, landmarks, attributes={"variation_type": variation_type})
    return Photo(listed.name, image_id, width, height, [garment]), problems


def _image_id(name: str) -> int:
    match = re.fullmatch(r"img/img_([0-9]{8})\.jpg", name)
    if match is None:
        raise BadRecord("name", f"expected img/img_<eight digits>.jpg, got {name!r}")
    return int(match[1])


def _read_landmarks(words: list[str]) -> tuple[int, np.ndarray, str]:
    """A row of clothes_type, variation_type, then visibility, x and y of each landmark of that type.

    Returns:
        The class index; landmarks (K_c, 3) of x, y, v with zeros where truncated; variation_type unread.
    """
    if len(words) < 2:
        raise BadRecord("wrong length", f"expected clothes_type and variation_type, got {words}")
    category_id = _choice("clothes_type", words[0], FLD.num_classes) - 1
    count = FLD.num_landmarks(category_id)
    native = _numbers("landmarks", words[2:], 3 * count, kind="landmark count").reshape(count, 3)
    landmarks = native[:, [1, 2, 0]]
    check_visibility(landmarks)
    landmarks[:, 2] = 2 - landmarks[:, 2]  # FLD: 0 visible, 1 occluded, 2 truncated
    landmarks[landmarks[:, 2] == 0] = 0
    return category_id, landmarks, words[1]


def _choice(name: str, word: str, last: int) -> int:
    if word not in map(str, range(1, last + 1)):
        raise BadRecord(f"{name} out of range", f"{name}: expected 1..{last}, got {word!r}")
    return int(word)


def _numbers(name: str, words: list[str], length: int, *, kind: str = "wrong length") -> np.ndarray:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise BadRecord("wrong type", f"{name}: {error}") from error
    return numbers(name, values, length, kind=kind)
