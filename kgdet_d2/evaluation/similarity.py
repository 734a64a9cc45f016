"""Pairs of garments and detections that may match, class by class and image by image, and their similarity.

COCO calls the similarity IoU for boxes and OKS for landmarks. G garments, D detections, K landmarks of all
classes, K_c of one class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """One class's garments and detections in the P images that have any, in rising order of image id.

    Attributes:
        class_index: the class.
        images: int64 (P,), rows of the ground truth's images.
        garments: P arrays of rows of the ground truth's garments.
        detections: P arrays of rows of the predictions' detections, best score first.
    """

    class_index: int
    images: np.ndarray
    garments: list[np.ndarray]
    detections: list[np.ndarray]


def pairs_by_class(
    ground_truth: AnnotationTable, predictions: Predictions, *, max_detections: int
) -> Iterator[ClassPairs]:
    """Generate the classes that have garments, each with its best ``max_detections`` detections of an image.

    Raises:
        ValueError: naming an image that was predicted and is not in the ground truth.
    """
    image_order = np.argsort(ground_truth.image_id)
    rank = np.argsort(image_order)  # of each image among the image ids
    detection_rank = rank[ground_truth.image_rows(predictions.image_id)][predictions.detection_image]
    garment_rank = rank[ground_truth.garment_image]
    for class_index in np.unique(ground_truth.category_id).tolist():
        garments = np.flatnonzero(ground_truth.category_id == class_index)
        garments = garments[np.argsort(garment_rank[garments], kind="stable")]
        detections = np.flatnonzero(predictions.category_id == class_index)
        detections = detections[np.lexsort((-predictions.score[detections], detection_rank[detections]))]
        ranks = detection_rank[detections]
        position = np.arange(len(ranks)) - np.searchsorted(ranks, ranks)  # among those of its image
        detections = detections[position < max_detections]
        images = np.union1d(garment_rank[garments], ranks)
        yield ClassPairs(
            class_index=class_index,
            images=image_order[images],
            garments=_split_by_image(garments, garment_rank, images),
            detections=_split_by_image(detections, detection_rank, images),
        )


def _split_by_image(rows: np.ndarray, rank: np.ndarray, images: np.ndarray) -> list[np.ndarray]:
    starts = np.searchsorted(rank[rows], images).tolist()
    return [rows[start:end] for start, end in pairwise([*starts, len(rows)])]


class Similarity(Protocol):
    """The similarity of some garments and some detections of one image and class."""

    def __call__(self, garments: np.ndarray, detections: np.ndarray) -> np.ndarray:
        """Compute the similarity, 0..1.

        Args:
            garments: int64 (G,), rows, at least one.
            detections: int64 (D,), rows, at least one.

        Returns:
            float64 (D, G).
        """


class BoxIoU:
    """COCO's IoU of boxes; the overlap with a crowd is divided by the detection's area.

    Args:
        ground_truth: images and garments.
        predictions: of the same schema.
    """

    def __init__(self, ground_truth: AnnotationTable, predictions: Predictions) -> None:
        self.garment_xywh = BoxMode.convert(ground_truth.box_float64, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        self.detection_xywh = predictions.box_xywh
        self.iscrowd = ground_truth.iscrowd

    def __call__(self, garments: np.ndarray, detections: np.ndarray) -> np.ndarray:
        """Compute the IoU, see :class:`Similarity`."""
        boxes = self.detection_xywh[detections].astype(np.float64)
        return mask_util.iou(boxes, self.garment_xywh[garments], self.iscrowd[garments])


class ObjectKeypointSimilarity:
    """COCO's OKS: the mean over a garment's counted landmarks of exp(-d^2 / (2 area (2 sigma)^2)).

    With a garment that has none, the mean is over the K landmarks of all classes, d being the distance
    from the garment's box, doubled about its centre and then once more (x - w to x + 2 w), as in COCO. Of a
    detection that was not kept with all of them it is over its class's own, as COCO has it for a category of
    no other landmarks.

    Args:
        ground_truth: images and garments; its schema has the sigmas.
        predictions: of the same schema.
        visible_only: count landmarks with v = 2; otherwise those with v = 1 too.
    """

    def __init__(
        self,
        ground_truth: AnnotationTable,
        predictions: Predictions,
        *,
        visible_only: bool,
    ) -> None:
        self.ground_truth, self.predictions = ground_truth, predictions
        self.labelled = ground_truth.labelled(visible_only=visible_only)
        self.variances = (2 * np.array(ground_truth.schema.sigmas)) ** 2
        self.wide_row = np.full(predictions.num_detections, -1)
        self.wide_row[predictions.wide_detection] = np.arange(len(predictions.wide_detection))

    def __call__(self, garments: np.ndarray, detections: np.ndarray) -> np.ndarray:
        """Compute the OKS, see :class:`Similarity`."""
        truth = self.ground_truth
        slots = list(truth.schema.slots[truth.category_id[garments[0]]])
        starts = self.predictions.keypoint_offsets[detections]
        predicted = self.predictions.keypoints[starts[:, None] + np.arange(len(slots))]  # (D, K_c, 2)
        columns = []
        for garment in garments:
            keypoints = slice(*truth.keypoint_offsets[garment : garment + 2])
            labelled = self.labelled[keypoints]  # (K_c,)
            if not labelled.any():
                columns.append(self._bare_similarity(garment, detections, predicted, self.variances[slots]))
                continue
            # (D, labelled, 2)
            distance = predicted.compress(labelled, axis=1) - truth.points_float64[keypoints][labelled]
            columns.append(_oks(distance, self.variances[slots][labelled], truth.area[garment]))
        return np.stack(columns, axis=1)

    def _bare_similarity(
        self, garment: int, detections: np.ndarray, predicted: np.ndarray, variances: np.ndarray
    ) -> np.ndarray:
        """Return float64 (D,), of a garment without counted landmarks.

        Args:
            garment: its row.
            detections: int64 (D,), rows.
            predicted: float32 (D, K_c, 2), their class's landmarks.
            variances: (K_c,).
        """
        box, area = self.ground_truth.box_float64[garment], self.ground_truth.area[garment]
        similarity = _oks(_distance_from_box(predicted, box), variances, area)
        rows = self.wide_row[detections]
        wide = self.predictions.wide_keypoints[rows[rows >= 0]]
        similarity[rows >= 0] = _oks(_distance_from_box(wide, box), self.variances, area)
        return similarity


def _distance_from_box(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return float64 (..., 2), the distances in x and in y of points from a doubled box x1 y1 x2 y2."""
    corner, opposite = box.reshape(2, 2)
    size = opposite - corner
    return np.maximum(0, corner - size - points) + np.maximum(0, points - (corner + 2 * size))


def _oks(distance: np.ndarray, variances: np.ndarray, area: float) -> np.ndarray:
    """Return the OKS (D,) of one garment, in the order of pycocotools' operations.

    Args:
        distance: (D, n, 2), in x and in y.
        variances: (n,).
        area: of the garment.
    """
    squared = distance[..., 0] ** 2 + distance[..., 1] ** 2
    exponent = squared / variances / (area + np.spacing(1)) / 2
    return np.exp(-exponent).sum(axis=1) / len(variances)
