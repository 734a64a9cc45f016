"""The reading of DeepFashion2's native folders: ``<split>/annos/*.json`` beside ``<split>/image/*.jpg``."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from reprlib import repr as shortened
from typing import NamedTuple

import numpy as np

from kgdet_d2.data.convert.coco_export import CATEGORY_NAMES
from kgdet_d2.data.convert.parallel import read_photos
from kgdet_d2.data.convert.records import (
    GarmentRecord,
    PhotoRecord,
    RecordError,
    RecordIssue,
    field,
    image_size,
    integer,
    landmarks,
    numbers,
    unique,
)
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable

_NAMES = {"bbox": "bounding_box", "keypoints": "landmarks"}
_UNKNOWN: dict[str, int | str] = {"source": ""}  # in the place of an attribute that is wrong; of others 0

_Dropped = list[tuple[str, RecordError]]  # what was left out of a photo or garment, and why


class Numbered(NamedTuple):
    """A file of a split, and the id of its photo."""

    image_id: int
    file: Path


def read_split(
    folder: Path, *, segmentation: bool = True, workers: int = 1, strict: bool = False
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read a split's annotations and the sizes of its photos, in the order of the file names.

    A photo is left out when its whole file cannot be used, or the class or box of an item; an item of which
    something else cannot be used becomes a region to ignore. Left out by themselves are a polygon that is
    none, a landmark far outside the photo (it becomes 0, 0, 0) and an attribute that is wrong, such as a
    scale that is not 1, 2 or 3 (it becomes 0, a source ""). Photos need no attribute, items need class, box
    and landmarks.
    Where a file's name is no number the photos' ids are their places in the order of names, from 1.

    Args:
        folder: the split's folder, with ``annos`` and ``image`` in it.
        segmentation: keep the polygons; otherwise they are neither kept nor checked.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos, and the problems: first of the names in the two folders, then of the annotations, last
        what is no reason to stop: attributes that some items lack, names that are no numbers.

    Raises:
        FileNotFoundError: the folder, ``annos`` or ``image`` is missing, or there is no annotation.
        ValueError: there is no usable photo, or most garments of a class are lost; or any problem when
            ``strict``.
    """
    for directory in (folder, folder / "annos", folder / "image"):
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory}: there is no such folder")
    files = sorted((folder / "annos").glob("*.json"), key=attrgetter("name"))
    if not files:
        raise FileNotFoundError(f"{folder / 'annos'}: there is no annotation (*.json) in it")
    numbered, problems, notes = _number(files)
    problems = _without_annotation(folder, files) + problems
    if strict and problems:
        raise ValueError(str(problems[0]))
    annotations, read_problems = read_photos(
        partial(read_photo, segmentation=segmentation),
        numbered,
        DEEPFASHION2,
        source=folder,
        description=folder.name,
        names=_NAMES,
        workers=workers,
        strict=strict,
    )
    problems += read_problems
    if not len(annotations):
        raise ValueError(f"{folder}: none of its {len(files)} annotations can be used; {problems[0]}")
    return annotations, problems + notes


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
    numbered, problems, notes = _number(files)
    if strict and problems:
        raise ValueError(str(problems[0]))
    annotations, read_problems = read_photos(
        read_photo_alone,
        numbered,
        DEEPFASHION2,
        source=folder,
        description=folder.name,
        names=_NAMES,
        workers=workers,
        strict=strict,
    )
    return annotations, problems + read_problems + notes


def read_photo_alone(numbered: Numbered) -> tuple[PhotoRecord | None, list[RecordIssue]]:
    """Read a photo's size; None where it cannot be used, and why."""
    image_id, file = numbered
    try:
        width, height = image_size(file)
    except RecordError as error:
        return None, [RecordIssue.of(error, file, "", "photo")]
    photo = PhotoRecord(
        path=file, file_name=file.name, image_id=image_id, width=width, height=height, garments=[]
    )
    return photo, []


def _without_annotation(folder: Path, files: Sequence[Path]) -> list[RecordIssue]:
    """Return a line for each photo without annotation."""
    annotated = {_image_name(file) for file in files}
    kind, reason = "photo without annotation", "there is no annotation of it"
    return [
        RecordIssue(folder / "image" / name, "", "photo", kind, reason)
        for name in sorted(set(os.listdir(folder / "image")) - annotated)
    ]


def _number(files: Sequence[Path]) -> tuple[list[Numbered], list[RecordIssue], list[RecordIssue]]:
    """Take the photos' ids from the names of their files, or from their places where a name is no number.

    Returns:
        The files, each number once; a line for each number that occurs again; a line that says so where
        photos are numbered by position.
    """
    other = next((file for file in files if re.fullmatch(r"[0-9]{1,18}", file.stem) is None), None)
    if other is not None:
        reason = f"image ids are the places in the order of names, from 1, since {other.name!r} is none"
        note = RecordIssue(other.parent, "", "nothing", "file name is no number", reason)
        return [Numbered(*entry) for entry in enumerate(files, 1)], [], [note]
    problems = []
    firsts: dict[int, Path] = {}
    for file in files:
        first = firsts.setdefault(int(file.stem), file)
        if first is not file:
            reason = f"{first.name} has the same number"
            problems.append(RecordIssue(file, "", "photo", "image id occurs twice", reason))
    return [Numbered(*entry) for entry in firsts.items()], problems, []


def _image_name(annotation_file: Path) -> str:
    return f"{annotation_file.stem}.jpg"


def read_photo(
    numbered: Numbered, *, segmentation: bool = True
) -> tuple[PhotoRecord | None, list[RecordIssue]]:
    """Read one annotation file and the size of its photo.

    Returns:
        The photo, or None when the whole file cannot be used; and the problems met.
    """
    image_id, file = numbered
    image_file = file.parents[1] / "image" / _image_name(file)
    try:
        content = _read_json(file)
        width, height = image_size(image_file)
    except RecordError as error:
        return None, [RecordIssue.of(error, file, "", "photo")]
    attributes, dropped = _read_attributes(content, _PHOTO_ATTRIBUTES)
    problems = [RecordIssue.of(error, file, "", part) for part, error in dropped]
    garments = []
    for key in sorted(content.keys() - _PHOTO_ATTRIBUTES.keys(), key=lambda key: (len(key), key)):
        if key.startswith("item") or isinstance(content[key], dict):
            garment, dropped = _read_garment(key, content[key], segmentation=segmentation)
            garments.append(garment)
        else:
            dropped = [("nothing", RecordError("name", f"expected source, pair_id or an item, got {key!r}"))]
        problems += [RecordIssue.of(error, file, key, part) for part, error in dropped]
    photo = PhotoRecord(
        path=file,
        file_name=image_file.name,
        image_id=image_id,
        width=width,
        height=height,
        garments=garments,
        attributes=attributes,
    )
    return photo, problems


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_bytes(), object_pairs_hook=unique)
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError("unreadable JSON", str(error)) from error
    except OSError as error:
        raise RecordError("unreadable file", str(error)) from error
    return _object(content)


def _read_garment(key: str, content: object, *, segmentation: bool) -> tuple[GarmentRecord, _Dropped]:
    """Read one item.

    Returns:
        What can be read of the garment, and what was left out of it.
    """
    record, dropped = GarmentRecord(item=key), _Dropped()
    try:
        content = _object(content)
        record.category_id = _read_class(content)
        _check_class_name(content, record.category_id)  # no box without a certain class: it is no region
        record.box = numbers("bounding_box", field(content, "bounding_box", list), 4)
        record.attributes["item"] = _item_number(key)
        record.keypoints = landmarks("landmarks", field(content, "landmarks", list))
        attributes, dropped = _read_attributes(content, _GARMENT_ATTRIBUTES)
        record.attributes |= attributes
        if segmentation:
            record.polygons, polygon_errors = _read_polygons(content)
            dropped += [("polygon", error) for error in polygon_errors]
    except RecordError as error:
        record.error = error
    return record, dropped


def _read_class(content: dict) -> int:
    """Read the 0-based class index."""
    native = integer(content, "category_id")
    if not 1 <= native <= DEEPFASHION2.num_classes:
        raise RecordError("class", f"category_id: expected 1..{DEEPFASHION2.num_classes}, got {native}")
    return native - 1


def _check_class_name(content: dict, category_id: int) -> None:
    """Check that the class's name, where there is one, is the data set's or the usual converter's."""
    if content.get("category_name") is None:
        return
    name = field(content, "category_name", str)
    expected = DEEPFASHION2.class_names[category_id]
    if _plain(name) not in (_plain(expected), _plain(CATEGORY_NAMES[category_id])):
        reason = f"category_name: expected {expected!r} for category_id {category_id + 1}, got {name!r}"
        raise RecordError("class", reason)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def _item_number(key: str) -> int:
    match = re.fullmatch(r"item([0-9]{1,18})", key)
    if match is None:
        raise RecordError("name", f"item's name: expected item<number>, got {key!r}")
    return int(match[1])


def _read_attributes(
    content: dict, readers: Mapping[str, Callable[[dict, str], int | str]]
) -> tuple[dict[str, int | str], _Dropped]:
    """Read the attributes that are there; one that is wrong is unknown."""
    attributes: dict[str, int | str] = {}
    dropped = _Dropped()
    for name, read in readers.items():
        if content.get(name) is not None:
            try:
                attributes[name] = read(content, name)
            except RecordError as error:
                attributes[name] = _UNKNOWN.get(name, 0)
                dropped.append(("attribute", error))
    return attributes, dropped


def _grade(content: dict, name: str) -> int:
    grade = integer(content, name)
    if not 1 <= grade <= 3:
        raise RecordError("attribute out of range", f"{name}: expected 1, 2 or 3, got {grade}")
    return grade


_PHOTO_ATTRIBUTES: dict[str, Callable[[dict, str], int | str]] = {
    "source": partial(field, kind=str),
    "pair_id": integer,
}
_GARMENT_ATTRIBUTES: dict[str, Callable[[dict, str], int | str]] = {
    "style": integer,
    **dict.fromkeys(("scale", "occlusion", "zoom_in", "viewpoint"), _grade),
}


def _read_polygons(content: dict) -> tuple[list[np.ndarray], list[RecordError]]:
    polygons: list[np.ndarray] = []
    errors: list[RecordError] = []
    segmentation = content.get("segmentation")
    if segmentation is not None and not isinstance(segmentation, list):
        reason = f"segmentation: expected a list of polygons, got {shortened(segmentation)}"
        return polygons, [RecordError("wrong type", reason)]
    for index, polygon in enumerate(segmentation or ()):
        name = f"segmentation[{index}]"
        try:
            values = numbers(name, polygon)
            if len(values) % 2:
                raise RecordError("polygon", f"{name}: expected x and y of points, got {len(values)} numbers")
            polygons.append(values.reshape(-1, 2))
        except RecordError as error:
            errors.append(error)
    return polygons, errors


def _object(value: object) -> dict:
    if not isinstance(value, dict):
        raise RecordError("wrong type", f"expected a JSON object, got {shortened(value)}")
    return value
