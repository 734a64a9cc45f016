"""Matching of detections with garments by the overlap of their boxes."""

from itertools import pairwise

import numpy as np

from kgdet_d2.evaluation.similarity import BoxIoU
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions


class BoxMatcher:
    """The P pairs of a garment and a detection of one image, of any classes, whose boxes overlap.

    Args:
        ground_truth: N images with G garments.
        predictions: D detections, of the same schema.
        minimum: the least IoU (COCO's) of a pair.

    Attributes:
        ground_truth: the images and garments.
        predictions: the detections.
        minimum: the least IoU of a pair.
        detection: int64 (P,), rows of the predictions' detections, never falling.
        garment: int64 (P,), rows of the ground truth's garments.
        iou: float64 (P,).
        same_class: bool (P,), whether the predicted class is the garment's.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """

    def __init__(
        self, ground_truth: AnnotationTable, predictions: Predictions, *, minimum: float = 0.1
    ) -> None:
        self.ground_truth, self.predictions, self.minimum = ground_truth, predictions, minimum
        box_iou = BoxIoU(ground_truth, predictions)
        images = ground_truth.image_rows(predictions.image_id)
        detections, garments, ious = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for image, ends in zip(images, pairwise(predictions.detection_offsets), strict=True):
            of_image = np.arange(*ground_truth.garment_offsets[image : image + 2])
            detected = np.arange(*ends)
            if len(of_image) and len(detected):
                iou = box_iou(of_image, detected)  # (D, G) of this image
                rows, columns = np.nonzero(iou >= minimum)
                detections.append(detected[rows])
                garments.append(of_image[columns])
                ious.append(iou[rows, columns])
        self.detection, self.garment = np.concatenate(detections), np.concatenate(garments)
        self.iou = np.concatenate(ious)
        predicted_class = predictions.category_id[self.detection]
        self.same_class = predicted_class == ground_truth.category_id[self.garment]

    def match(
        self, *, iou: float = 0.5, same_class: bool = True, score_threshold: float = -np.inf
    ) -> np.ndarray:
        """Match greedily as COCO does: the best score chooses first, the free garment of the highest IoU.

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
        """Find for every detection the garment that it overlaps most.

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
