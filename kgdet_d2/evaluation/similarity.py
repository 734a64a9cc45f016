"""Which detections may match which garments: class by class, photo by photo, with their similarity.

COCO calls the similarity IoU for boxes and OKS for landmarks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.structures.predictions import Predictions


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """One class's garments and detections in the P photos that have any, in rising order of image id.

    Attributes:
        class_index: the class.
        photos: int64 (P,), rows of the ground truth's photos.
        garments: P arrays of rows of the ground truth's garments.
        detections: P arrays of rows of the predictions' detections, best score first.
    """

    class_index: int
    photos: np.ndarray
    garments: list[np.ndarray]
    detections: list[np.ndarray]


def pairs_by_class(
    ground_truth: GroundTruth, predictions: Predictions, *, max_detections: int
) -> Iterator[ClassPairs]:
    """The classes that have garments, each with its best ``max_detections`` detections of a photo.

    Raises:
        ValueError: naming an image that was predicted and is not in the ground truth.
    """
    photo_order = np.argsort(ground_truth.image_id)
    rank = np.argsort(photo_order)  # of each photo among the image ids
    detection_rank = rank[ground_truth.photo_rows(predictions.image_id)][predictions.detection_image]
    garment_rank = rank[ground_truth.garment_image]
    for class_index in np.unique(ground_truth.category_id).tolist():
        garments = np.flatnonzero(ground_truth.category_id == class_index)
        garments = garments[np.argsort(garment_rank[garments], kind="stable")]
        detections = np.flatnonzero(predictions.category_id == class_index)
        detections = detections[np.lexsort((-predictions.score[detections], detection_rank[detections]))]
        ranks = detection_rank[detections]
        place = np.arange(len(ranks)) - np.searchsorted(ranks, ranks)  # among those of its photo
        detections = detections[place < max_detections]
        photos = np.union1d(garment_rank[garments], ranks)
        yield ClassPairs(
            class_index=class_index,
            photos=photo_order[photos],
            garments=_by_photo(garments, garment_rank, photos),
            detections=_by_photo(detections, detection_rank, photos),
        )


def _by_photo(rows: np.ndarray, rank: np.ndarray, photos: np.ndarray) -> list[np.ndarray]:
    starts = np.searchsorted(rank[rows], photos).tolist()
    return [rows[start:end] for start, end in pairwise([*starts, len(rows)])]


class Similarity(Protocol):
    """How alike some garments and some detections of one photo and class are."""

    def __call__(self, garments: np.ndarray, detections: np.ndarray) -> np.ndarray:
        """Rows (G,) of garments and (D,) of detections, at least one each -> float64 (D, G) in 0..1."""


class BoxIoU:
    """COCO's IoU of boxes: what a crowd covers is divided by the detection's own area."""

    def __init__(self, ground_truth: GroundTruth, predictions: Predictions) -> None:
        self.truth = BoxMode.convert(ground_truth.box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        self.iscrowd = ground_truth.iscrowd
        self.found = predictions.box_xywh

    def __call__(self, garments: np.ndarray, detections: np.ndarray) -> np.ndarray:
        found = self.found[detections].astype(np.float64)
        return mask_util.iou(found, self.truth[garments], self.iscrowd[garments])


class ObjectKeypointSimilarity:
    """COCO's OKS: the mean over a garment's counted landmarks of exp(-d^2 / (2 area (2 sigma)^2)).

    With a garment that has none, the mean is over the K landmarks of all classes, d being the distance
    from the garment's box, doubled about its centre and then once more (x - w to x + 2 w), as in COCO.

    Args:
        sigmas: K, over the global slots.
        visible_only: count landmarks with v = 2; otherwise those with v = 1 too.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        predictions: Predictions,
        *,
        sigmas: Sequence[float],
        visible_only: bool,
    ) -> None:
        self.truth, self.predictions = ground_truth, predictions
        self.labelled = ground_truth.labelled(visible_only=visible_only)
        self.variances = (2 * np.array(sigmas)) ** 2
        self.wide_row = np.full(predictions.num_detections, -1)
        self.wide_row[predictions.wide_detection] = np.arange(len(predictions.wide_detection))

    def __call__(self, garments: np.ndarray, detections: np.ndarray) -> np.ndarray:
        slots = list(self.truth.schema.slots[self.truth.category_id[garments[0]]])
        starts = self.predictions.keypoint_offsets[detections]
        found = self.predictions.keypoints[starts[:, None] + np.arange(len(slots))]  # D, K_c, 2
        columns = []
        for garment in garments:
            own = slice(*self.truth.keypoint_offsets[garment : garment + 2])
            labelled = self.labelled[own]
            if labelled.any():
                distance = found.compress(labelled, axis=1) - self.truth.keypoints[own, :2][labelled]
                variances = self.variances[slots][labelled]
            else:
                distance, variances = self._from_box(garment, detections), self.variances
            columns.append(_oks(distance, variances, self.truth.area[garment]))
        return np.stack(columns, axis=1)

    def _from_box(self, garment: int, detections: np.ndarray) -> np.ndarray:
        """How far outside all K landmarks (D, K, 2) lie, in x and in y."""
        rows = self.wide_row[detections]
        missing = np.count_nonzero(rows < 0)
        if missing:
            image_id = self.truth.image_id[self.truth.garment_image[garment]]
            raise ValueError(
                f"image {image_id}: a garment without labelled landmarks is compared with the landmarks of "
                f"all classes, which {missing} detections lack: they were made for another ground truth"
            )
        found = self.predictions.wide_keypoints[rows]
        corner, size = self.truth.box[garment, :2], np.diff(self.truth.box[garment].reshape(2, 2), axis=0)[0]
        return np.maximum(0, corner - size - found) + np.maximum(0, found - (corner + 2 * size))


def _oks(distance: np.ndarray, variances: np.ndarray, area: float) -> np.ndarray:
    """Distances (D, n, 2) in x and in y, variances (n,) -> (D,), in the order of pycocotools' operations."""
    squared = distance[..., 0] ** 2 + distance[..., 1] ** 2
    exponent = squared / variances / (area + np.spacing(1)) / 2
    return np.exp(-exponent).sum(axis=1) / len(variances)
