"""The photos of a COCO file: where they are, and their records, each with those of its garments."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from kgdet_d2.data.convert.coco import CocoFile, CocoImage, Key, composed, entry_id, key_or_none
from kgdet_d2.data.convert.coco_schema import SchemaClass
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
)
from kgdet_d2.data.convert.usable import Tally
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.polygons import polygons_of_segmentation

# What COCO itself has in an entry, and nobody counts by.
_IMAGE_FIELDS = {"id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"}
_GARMENT_FIELDS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints"}
_GARMENT_FIELDS |= {"segmentation"}
_RESERVED = {"image_id", "annotations", "bbox_mode"}  # in Detectron2's dicts


class PhotoFolder:
    """A folder whose photos are found by the names that a file of another machine has.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: there is no such folder of photos")
        self.root = root
        self._listings: dict[PurePosixPath, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """Return a photo's name as it is on the disk, relative to the folder, or None where there is none.

        Backslashes between folders are taken, and umlauts in either of Unicode's forms. Of another machine's
        full path only the last folders, or none, are looked for.
        """
        if os.path.isfile(self.root / name):
            return str(PurePosixPath(name))
        parts = PurePosixPath(name.replace("\\", "/")).parts
        is_full_path = bool(PureWindowsPath(name).root)
        tries = (self._find(parts[start:]) for start in range(len(parts) if is_full_path else 1))
        return next(filter(None, tries), None)

    def _find(self, parts: Sequence[str]) -> str | None:
        found = PurePosixPath()
        for part in parts:
            exact = os.path.lexists(self.root / found / part)
            found /= part if exact else self._listing(found).get(composed(part), part)
        return str(found) if os.path.isfile(self.root / found) else None

    def _listing(self, folder: PurePosixPath) -> dict[str, str]:
        """Return the names in a folder by their composed form."""
        if folder not in self._listings:
            path = self.root / folder
            names = os.listdir(path) if path.is_dir() else []
            self._listings[folder] = {composed(name): name for name in names}
        return self._listings[folder]


@dataclass(frozen=True)
class _Reading:
    """What is the same for all photos of a split.

    Attributes:
        path: the file.
        root: the folder of photos.
        classes: of each category's id.
        attributes: further fields that are kept, of images and of annotations.
    """

    path: Path
    root: Path
    classes: Mapping[Key, SchemaClass]
    attributes: tuple[Sequence[str], Sequence[str]]


_Listed = tuple[CocoImage, str | None]  # an image, and its photo's name in the folder


def read_split(
    file: CocoFile,
    photos: PhotoFolder,
    schema: KeypointSchema,
    classes: Mapping[Key, SchemaClass],
    *,
    description: str,
    workers: int = 1,
    strict: bool = False,
) -> tuple[AnnotationTable, list[RecordIssue]]:
    """Read the photos of a file and their garments, in the file's order.

    Widths and heights are those of the photos. A photo that is listed under several ids is left out, since
    each of them may lack the garments of the others. What else is left out: :func:`read_photos`.

    Args:
        file: the annotations.
        photos: the folder.
        schema: classes and landmarks.
        classes: of the categories, of :func:`match_categories`.
        description: the progress bar's.
        workers: processes that read.
        strict: stop at the first problem.

    Returns:
        The photos, and the problems, those of the file first.

    Raises:
        ValueError: there is no usable photo, or most garments of a class are lost; or any problem when
            ``strict``.
    """
    listed, problems = _find_photos(file, photos)
    problems = file.problems + problems
    if strict and problems:
        raise ValueError(str(problems[0]))
    entries = (entry for image in file.images for _, entry in image.annotations)
    attributes = (
        _attribute_names((image.content for image in file.images), _IMAGE_FIELDS),
        _attribute_names(entries, _GARMENT_FIELDS),
    )
    try:
        annotations, read_problems = read_photos(
            partial(_read_photo, _Reading(file.path, photos.root, classes, attributes)),
            listed,
            schema,
            source=file.path,
            description=description,
            names={},
            workers=workers,
            strict=strict,
        )
    except RecursionError as error:  # of an entry on its way to another process
        raise ValueError(f"{file.path}: an entry is nested too deeply: {error}") from error
    problems += read_problems
    if not len(annotations):
        reason = f"; {problems[0]}{_hint(listed, photos)}" if problems else ""
        raise ValueError(f"{file.path}: none of its {len(file.images)} photos can be used{reason}")
    _check_lost_photos(file, classes, annotations, problems)
    return annotations, problems


def _hint(listed: Sequence[_Listed], photos: PhotoFolder) -> str:
    """Return where a photo is, one folder above, that is not in the folder."""
    above = PhotoFolder(photos.root.absolute().parent)
    for image, name in listed:
        wanted = image.content.get("file_name")
        if name is None and isinstance(wanted, str) and above.find(wanted):
            return f", but {above.root / wanted} is one: try --images {above.root}"
    return ""


def _check_lost_photos(
    file: CocoFile,
    classes: Mapping[Key, SchemaClass],
    annotations: AnnotationTable,
    problems: Sequence[RecordIssue],
) -> None:
    """Check that no class has lost most of its garments with photos that cannot be used, as missing ones.

    Raises:
        ValueError: naming the class, the number and the problem.
    """
    reasons = {line.item.partition(", annotation")[0]: line for line in problems if line.dropped == "photo"}
    used = annotations.category_id[~annotations.iscrowd]
    kept = set(annotations.image_id.tolist())
    tally = Tally(used=Counter(used.tolist()))
    for image in file.images:
        if image.image_id not in kept:
            keys = [key_or_none(entry, "category_id") for _, entry in image.annotations]
            line = reasons.get(image.item, problems[0])
            known = (classes[key] for key in keys if key is not None and key in classes)
            tally.lost += [(known_class.index, line) for known_class in known]
    tally.check_losses(file.path, annotations.schema)


def _find_photos(file: CocoFile, photos: PhotoFolder) -> tuple[list[_Listed], list[RecordIssue]]:
    """Return the images with their photos' names; None where there is no such photo."""
    listed: list[_Listed] = []
    for image in file.images:
        name = image.content.get("file_name")
        listed.append((image, photos.find(name) if isinstance(name, str) else None))
    often = Counter(name for _, name in listed if name is not None)
    problems = []
    for image, name in listed:
        if name is not None and often[name] > 1:
            reason = f"file_name: expected a photo of its own, got {name!r}, listed {often[name]} times"
            problems.append(RecordIssue(file.path, image.item, "photo", "photo listed twice", reason))
    return [(image, name) for image, name in listed if name is None or often[name] == 1], problems


def _attribute_names(entries: Any, known: set[str]) -> list[str]:
    """Return the further fields that are whole numbers, or texts, in all entries that have them."""
    types: dict[str, set[type]] = {}
    for name, value in chain.from_iterable(entry.items() for entry in entries):
        if name not in known | _RESERVED:
            small = type(value) is not int or -(2**63) <= value < 2**63
            types.setdefault(name, set()).add(type(value) if small else object)
    return [name for name, found in types.items() if found in ({int}, {str})]


def _read_photo(reading: _Reading, listed: _Listed) -> tuple[PhotoRecord | None, list[RecordIssue]]:
    """Read one photo: its record, or None when it cannot be used, and the problems met."""
    image, name = listed
    path, content = reading.path, image.content
    try:
        wanted = field(content, "file_name", str)
        if name is None:
            raise RecordError("image missing", f"{reading.root / wanted}: there is no such photo")
        width, height = image_size(reading.root / name)
    except RecordError as error:
        return None, [RecordIssue.of(error, path, image.item, "photo")]
    problems = []
    try:
        _check_size(content, width, height)
    except RecordError as error:
        reason = f"{error}; those of the photo are taken, {width} x {height}"
        problems.append(RecordIssue(path, image.item, "nothing", error.kind, reason))
    garments = []
    for item, entry in image.annotations:
        garment, errors = _read_garment(reading, item, entry, width, height)
        garments.append(garment)
        problems += [RecordIssue.of(error, path, item, "polygon") for error in errors]
    record = PhotoRecord(
        path=path,
        file_name=name,
        image_id=image.image_id,
        width=width,
        height=height,
        garments=garments,
        attributes={name: content[name] for name in reading.attributes[0] if name in content},
    )
    return record, problems


def _check_size(content: dict, width: int, height: int) -> None:
    """Check that the size in the file is the upright photo's."""
    found = integer(content, "width"), integer(content, "height")
    if found != (width, height):
        turned = ", which its EXIF data turn" if found == (height, width) else ""
        expected = f"width, height: expected those of the photo{turned}"
        raise RecordError("size of another photo", f"{expected}, got {found[0]} x {found[1]}")


def _read_garment(
    reading: _Reading, item: str, content: dict, width: int, height: int
) -> tuple[GarmentRecord, list[RecordError]]:
    """Read one annotation: its record, and why polygons of it were left out."""
    attributes = {name: content[name] for name in reading.attributes[1] if name in content}
    garment = GarmentRecord(item=item, attributes=attributes)
    errors: list[RecordError] = []
    try:
        known = _class_of(reading.classes, content)
        garment.category_id = known.index
        garment.box = _read_box(content)
        garment.iscrowd = bool(integer({"iscrowd": 0} | content, "iscrowd"))
        garment.polygons, errors = _read_polygons(content.get("segmentation"), width, height)
        if not garment.iscrowd:
            garment.keypoints = _read_keypoints(content, known)
    except RecordError as error:
        garment.error = error
    return garment, errors


def _class_of(classes: Mapping[Key, SchemaClass], content: dict) -> SchemaClass:
    key = entry_id(content, "category_id")
    if key not in classes:
        raise RecordError("unknown category", f"category_id: expected that of a category, got {key!r}")
    return classes[key]


def _read_box(content: dict) -> np.ndarray:
    """Return x1 y1 x2 y2 of COCO's x y width height."""
    box = numbers("bbox", field(content, "bbox", list), 4)
    if not np.isfinite(box).all():
        return box
    x, y, width, height = np.array(content["bbox"], np.float64)  # whose sums are then rounded once
    return np.array((x, y, x + width, y + height), np.float32)


def _read_keypoints(content: dict, known: SchemaClass) -> np.ndarray | None:
    """Return the landmarks in the order of the class, None where none is labelled."""
    if content.get("keypoints") in (None, []):
        return None
    found = landmarks("keypoints", content["keypoints"])
    found[found[:, 2] == 0] = 0  # whatever stands there for x and y
    if known.order is None or len(found) != len(known.order):
        return found
    return found[list(known.order)]


def _read_polygons(segmentation: Any, width: int, height: int) -> tuple[list[np.ndarray], list[RecordError]]:
    """Return the polygons of a segmentation, and why others were left out."""
    parts = [segmentation]
    if isinstance(segmentation, list):
        nested = all(isinstance(part, list | dict) for part in segmentation)
        parts = [[part] for part in segmentation] if nested else [[segmentation]]
    polygons: list[np.ndarray] = []
    errors: list[RecordError] = []
    for part in parts:
        try:
            polygons += polygons_of_segmentation(part, width, height)
        except (TypeError, ValueError, OverflowError) as error:
            errors.append(RecordError("polygon", f"segmentation: {error}"))
    return polygons, errors
