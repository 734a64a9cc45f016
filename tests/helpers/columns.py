"""Scenes, and cases made by hand, as the columns that kgdet_d2.evaluation works on."""

import numpy as np
from detectron2.structures import BoxMode

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions

CLASSES = {name: index for index, name in enumerate(DEEPFASHION2.class_names)}


def columns(scene):
    """A scene of conftest's -> ground truth and predictions."""
    truth = AnnotationTable.from_dataset_dicts(scene.records, scene.schema)
    parts = [
        Predictions.from_instances(
            output, image_id=record["image_id"], schema=scene.schema, wide_classes=wide
        )
        for record, output, wide in zip(scene.records, scene.outputs, truth.no_visible_by_class, strict=True)
    ]
    return truth, Predictions.concatenate(parts, scene.schema)


def by_hand(make_instances, *photos):
    """Ground truth and predictions of some photos of 320 x 240 pixels, image ids from 1.

    Each photo is a pair: garments (class name, box, further keys of the annotation) and detections (class
    name, box, score). All landmarks are visible, and detected, in the middle of the box.
    """
    records, parts = [], []
    for image_id, (garments, detections) in enumerate(photos, 1):
        annotations = [_annotation(*garment) for garment in garments]
        records.append({"image_id": image_id, "width": 320, "height": 240, "annotations": annotations})
        boxes = np.array([box for _, box, _ in detections], float).reshape(-1, 4)
        instances = make_instances(
            boxes,
            [score for *_, score in detections],
            [CLASSES[name] for name, *_ in detections],
            np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, DEEPFASHION2.num_keypoints, axis=1),
        )
        parts.append((instances, image_id))
    truth = AnnotationTable.from_dataset_dicts(records, DEEPFASHION2)
    predictions = [
        Predictions.from_instances(
            instances, image_id=image_id, schema=DEEPFASHION2, wide_classes=truth.no_visible_by_class[row]
        )
        for row, (instances, image_id) in enumerate(parts)
    ]
    return truth, Predictions.concatenate(predictions, DEEPFASHION2)


def _annotation(name, box, further=()):
    x1, y1, x2, y2 = box
    return {
        "category_id": CLASSES[name],
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "keypoints": [(x1 + x2) / 2, (y1 + y2) / 2, 2] * DEEPFASHION2.num_class_keypoints(CLASSES[name]),
        "iscrowd": 0,
        **dict(further),
    }
