"""TIDE's six types of detection errors, what each costs, and the confusion of classes.

TIDE: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, Section 2.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from kgdet_d2.evaluation.matching import BoxMatcher

_RECALLS = np.linspace(0, 1, 101)


class ErrorType(IntEnum):
    """The type of a detection or, MISS, of a garment. f is the foreground's IoU, b the background's."""

    CORRECT = 0  # found a garment, by COCO's matching at IoU f
    CLS = 1  # IoU of f or more with a garment of another class
    LOC = 2  # the right class, IoU of b or more, but less than f
    BOTH = 3  # another class, IoU of b or more, but less than f
    DUPE = 4  # right, but another detection with a higher score found that garment
    BKG = 5  # IoU less than b with all garments
    MISS = 6  # a garment that was not found, and no correction of CLS or LOC would find it
    IGNORED = 7  # on a crowd


ERRORS = (ErrorType.CLS, ErrorType.LOC, ErrorType.BOTH, ErrorType.DUPE, ErrorType.BKG, ErrorType.MISS)


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionErrors:
    """The error types of D detections and G garments.

    Attributes:
        matcher: the pairs of detections and garments that they follow from.
        error_type: int8 (D,), an :class:`ErrorType`.
        garment: int64 (D,): the garment that was found (CORRECT), would be with the right class (CLS) or the
            right box (LOC), or was found before (DUPE); otherwise -1.
    """

    matcher: BoxMatcher
    error_type: np.ndarray
    garment: np.ndarray

    def missed(self, score_threshold: float = -np.inf) -> np.ndarray:
        """Return bool (G,), garments that are MISS, by the detections with that score or a higher one."""
        near = np.isin(self.error_type, (ErrorType.CORRECT, ErrorType.CLS, ErrorType.LOC))
        near &= self.matcher.predictions.score >= score_threshold
        missed = ~self.matcher.ground_truth.iscrowd
        missed[self.garment[near]] = False
        return missed

    def counts(self) -> dict[ErrorType, np.ndarray]:
        """Return the errors of each type: int64 (C,), by the predicted class, MISS by the garment's."""
        truth, predictions = self.matcher.ground_truth, self.matcher.predictions
        counts = {}
        for error in ERRORS:
            if error == ErrorType.MISS:
                classes = truth.category_id[self.missed()]
            else:
                classes = predictions.category_id[self.error_type == error]
            counts[error] = np.bincount(classes, minlength=truth.schema.num_classes)
        return counts

    def average_precision(self) -> np.ndarray:
        """Return the AP50 of boxes, 0..1, float64 (C,), nan where a class has no garment."""
        considered = self.error_type != ErrorType.IGNORED
        predicted = self.matcher.predictions.category_id
        return self._average_precision(
            predicted, considered, self.error_type == ErrorType.CORRECT, self._num_garments
        )

    def delta_average_precision(self) -> dict[ErrorType, np.ndarray]:
        """Return dAP: the AP50 that each class would gain, 0..1, float64 (C,), were one error type fixed.

        CLS, LOC: the detection with the best score on a garment that was not found gets the right class or
        box, the others go. BOTH, DUPE, BKG: they go. MISS: these garments need not be found; a class of
        which none is left gains nothing.
        """
        before = self.average_precision()
        return {error: self._fixed(error) - before for error in ERRORS}

    def _fixed(self, error: ErrorType) -> np.ndarray:
        """Return the AP50 of each class, float64 (C,), with one type of errors fixed."""
        truth, predictions = self.matcher.ground_truth, self.matcher.predictions
        category_id, correct = predictions.category_id.copy(), self.error_type == ErrorType.CORRECT
        considered = (self.error_type != ErrorType.IGNORED) & (self.error_type != error)
        positives = self._num_garments
        if error in (ErrorType.CLS, ErrorType.LOC):
            garment_is_found = np.isin(self.garment, self.garment[correct])  # of each detection's garment
            fixable = (self.error_type == error) & ~garment_is_found
            candidates = self._by_score[fixable[self._by_score]]
            garments, first = np.unique(self.garment[candidates], return_index=True)
            fixed = candidates[first]  # the best score on each of these garments
            category_id[fixed] = truth.category_id[garments]
            considered[fixed] = correct[fixed] = True
        if error == ErrorType.MISS:
            positives = positives - self.counts()[ErrorType.MISS]
        return self._average_precision(category_id, considered, correct, positives)

    def _average_precision(
        self, category_id: np.ndarray, considered: np.ndarray, correct: np.ndarray, positives: np.ndarray
    ) -> np.ndarray:
        """Return COCO's AP50 of each class, float64 (C,), nan where a class has no garment.

        Args:
            category_id: int16 (D,), the classes of detections.
            considered: bool (D,), the detections that count.
            correct: bool (D,), the detections that found a garment.
            positives: int64 (C,), the garments of each class that are to be found.
        """
        order = self._by_score[considered[self._by_score]]
        precision = np.where(self._num_garments > 0, 0.0, np.nan)
        for index in np.flatnonzero(positives):
            hits = correct[order[category_id[order] == index]]
            precision[index] = _interpolated(hits, positives[index])
        return precision

    @cached_property
    def _by_score(self) -> np.ndarray:
        """Order of detections, int64 (D,), best score first; of equal scores in the order of image ids."""
        predictions = self.matcher.predictions
        return np.lexsort((predictions.image_id[predictions.detection_image], -predictions.score))

    @cached_property
    def _num_garments(self) -> np.ndarray:
        """Numbers of garments of each class, int64 (C,), crowds apart."""
        truth = self.matcher.ground_truth
        return np.bincount(truth.category_id[~truth.iscrowd], minlength=truth.schema.num_classes)


def find_errors(matcher: BoxMatcher, *, foreground: float = 0.5) -> DetectionErrors:
    """Find TIDE's types of errors of boxes.

    TIDE's values of IoU are 0.5 and 0.1. Where several types fit, the first of LOC, CLS, DUPE is meant, as in
    the authors' toolbox. All detections count, COCO's limit of 100 in an image and class aside.

    Args:
        matcher: pairs of detections and garments; the background's IoU is ``matcher.minimum``.
        foreground: the foreground's IoU.
    """
    truth = matcher.ground_truth
    matched = matcher.match(iou=foreground)
    of_garment = ~truth.iscrowd[matcher.garment]
    same, same_iou = matcher.best(of_garment & matcher.same_class)
    other, other_iou = matcher.best(of_garment & ~matcher.same_class)
    located = same_iou >= foreground
    on_crowd = np.append(truth.iscrowd, False)[matched]  # -1 is the last
    # The first condition that holds decides.
    conditions = {
        ErrorType.IGNORED: on_crowd,
        ErrorType.CORRECT: matched >= 0,
        ErrorType.LOC: (same >= 0) & ~located,
        ErrorType.CLS: other_iou >= foreground,
        ErrorType.DUPE: located,
        ErrorType.BOTH: other >= 0,
    }
    error_type = np.select(list(conditions.values()), list(conditions), ErrorType.BKG).astype(np.int8)
    garment = np.full(len(error_type), -1)
    garments = {
        ErrorType.CORRECT: matched,
        ErrorType.LOC: same,
        ErrorType.CLS: other,
        ErrorType.DUPE: same,
    }
    for error, rows in garments.items():
        of_type = error_type == error
        garment[of_type] = rows[of_type]
    return DetectionErrors(matcher=matcher, error_type=error_type, garment=garment)


def confusion_matrix(matcher: BoxMatcher, *, score_threshold: float, iou: float = 0.5) -> np.ndarray:
    """Count the classes that are predicted for garments of each class.

    Detections with that score or a higher one are matched as COCO does it, but whatever the class: the class
    predicted for a garment is that of the best score on it.

    Args:
        matcher: pairs of detections and garments.
        score_threshold: the least score of a detection.
        iou: the least IoU of a match.

    Returns:
        int64 (C + 1, C + 1): a row for each class of garments and, last, for detections on no garment, whose
        IoU is below ``iou`` with all of them; a column for each class that was predicted and, last, for
        garments that were missed. The rows of classes sum to the classes' garments, crowds apart.
    """
    truth, predictions = matcher.ground_truth, matcher.predictions
    nothing = truth.schema.num_classes
    detection_class = predictions.category_id.astype(np.int64)
    matched = matcher.match(iou=iou, same_class=False, score_threshold=score_threshold)
    predicted_class = np.full(truth.num_garments + 1, nothing)
    predicted_class[matched] = (
        detection_class  # of detections without a match, in a last row that is not used
    )
    matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
    garments = np.flatnonzero(~truth.iscrowd)
    np.add.at(matrix, (truth.category_id[garments], predicted_class[garments]), 1)
    on_none = predictions.score >= score_threshold
    on_none[matcher.detection[matcher.iou >= iou]] = False
    matrix[nothing, :nothing] = np.bincount(detection_class[on_none], minlength=nothing)
    return matrix


def _interpolated(hits: np.ndarray, positives: int) -> float:
    """Return the mean over 101 recalls of the highest precision at that recall or a higher one.

    Args:
        hits: bool (n,), whether each detection found a garment, best score first.
        positives: the garments to be found, at least one.
    """
    num_found = np.cumsum(hits)
    precision = num_found / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(num_found / positives, _RECALLS)
    return float(np.append(highest, np.zeros(1))[places].mean())
