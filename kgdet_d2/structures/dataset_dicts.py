"""Detectron2's dataset dicts as records of photos and garments."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.photos import Garment, Photo
from kgdet_d2.structures.polygons import polygons_of_segmentation
from kgdet_d2.utils.check import check, whole_number

_PHOTO_FIELDS = {"file_name", "height", "width", "image_id", "annotations"}
_GARMENT_FIELDS = {"bbox", "bbox_mode", "category_id", "keypoints", "segmentation", "iscrowd"}
_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)


def photos_of_dicts(dataset_dicts: Iterable[Mapping[str, Any]], schema: KeypointSchema) -> list[Photo]:
    """Return the photos of dataset dicts, which are read once and not kept; see ``from_dataset_dicts``.

    Where an image_id is a str, all photos are numbered by their position, from 1. Values are not checked
    beyond what their types need.

    Raises:
        ValueError: naming photo and garment: a key is missing, or its value of another form; or two photos
            have the same image_id.
    """
    photos, image_ids = [], []
    for number, record in enumerate(dataset_dicts):
        where = f"photo {number} of the list, {record.get('file_name')}"
        image_ids.append(record.get("image_id"))
        try:
            photos.append(_photo_of(record, schema, where))
        except _Malformed:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise _Malformed(where, error) from error
    if not any(isinstance(image_id, str) for image_id in image_ids):
        return photos
    seen = set()
    for image_id in image_ids:
        check(image_id not in seen, f"image {image_id!r}: image_id: it occurs twice")
        seen.add(image_id)
    return [replace(photo, image_id=position) for position, photo in enumerate(photos, 1)]


class _Malformed(ValueError):
    """An error whose message names the place."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(f"{where}: no {error}" if isinstance(error, KeyError) else f"{where}: {error}")


def _photo_of(record: Mapping[str, Any], schema: KeypointSchema, where: str) -> Photo:
    image_id = record["image_id"]
    width, height = _whole("width", record["width"]), _whole("height", record["height"])
    garments = []
    for place, annotation in enumerate(record.get("annotations") or (), 1):
        try:
            garments.append(_garment_of(annotation, schema, width, height))
        except (KeyError, TypeError, ValueError) as error:
            raise _Malformed(f"{where}, garment {place}", error) from error
    return Photo(
        file_name=_named("file_name", os.fspath, record.get("file_name", "")),
        image_id=0 if isinstance(image_id, str) else _whole("image_id", image_id),
        width=width,
        height=height,
        garments=garments,
        attributes=_attributes_of(record, _PHOTO_FIELDS),
    )


def _garment_of(annotation: Mapping[str, Any], schema: KeypointSchema, width: int, height: int) -> Garment:
    class_index = _whole("category_id", annotation["category_id"])
    segmentation = annotation.get("segmentation")
    return Garment(
        category_id=class_index,
        box=_box_of(annotation),
        keypoints=_keypoints_of(annotation.get("keypoints"), class_index, schema),
        polygons=_named("segmentation", polygons_of_segmentation, segmentation, width, height),
        attributes=_attributes_of(annotation, _GARMENT_FIELDS),
        iscrowd=bool(annotation.get("iscrowd", 0)),
    )


def _box_of(annotation: Mapping[str, Any]) -> np.ndarray:
    """Return the box, float32 (4,), x1 y1 x2 y2."""
    mode = annotation["bbox_mode"]
    check(mode in _MODES, f"bbox_mode: expected one of {[mode.name for mode in _MODES]}, got {mode!r}")
    box = _named("bbox", _floats, annotation["bbox"])
    count = 5 if mode == BoxMode.XYWHA_ABS else 4
    check(box.shape == (count,), f"bbox: expected {count} numbers, got shape {box.shape}")
    return _float32(BoxMode.convert(box[None], BoxMode(mode), BoxMode.XYXY_ABS)[0])


def _keypoints_of(values: Any, class_index: int, schema: KeypointSchema) -> np.ndarray:
    """Return the landmarks, float32 (n, 3); zeros where there are none."""
    if values is None:
        known = 0 <= class_index < schema.num_classes
        return np.zeros((schema.num_class_keypoints(class_index) if known else 0, 3), np.float32)
    keypoints = np.ravel(_named("keypoints", _floats, values))
    count = len(keypoints)
    check(count % 3 == 0, f"keypoints: expected x, y and v of each landmark, got {count} numbers")
    return _float32(keypoints).reshape(-1, 3)


def _attributes_of(record: Mapping[str, Any], fields: set[str]) -> dict[str, Any]:
    """Return the ints and strs of a dict that are not among the fields."""
    further = {name: value for name, value in record.items() if name not in fields}
    return {
        name: value if isinstance(value, str | bool) else _whole(name, value)
        for name, value in further.items()
        if isinstance(value, int | str | np.integer)
    }


def _floats(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found as such
        return values.astype(np.float32)


def _whole(name: str, value: Any) -> int:
    return _named(name, whole_number, value)


def _named(name: str, function: Any, *arguments: Any) -> Any:
    """Call a function; its error begins with the key's name."""
    try:
        return function(*arguments)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from error
