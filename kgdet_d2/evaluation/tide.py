"""What is wrong with the detections: TIDE's six kinds of errors, what each costs, and what is taken for what.

TIDE: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, Section 2.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from kgdet_d2.evaluation.matching import BoxMatcher

_RECALLS = np.linspace(0, 1, 101)


class Kind(IntEnum):
    """What a detection is, or, MISS, what a garment is. f is the foreground's IoU, b the background's."""

    CORRECT = 0  # found a garment, by COCO's matching at IoU f
    CLS = 1  # IoU of f or more with a garment of another class
    LOC = 2  # the right class, IoU of b or more, but less than f
    BOTH = 3  # another class, IoU of b or more, but less than f
    DUPE = 4  # right, but another detection with a higher score found that garment
    BKG = 5  # IoU less than b with all garments
    MISS = 6  # a garment that was not found, and no correction of CLS or LOC would find it
    IGNORED = 7  # on a crowd


ERRORS = (Kind.CLS, Kind.LOC, Kind.BOTH, Kind.DUPE, Kind.BKG, Kind.MISS)


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionErrors:
    """The kinds of D detections and G garments.

    Attributes:
        overlaps: what they were found from.
        kind: int8 (D,), a :class:`Kind`.
        garment: int64 (D,): the garment that was found (CORRECT), would be with the right class (CLS) or the
            right box (LOC), or was found before (DUPE); otherwise -1.
    """

    overlaps: BoxMatcher
    kind: np.ndarray
    garment: np.ndarray

    def missed(self, score_threshold: float = -np.inf) -> np.ndarray:
        """bool (G,): garments that are MISS, by the detections with that score or a higher one."""
        near = np.isin(self.kind, (Kind.CORRECT, Kind.CLS, Kind.LOC))
        near &= self.overlaps.predictions.score >= score_threshold
        missed = ~self.overlaps.ground_truth.iscrowd
        missed[self.garment[near]] = False
        return missed

    def counts(self) -> dict[Kind, np.ndarray]:
        """Errors of each kind: int64 (C,), by the class that was predicted, MISS by the garment's."""
        truth, predictions = self.overlaps.ground_truth, self.overlaps.predictions
        classes = {kind: predictions.category_id[self.kind == kind] for kind in ERRORS}
        classes[Kind.MISS] = truth.category_id[self.missed()]
        return {kind: np.bincount(rows, minlength=truth.schema.num_classes) for kind, rows in classes.items()}

    def average_precision(self) -> np.ndarray:
        """AP50 of boxes, 0..1, float64 (C,), nan where a class has no garment."""
        considered = self.kind != Kind.IGNORED
        predicted = self.overlaps.predictions.category_id
        return self._average_precision(predicted, considered, self.kind == Kind.CORRECT, self._num_garments)

    def delta_average_precision(self) -> dict[Kind, np.ndarray]:
        """The AP50 that each class would gain, 0..1, float64 (C,), were all errors of one kind mended (dAP).

        CLS, LOC: the detection with the best score on a garment that was not found gets the right class or
        box, the others go. BOTH, DUPE, BKG: they go. MISS: these garments are not asked
        for; a class of which none is left gains nothing.
        """
        before = self.average_precision()
        return {kind: self._mended(kind) - before for kind in ERRORS}

    def _mended(self, kind: Kind) -> np.ndarray:
        truth, predictions = self.overlaps.ground_truth, self.overlaps.predictions
        category_id, correct = predictions.category_id.copy(), self.kind == Kind.CORRECT
        considered = (self.kind != Kind.IGNORED) & (self.kind != kind)
        positives = self._num_garments
        if kind in (Kind.CLS, Kind.LOC):
            found = np.isin(self.garment, self.garment[correct])
            candidates = self._by_score[((self.kind == kind) & ~found)[self._by_score]]
            garments, first = np.unique(self.garment[candidates], return_index=True)
            mended = candidates[first]
            category_id[mended] = truth.category_id[garments]
            considered[mended] = correct[mended] = True
        if kind == Kind.MISS:
            positives = positives - self.counts()[Kind.MISS]
        return self._average_precision(category_id, considered, correct, positives)

    def _average_precision(
        self, category_id: np.ndarray, considered: np.ndarray, correct: np.ndarray, positives: np.ndarray
    ) -> np.ndarray:
        """COCO's, of detections with such classes, where so many garments of each class are to be found."""
        order = self._by_score[considered[self._by_score]]
        precision = np.where(self._num_garments > 0, 0.0, np.nan)
        for index in np.flatnonzero(positives):
            hits = correct[order[category_id[order] == index]]
            precision[index] = _interpolated(hits, positives[index])
        return precision

    @cached_property
    def _by_score(self) -> np.ndarray:
        """int64 (D,): all detections, best score first; of equal scores in the order of their image ids."""
        predictions = self.overlaps.predictions
        return np.lexsort((predictions.image_id[predictions.detection_image], -predictions.score))

    @cached_property
    def _num_garments(self) -> np.ndarray:
        """int64 (C,), crowds apart."""
        truth = self.overlaps.ground_truth
        return np.bincount(truth.category_id[~truth.iscrowd], minlength=truth.schema.num_classes)


def find_errors(overlaps: BoxMatcher, *, foreground: float = 0.5) -> DetectionErrors:
    """TIDE's kinds of errors of boxes; the background's IoU is ``overlaps.minimum``.

    TIDE's values are 0.5 and 0.1. Where several kinds fit, the first of LOC, CLS, DUPE is meant, as in the
    authors' toolbox. All detections count, COCO's limit of 100 in a photo and class aside.
    """
    truth = overlaps.ground_truth
    matched = overlaps.match(iou=foreground)
    of_garment = ~truth.iscrowd[overlaps.garment]
    same, same_iou = overlaps.best(of_garment & overlaps.same_class)
    other, other_iou = overlaps.best(of_garment & ~overlaps.same_class)
    located = same_iou >= foreground
    on_crowd = np.append(truth.iscrowd, False)[matched]  # -1 is the last
    conditions = {
        Kind.IGNORED: on_crowd,
        Kind.CORRECT: matched >= 0,
        Kind.LOC: (same >= 0) & ~located,
        Kind.CLS: other_iou >= foreground,
        Kind.DUPE: located,
        Kind.BOTH: other >= 0,
    }
    kind = np.select(list(conditions.values()), list(conditions), Kind.BKG).astype(np.int8)
    garments = {Kind.CORRECT: matched, Kind.LOC: same, Kind.CLS: other, Kind.DUPE: same}
    garment = np.select([kind == each for each in garments], list(garments.values()), -1)
    return DetectionErrors(overlaps=overlaps, kind=kind, garment=garment)


def confusion_matrix(overlaps: BoxMatcher, *, score_threshold: float, iou: float = 0.5) -> np.ndarray:
    """What garments of each class were taken for.

    Detections with that score or a higher one are matched as COCO does it, but whatever the class: a garment
    is taken for what the best score on it says.

    Returns:
        int64 (C + 1, C + 1): a row for each class of garments and, last, for detections on no garment, whose
        IoU is below ``iou`` with all of them; a column for each class that was predicted and, last, for
        garments that were missed. The rows of classes sum to the classes' garments, crowds apart.
    """
    truth, predictions = overlaps.ground_truth, overlaps.predictions
    nothing = truth.schema.num_classes
    predicted = predictions.category_id.astype(np.int64)
    matched = overlaps.match(iou=iou, same_class=False, score_threshold=score_threshold)
    taken_for = np.full(truth.num_garments + 1, nothing)
    taken_for[matched] = predicted  # of detections without a match, in a last row that is not used
    matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
    garments = np.flatnonzero(~truth.iscrowd)
    np.add.at(matrix, (truth.category_id[garments], taken_for[garments]), 1)
    on_none = predictions.score >= score_threshold
    on_none[overlaps.detection[overlaps.iou >= iou]] = False
    matrix[nothing, :nothing] = np.bincount(predicted[on_none], minlength=nothing)
    return matrix


def _interpolated(hits: np.ndarray, positives: int) -> float:
    """Mean over 101 recalls of the highest precision at that recall or a higher one.

    Args:
        hits: bool (n,), whether each detection found a garment, best score first.
        positives: the garments to be found, at least one.
    """
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(found / positives, _RECALLS)
    return float(np.append(highest, np.zeros(1))[places].mean())
