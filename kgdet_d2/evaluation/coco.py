"""Garments as COCO sees them: dataset dicts -> ground truth, Instances -> results.

Coordinates are continuous pixels on both sides and pass unchanged. Detectron2's own dumpers
(``convert_to_coco_json``, ``instances_to_coco_json``) take half a pixel off every landmark, the latter
inside the model's own output.
"""

import contextlib
import io

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances
from pycocotools.coco import COCO

from kgdet_d2.schema import KeypointSchema


def coco_ground_truth(dataset_dicts: list[dict], schema: KeypointSchema) -> COCO:
    """Dataset dicts with class-local landmarks -> an indexed COCO object with K landmarks per garment.

    Category ids are the 0-based class indices; annotation ids start at 1, for pycocotools takes 0 as "not
    matched". ``area`` (OKS' scale) is the box's. A landmark counts when v = 1 or v = 2.

    Raises:
        ValueError: when an annotation's landmarks do not fit its class.
    """
    annotations = [
        (record["image_id"], annotation) for record in dataset_dicts for annotation in record["annotations"]
    ]
    return _indexed(
        images=[
            {"id": record["image_id"], "height": record["height"], "width": record["width"]}
            for record in dataset_dicts
        ],
        categories=[{"id": index, "name": name} for index, name in enumerate(schema.class_names)],
        annotations=[
            {"id": number, "image_id": image_id, **_coco_annotation(annotation, schema)}
            for number, (image_id, annotation) in enumerate(annotations, start=1)
        ],
    )


def without_detections(ground_truth: COCO) -> COCO:
    """The results object of a model that found nothing, which ``COCO.loadRes`` cannot make."""
    return _indexed(**{**ground_truth.dataset, "annotations": []})


def _indexed(**dataset: list[dict]) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


def _coco_annotation(annotation: dict, schema: KeypointSchema) -> dict:
    class_index = annotation["category_id"]
    landmarks = np.asarray(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
    keypoints = schema.scatter(landmarks, class_index)
    x, y, width, height = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return {
        "category_id": class_index,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": annotation["iscrowd"],
        "keypoints": keypoints.ravel(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
    }


def coco_results(instances: Instances, image_id: int, schema: KeypointSchema) -> list[dict]:
    """A model's output for one image -> COCO results. The instances stay as they are.

    Args:
        instances: N garments with pred_boxes (N, 4) x1 y1 x2 y2, scores (N,), pred_classes (N,) and
            pred_keypoints (N, K, 3) of x, y, score, on any device.
        image_id: the image's id.
        schema: the landmarks.

    Raises:
        ValueError: when a field is missing or of the wrong shape, when a class index is out of range, or
            when a number is not finite.
    """
    instances = instances.to("cpu")
    _check_prediction(instances, schema, f"prediction for image {image_id}")
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    columns = {
        "category_id": instances.pred_classes.tolist(),
        "bbox": boxes.tolist(),
        "score": instances.scores.tolist(),
        "keypoints": instances.pred_keypoints.flatten(1).tolist(),
    }
    rows = zip(*columns.values(), strict=True)
    return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]


def _check_prediction(instances: Instances, schema: KeypointSchema, where: str) -> None:
    for field in ("pred_boxes", "scores", "pred_classes", "pred_keypoints"):
        if not instances.has(field):
            raise ValueError(f"{where}: {field} is missing, got {sorted(instances.get_fields())}")
    keypoints, classes = instances.pred_keypoints, instances.pred_classes
    expected = (len(instances), schema.num_keypoints, 3)
    if tuple(keypoints.shape) != expected:
        raise ValueError(f"{where}: pred_keypoints: expected shape {expected}, got {tuple(keypoints.shape)}")
    if not ((classes >= 0) & (classes < schema.num_classes)).all():
        raise ValueError(
            f"{where}: pred_classes: expected 0..{schema.num_classes - 1}, "
            f"got {sorted(set(classes.tolist()))}"
        )
    numbers = {
        "pred_boxes": instances.pred_boxes.tensor,
        "scores": instances.scores,
        "pred_keypoints": keypoints[..., :2],
    }
    for field, values in numbers.items():
        if not torch.isfinite(values).all():
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(f"{where}: {field}: expected finite numbers, {bad} of {values.numel()} are not")
