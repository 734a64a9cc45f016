"""Label Studio: tasks with rectangles and the key points that belong to them, and the labelling interface."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import Garment, Photo
from kgdet_d2.utils.io import atomic_write, write_json_array

_LOCAL_FILES = "/data/local-files/?d="  # by which Label Studio serves files of its own machine
_POINT_WIDTH = 0.5  # of a key point on the screen, percent of the photo's width
_OCCLUDED = "occluded"


def export_labelstudio(dataset: ExportedDataset, folder: Path) -> list[Path]:
    """Write ``tasks.json`` and ``config.xml``, the labelling interface, and return these files.

    A garment is a rectangle, and each of its landmarks a key point that has its id as ``parentID``. Occluded
    landmarks have this as a choice, absent ones are left out. Predictions are pre-annotations. Coordinates
    are percent of the photo's width and height; what lies outside the photo, which Label Studio refuses,
    comes to its edge. Photos are named as local files of Label Studio's.
    """
    tasks, config = folder / "tasks.json", folder / "config.xml"
    with atomic_write(tasks) as file:
        write_json_array(file, (_task(photo, dataset) for photo in dataset.photos()))
    with atomic_write(config) as file:
        file.write(_config(dataset.schema))
    return [tasks, config]


def _config(schema: KeypointSchema) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    garments = ElementTree.SubElement(view, "RectangleLabels", name="garment", toName="image")
    for name in schema.class_names:
        ElementTree.SubElement(garments, "Label", value=name)
    landmarks = ElementTree.SubElement(view, "KeyPointLabels", name="landmark", toName="image")
    names = dict.fromkeys(name for names in schema.keypoint_names for name in names)
    for index, name in enumerate(names):
        ElementTree.SubElement(landmarks, "Label", value=name, model_index=str(index))
    visibility = ElementTree.SubElement(
        view, "Choices", name="visibility", toName="image", perRegion="true", whenTagName="landmark"
    )
    ElementTree.SubElement(visibility, "Choice", value=_OCCLUDED)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="utf-8") + b"\n"


def _task(photo: Photo, dataset: ExportedDataset) -> dict[str, Any]:
    annotated = [
        region
        for number, garment in enumerate(photo.garments)
        for region in _regions(photo, garment, f"garment_{number}", dataset.schema)
    ]
    predicted = [
        {**region, "score": score}
        for number, (garment, score) in enumerate(dataset.detections(photo))
        for region in _regions(photo, garment, f"detection_{number}", dataset.schema)
    ]
    image = _LOCAL_FILES + quote(photo.file_name)
    return {
        "id": photo.image_id,
        "data": {**photo.attributes, "image_id": photo.image_id, "image": image},
        "annotations": [{"result": annotated}] if annotated else [],
        "predictions": [{"model_version": "kgdet_d2", "result": predicted}] if predicted else [],
    }


def _regions(photo: Photo, garment: Garment, identity: str, schema: KeypointSchema) -> Iterator[dict]:
    """Generate a garment's rectangle, which gets this id, its landmarks, and choices for occluded ones."""
    place = {"to_name": "image", "image_rotation": 0}
    place |= {"original_width": photo.width, "original_height": photo.height}
    (x1, y1), (x2, y2) = _percent(garment.box.reshape(2, 2), photo)
    box = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
    value = {**box, "rectanglelabels": [schema.class_names[garment.category_id]]}
    yield {**place, "id": identity, "from_name": "garment", "type": "rectanglelabels", "value": value}
    points, visibility = _percent(garment.keypoints[:, :2], photo), garment.keypoints[:, 2].tolist()
    names = schema.keypoint_names[garment.category_id]
    for name, (x, y), v in zip(names, points, visibility, strict=False):  # none of a model of boxes alone
        point = {"x": x, "y": y, "width": _POINT_WIDTH}
        region = {**place, "id": f"{identity}_{name}", "parentID": identity}
        if v:
            value = {**point, "keypointlabels": [name]}
            yield {**region, "from_name": "landmark", "type": "keypointlabels", "value": value}
        if v == 1:
            value = {**point, "choices": [_OCCLUDED]}
            yield {**region, "from_name": "visibility", "type": "choices", "value": value}


def _percent(points: np.ndarray, photo: Photo) -> list[list[float]]:
    """Return points (n, 2) in percent of the photo, within it."""
    return (100 * points / np.array([photo.width, photo.height])).clip(0, 100).tolist()
