"""Which detections lie on which garments."""

from itertools import pairwise

import numpy as np

from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.evaluation.similarity import BoxIoU
from kgdet_d2.structures.predictions import Predictions


class BoxMatcher:
    """The P pairs of a garment and a detection of one photo, of any classes, whose boxes overlap.

    Args:
        ground_truth, predictions: of one schema.
        minimum: the least IoU (COCO's) of a pair.

    Attributes:
        ground_truth, predictions: those.
        minimum: that.
        detection: int64 (P,), rows of the predictions' detections, never falling.
        garment: int64 (P,), rows of the ground truth's garments.
        iou: float64 (P,).
        same_class: bool (P,), whether the class that was predicted is the garment's.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """

    def __init__(self, ground_truth: GroundTruth, predictions: Predictions, *, minimum: float = 0.1) -> None:
        self.ground_truth, self.predictions, self.minimum = ground_truth, predictions, minimum
        box_iou = BoxIoU(ground_truth, predictions)
        photos = ground_truth.photo_rows(predictions.image_id)
        pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        for photo, ends in zip(photos, pairwise(predictions.detection_offsets), strict=True):
            garments = np.arange(*ground_truth.garment_offsets[photo : photo + 2])
            detections = np.arange(*ends)
            if len(garments) and len(detections):
                iou = box_iou(garments, detections)
                rows, columns = np.nonzero(iou >= minimum)
                pairs.append((detections[rows], garments[columns], iou[rows, columns]))
        self.detection, self.garment, self.iou = map(np.concatenate, zip(*pairs, strict=True))
        predicted = predictions.category_id[self.detection]
        self.same_class = predicted == ground_truth.category_id[self.garment]

    def match(
        self, *, iou: float = 0.5, same_class: bool = True, score_threshold: float = -np.inf
    ) -> np.ndarray:
        """COCO's greedy matching: the best score chooses first, the free garment of the highest IoU.

        A crowd is taken when nothing else is left, and stays free.

        Args:
            iou: the least IoU of a match, not less than ``minimum``.
            same_class: match within classes; otherwise whatever the class.
            score_threshold: detections with a lower score match nothing.

        Returns:
            int64 (D,), the garment's row, -1 where a detection has none.
        """
        score, iscrowd = self.predictions.score[self.detection], self.ground_truth.iscrowd
        allowed = (self.iou >= iou) & (score >= score_threshold) & (self.same_class | (not same_class))
        detection, garment = self.detection[allowed], self.garment[allowed]
        # Of equal scores COCO serves the first detection first, of equal IoUs it takes the last garment.
        order = np.lexsort((-garment, -self.iou[allowed], iscrowd[garment], detection, -score[allowed]))
        matched = np.full(self.predictions.num_detections, -1)
        free = np.full(self.ground_truth.num_garments, True)
        for row, candidate in zip(detection[order].tolist(), garment[order].tolist(), strict=True):
            if matched[row] < 0 and free[candidate]:
                matched[row] = candidate
                free[candidate] = iscrowd[candidate]
        return matched

    def best(self, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For every detection the garment that it overlaps most.

        Args:
            among: bool (P,), the pairs that count.

        Returns:
            int64 (D,), the garment's row, and float64 (D,), the IoU; -1 and 0 where it overlaps none.
        """
        detection, garment, iou = self.detection[among], self.garment[among], self.iou[among]
        order = np.lexsort((-garment, iou, detection))
        last = np.append(np.diff(detection[order]) > 0, True)[: len(order)]  # of each detection's pairs
        order = order[last]
        garments = np.full(self.predictions.num_detections, -1)
        ious = np.zeros(self.predictions.num_detections)
        garments[detection[order]], ious[detection[order]] = garment[order], iou[order]
        return garments, ious
