"""The reading of DeepFashion2's native folders: ``<split>/annos/*.json`` beside ``<split>/image/*.jpg``."""

import json
import os
import re
from functools import partial
from operator import attrgetter
from pathlib import Path
from reprlib import repr as shortened

import numpy as np

from kgdet_d2.data.convert.parallel import read_photos
from kgdet_d2.data.convert.records import (
    RecordError,
    RecordIssue,
    check_box,
    check_visibility,
    drop_far_keypoints,
    field,
    image_size,
    numbers,
)
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo

_PHOTO_FIELDS = {"source": str, "pair_id": int}
_GRADES = ("scale", "occlusion", "zoom_in", "viewpoint")  # 1, 2 or 3
_UNKNOWN = 0  # in the place of a grade that is missing or wrong

_Dropped = list[tuple[str, RecordError]]  # what was left out of a garment, and why


def read_split(
    folder: Path, *, segmentation: bool = True, workers: int = 1, strict: bool = False
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read a split's annotations and the sizes of its photos, in the order of the file names.

    A photo is left out when its whole file cannot be used, a garment when something in its item is wrong.
    Left out by themselves are a polygon that is none, a landmark far outside the photo (it becomes 0, 0, 0)
    and a scale, occlusion, zoom_in or viewpoint that is missing or not 1, 2 or 3 (it becomes 0).

    Args:
        folder: the split's folder, with ``annos`` and ``image`` in it.
        segmentation: keep the polygons; otherwise they are neither kept nor checked.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos, and the problems: first of the names in the two folders, then of the annotations.

    Raises:
        FileNotFoundError: the folder, ``annos`` or ``image`` is missing, or there is no annotation.
        ValueError: there is no usable photo; or any problem when ``strict``.
    """
    for directory in (folder, folder / "annos", folder / "image"):
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: there is no such folder")
    files = sorted((folder / "annos").glob("*.json"), key=attrgetter("name"))
    if not files:
        raise FileNotFoundError(f"{folder / 'annos'}: there is no annotation (*.json) in it")
    numbered, problems = _check_names(folder, files)
    if strict and problems:
        raise ValueError(str(problems[0]))
    annotations, read_problems = read_photos(
        partial(read_photo, segmentation=segmentation),
        numbered,
        DEEPFASHION2,
        description=folder.name,
        workers=workers,
        strict=strict,
    )
    problems += read_problems
    if not len(annotations):
        raise ValueError(f"{folder}: none of its {len(files)} annotations can be used; {problems[0]}")
    return annotations, problems


def read_photos_alone(
    folder: Path, *, workers: int = 1, strict: bool = False
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read the names and sizes of the photos of a split that has no annotations, as the test split has none.

    Args:
        folder: the split's folder, with ``image`` in it.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos, without garments, in the order of their names, and the problems.

    Raises:
        FileNotFoundError: ``image`` is missing, or there is no photo in it.
        ValueError: any problem when ``strict``.
    """
    files = sorted((folder / "image").glob("*.jpg"), key=attrgetter("name"))
    if not files:
        raise FileNotFoundError(f"{folder / 'image'}: there is no photo (*.jpg) in it")
    return read_photos(
        read_photo_alone, files, DEEPFASHION2, description=folder.name, workers=workers, strict=strict
    )


def read_photo_alone(image_file: Path) -> tuple[Photo | None, list[RecordIssue]]:
    """Read a photo's number and size; None where it cannot be used, and why."""
    try:
        image_id = _number("file name", r"(\d{1,18})", image_file.stem)
        width, height = image_size(image_file)
    except RecordError as error:
        return None, [RecordIssue.of(error, image_file, "", "photo")]
    return Photo(image_file.name, image_id, width, height, [], {}), []


def _check_names(folder: Path, files: list[Path]) -> tuple[list[Path], list[RecordIssue]]:
    """Select the annotations to read, each number once.

    Returns:
        The annotation files, and the problems: photos without annotation, numbers that occur twice.
    """
    problems = []
    annotated = {_image_name(file) for file in files}
    for name in sorted(set(os.listdir(folder / "image")) - annotated):
        kind, reason = "photo without annotation", "there is no annotation of it"
        problems.append(RecordIssue(folder / "image" / name, "", "photo", kind, reason))
    firsts: dict[int | str, Path] = {}
    for file in files:
        key = int(file.stem) if file.stem.isdecimal() else file.stem
        first = firsts.setdefault(key, file)
        if first is not file:
            reason = f"{first.name} has the same number"
            problems.append(RecordIssue(file, "", "photo", "image id occurs twice", reason))
    return list(firsts.values()), problems


def _image_name(annotation_file: Path) -> str:
    return f"{annotation_file.stem}.jpg"


def read_photo(annotation_file: Path, *, segmentation: bool = True) -> tuple[Photo | None, list[RecordIssue]]:
    """Read one annotation file and the size of its photo.

    Returns:
        The photo, or None when the whole file cannot be used; and the problems met.
    """
    image_file = annotation_file.parents[1] / "image" / _image_name(annotation_file)
    try:
        content = _read_json(annotation_file)
        image_id = _number("file name", r"(\d{1,18})", annotation_file.stem)
        attributes = {name: field(content, name, kind) for name, kind in _PHOTO_FIELDS.items()}
        width, height = image_size(image_file)
    except RecordError as error:
        return None, [RecordIssue.of(error, annotation_file, "", "photo")]
    garments: list[Garment] = []
    problems: list[RecordIssue] = []
    for key in sorted(content.keys() - _PHOTO_FIELDS.keys(), key=lambda key: (len(key), key)):
        try:
            garment, dropped = _read_garment(key, content[key], width, height, segmentation=segmentation)
            garments.append(garment)
        except RecordError as error:
            dropped = [("garment", error)]
        problems += [RecordIssue.of(error, annotation_file, key, part) for part, error in dropped]
    return Photo(image_file.name, image_id, width, height, garments, attributes), problems


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=_unique)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError("unreadable JSON", str(error)) from error
    except OSError as error:
        raise RecordError("unreadable file", str(error)) from error
    return _object(content)


def _unique(pairs: list[tuple[str, object]]) -> dict:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise RecordError("field occurs twice", f"a name occurs twice among {[name for name, _ in pairs]}")
    return content


def _read_garment(
    key: str, content: object, width: int, height: int, *, segmentation: bool
) -> tuple[Garment, _Dropped]:
    """Read one item.

    Returns:
        The garment, and what was left out of it.

    Raises:
        RecordError: the item cannot be used.
    """
    item, content = _number("item's name", r"item(\d{1,18})", key), _object(content)
    category_id = _read_class(content)
    box = numbers("bounding_box", field(content, "bounding_box", list), 4)
    check_box("bounding_box", box, width, height)
    keypoints, keypoint_errors = _read_keypoints(content, category_id, width, height)
    grades, grade_errors = _read_grades(content)
    polygons: list[np.ndarray] = []
    polygon_errors: list[RecordError] = []
    if segmentation:
        polygons, polygon_errors = _read_polygons(field(content, "segmentation", list))
    attributes = {"item": item, "style": field(content, "style", int)} | grades
    dropped = [("landmark", error) for error in keypoint_errors]
    dropped += [("attribute", error) for error in grade_errors]
    dropped += [("polygon", error) for error in polygon_errors]
    return Garment(category_id, box, keypoints, polygons, attributes), dropped


def _read_class(content: dict) -> int:
    """Read the 0-based class index."""
    native, name = field(content, "category_id", int), field(content, "category_name", str)
    if not 1 <= native <= DEEPFASHION2.num_classes:
        raise RecordError("class", f"category_id: expected 1..{DEEPFASHION2.num_classes}, got {native}")
    expected = DEEPFASHION2.class_names[native - 1]
    if name != expected:
        raise RecordError(
            "class", f"category_name: expected {expected!r} for category_id {native}, got {name!r}"
        )
    return native - 1


def _read_keypoints(
    content: dict, category_id: int, width: int, height: int
) -> tuple[np.ndarray, list[RecordError]]:
    count = DEEPFASHION2.num_class_keypoints(category_id)
    values = numbers("landmarks", field(content, "landmarks", list), 3 * count, kind="landmark count")
    keypoints = values.reshape(count, 3)
    check_visibility(keypoints)
    return drop_far_keypoints(keypoints, width, height)


def _read_grades(content: dict) -> tuple[dict[str, int], list[RecordError]]:
    grades: dict[str, int] = {}
    errors: list[RecordError] = []
    for name in _GRADES:
        try:
            grades[name] = field(content, name, int)
            if not 1 <= grades[name] <= 3:
                raise RecordError("attribute out of range", f"{name}: expected 1, 2 or 3, got {grades[name]}")
        except RecordError as error:
            grades[name] = _UNKNOWN
            errors.append(error)
    return grades, errors


def _read_polygons(segmentation: list) -> tuple[list[np.ndarray], list[RecordError]]:
    polygons: list[np.ndarray] = []
    errors: list[RecordError] = []
    for index, polygon in enumerate(segmentation):
        name = f"segmentation[{index}]"
        try:
            values = numbers(name, polygon)
            if len(values) < 6 or len(values) % 2:
                raise RecordError("polygon", f"{name}: expected 3 points or more, got {len(values)} numbers")
            polygons.append(values.reshape(-1, 2))
        except RecordError as error:
            errors.append(error)
    return polygons, errors


def _object(value: object) -> dict:
    if not isinstance(value, dict):
        raise RecordError("wrong type", f"expected a JSON object, got {shortened(value)}")
    return value


def _number(what: str, pattern: str, text: str) -> int:
    match = re.fullmatch(pattern, text)
    if match is None:
        raise RecordError("name", f"{what}: expected {pattern}, got {text!r}")
    return int(match[1])
