"""What AP would be if one thing about the detections were true, and how far it is from true.

An oracle changes each detection by its garment: it gives it the garment's class, its box, or landmarks nearer
to the garment's. Scores stay, no detection comes or goes, and a changed detection is evaluated like any
other: of two that get the same garment's class one is a false positive. So, unlike TIDE's dAP, an
oracle shows what stays lost to misses, duplicates and the order of scores, and it can cost AP.

The garment of a detection, all at an IoU of 0.5 or more, is

1. the one of its class that COCO's matching gives it; a detection matched with a crowd stays as it is;
2. otherwise the one of its class that it overlaps most, which another detection found;
3. otherwise, for an oracle of classes, the one of any class that it overlaps most.

So a detection that has a garment of its class keeps its class. A detection without a garment stays as it is.

Stored predictions hold the landmarks of the predicted class alone; a detection has none of another class.
Where classes change and landmarks do not come from the truth, the AP of landmarks is unknown, nan. Landmarks
change where they are labelled, the others stay as predicted; in a detection whose class changes the others
lie at the centre of the garment's box. That garment's OKS does not count them, unless it has no labelled
landmark at all: then a detection that is matched with it is ignored, by COCO's rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from kgdet_d2.evaluation.average_precision import (
    AveragePrecision,
    box_average_precision,
    keypoint_average_precision,
)
from kgdet_d2.evaluation.keypoint_error import keypoint_distances
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.structures.predictions import Predictions, class_keypoints

_IOU = 0.5
_SCORES = ("AP", "AP50")


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """What is changed about the detections that have a garment.

    Attributes:
        true_class: they get the garment's class.
        true_box: they get the garment's box.
        keypoint_error: what is left of each labelled landmark's distance from the truth, 0..1.
    """

    true_class: bool = False
    true_box: bool = False
    keypoint_error: float = 1.0


ORACLES = {
    "as they are": Oracle(),
    "class from the truth": Oracle(true_class=True),
    "box from the truth": Oracle(true_box=True),
    "landmark error halved": Oracle(keypoint_error=0.5),
    "landmark error quartered": Oracle(keypoint_error=0.25),
    "landmarks from the truth": Oracle(keypoint_error=0.0),
    "class and landmarks from the truth": Oracle(true_class=True, keypoint_error=0.0),
    "class, box and landmarks from the truth": Oracle(true_class=True, true_box=True, keypoint_error=0.0),
}


def oracle_scores(matcher: BoxMatcher) -> dict[str, dict[str, dict[str, float]]]:
    """Compute the AP of every oracle's detections.

    Args:
        matcher: pairs of detections and garments, with a minimal IoU of at most 0.5.

    Returns:
        ``{oracle: {"bbox": {"AP", "AP50"}, "keypoints": {"AP", "AP50"}}}`` in percent, landmarks being
        visible and occluded ones; nan where there is no garment or the landmarks are unknown.
    """
    truth = matcher.ground_truth

    @cache
    def boxes(true_class: bool, true_box: bool) -> dict[str, float]:
        predictions = apply_oracle(matcher, Oracle(true_class=true_class, true_box=true_box))
        (result,) = box_average_precision(truth, predictions, areas=["all"])
        return _scores(result)

    @cache
    def keypoints(true_class: bool, keypoint_error: float) -> dict[str, float]:
        # OKS has the garment's area, so that the detection's box makes no difference.
        oracle = Oracle(true_class=true_class, keypoint_error=keypoint_error)
        predictions = apply_oracle(matcher, oracle)
        if not predictions.has_keypoints:
            return dict.fromkeys(_SCORES, math.nan)
        (result,) = keypoint_average_precision(truth, predictions, visible_only=False, areas=["all"])
        return _scores(result)

    return {
        name: {
            "bbox": boxes(oracle.true_class, oracle.true_box),
            "keypoints": keypoints(oracle.true_class, oracle.keypoint_error),
        }
        for name, oracle in ORACLES.items()
    }


def _scores(result: AveragePrecision) -> dict[str, float]:
    summary = result.summary()
    return {name: summary[name] for name in _SCORES}


def apply_oracle(matcher: BoxMatcher, oracle: Oracle) -> Predictions:
    """Return the detections, as many and with the same scores, as an oracle changes them.

    Args:
        matcher: pairs of detections and garments, with a minimal IoU of at most 0.5.
        oracle: what is changed.

    Returns:
        Boxes alone where classes change and landmarks do not become true.
    """
    truth, predictions = matcher.ground_truth, matcher.predictions
    garment = garments_of_detections(matcher, any_class=oracle.true_class)
    on = np.flatnonzero(garment >= 0)
    category_id, box = predictions.category_id.copy(), predictions.box.copy()
    if oracle.true_class:
        category_id[on] = truth.category_id[garment[on]]
    if oracle.true_box:
        box[on] = truth.box[garment[on]]
    changed = replace(predictions, box=box)
    if oracle.true_class and oracle.keypoint_error > 0:
        names = ("keypoints", "wide_detection", "wide_keypoints")
        nothing = {name: getattr(predictions, name)[:0] for name in names}
        changed = replace(changed, has_keypoints=False, **nothing)
    if not changed.has_keypoints or oracle.keypoint_error == 1:
        return replace(changed, category_id=category_id)
    return _with_keypoints(matcher, changed, category_id, garment, oracle.keypoint_error)


def garments_of_detections(matcher: BoxMatcher, *, any_class: bool) -> np.ndarray:
    """Return the garment's row of each detection, int64 (D,), -1 where it has none; see the module.

    Args:
        matcher: pairs of detections and garments, with a minimal IoU of at most 0.5.
        any_class: a detection that has none of its class has the one of another class.
    """
    iscrowd = np.append(matcher.ground_truth.iscrowd, False)  # the last is that of -1
    garment = matcher.match(iou=_IOU)
    on_crowd = iscrowd[garment]
    overlaps = (matcher.iou >= _IOU) & ~iscrowd[matcher.garment]
    among = [overlaps & matcher.same_class]
    if any_class:
        among.append(overlaps)
    for pairs in among:
        best, _ = matcher.best(pairs)
        garment = np.where(garment >= 0, garment, best)
    garment[on_crowd] = -1
    return garment


def _with_keypoints(
    matcher: BoxMatcher,
    predictions: Predictions,
    category_id: np.ndarray,
    garment: np.ndarray,
    keypoint_error: float,
) -> Predictions:
    """Return predictions with other classes and with landmarks nearer to the truth.

    Args:
        matcher: what has the ground truth.
        predictions: the D detections with their classes and landmarks.
        category_id: int16 (D,), the classes that they get.
        garment: int64 (D,), the row of the garment that each has, or -1 where the class stays.
        keypoint_error: what is left of each labelled landmark's distance from the truth.
    """
    truth = matcher.ground_truth
    relabelled = _with_classes(matcher, predictions, category_id, garment)
    on = np.flatnonzero(garment >= 0)
    index, slot = class_keypoints(category_id[on], truth.schema)  # of each landmark of these detections
    detection = on[index]
    local = np.arange(len(index)) - np.searchsorted(index, index)  # index in the class
    source = truth.keypoint_offsets[garment[detection]] + local
    labelled = truth.labelled()[source]
    detection, slot, source = detection[labelled], slot[labelled], source[labelled]
    target = relabelled.keypoint_offsets[detection] + local[labelled]
    keypoints, wide_keypoints = relabelled.keypoints.copy(), relabelled.wide_keypoints.copy()
    true = truth.points_float64[source]
    keypoints[target] = true + keypoint_error * (keypoints[target] - true)
    wide_row = np.full(predictions.num_detections, -1)
    wide_row[relabelled.wide_detection] = np.arange(len(wide_keypoints))
    is_wide = wide_row[detection] >= 0
    wide_keypoints[wide_row[detection[is_wide]], slot[is_wide]] = keypoints[target[is_wide]]
    return replace(relabelled, keypoints=keypoints, wide_keypoints=wide_keypoints)


def _with_classes(
    matcher: BoxMatcher, predictions: Predictions, category_id: np.ndarray, garment: np.ndarray
) -> Predictions:
    """Return predictions with other classes; landmarks of what changes lie at the garment's box's centre.

    Args:
        matcher: what has the ground truth.
        predictions: the D detections with their classes and landmarks.
        category_id: int16 (D,), the classes that they get.
        garment: int64 (D,), the row of the garment that each has, or -1 where the class stays.
    """
    truth, schema = matcher.ground_truth, predictions.schema
    stays = category_id == predictions.category_id
    changed = np.flatnonzero(~stays)
    centre = np.zeros((predictions.num_detections, 2), np.float32)
    centre[changed] = (truth.box[garment[changed], :2] + truth.box[garment[changed], 2:]) / 2

    counts = np.array([len(slots) for slots in schema.slots])[category_id]
    keypoints = np.repeat(centre, counts, axis=0)
    old_keypoints = np.repeat(stays, np.diff(predictions.keypoint_offsets))
    keypoints[np.repeat(stays, counts)] = predictions.keypoints[old_keypoints]

    images = truth.image_rows(predictions.image_id)[predictions.detection_image[changed]]
    further = changed[truth.no_visible_by_class[images, category_id[changed]]]
    kept = stays[predictions.wide_detection]
    wide_detection = np.concatenate([predictions.wide_detection[kept], further])
    everywhere = np.repeat(centre[further, None], schema.num_keypoints, axis=1)
    wide_keypoints = np.concatenate([predictions.wide_keypoints[kept], everywhere])
    order = np.argsort(wide_detection)
    return replace(
        predictions,
        category_id=category_id,
        keypoints=keypoints,
        wide_detection=wide_detection[order],
        wide_keypoints=wide_keypoints[order],
    )


def matched_summary(matcher: BoxMatcher) -> dict[str, float]:
    """Summarize how true the detections on garments are.

    Class and box are those of the detection with the best score on a garment, by COCO's matching at IoU 0.5
    but whatever the class, as in :func:`confusion_matrix`. Landmarks are those of the detection that the
    matching within classes gives a garment, as in :func:`keypoint_errors`, for a detection of another class
    has none to compare. Crowds are left out.

    Args:
        matcher: pairs of detections and garments, with a minimal IoU of at most 0.5.

    Returns:
        ``garments``; ``found``, those with a detection; ``right_class``, the share of these in percent;
        ``median_IoU``; ``compared``, the garments with a detection of their class and a labelled landmark,
        visible or occluded; and means over these, relative to the square root of the box's area:
        ``landmark_error``, the mean distance of a garment's labelled landmarks from the truth, and
        ``common_shift``, the length of their mean displacement, by which they are all off together. nan where
        there is nothing to compute from.
    """
    truth = matcher.ground_truth
    matched = matcher.match(iou=_IOU, same_class=False)
    found = (matched[matcher.detection] == matcher.garment) & ~truth.iscrowd[matcher.garment]  # of the pairs
    errors, shifts = np.zeros(0), np.zeros(0)
    if matcher.predictions.has_keypoints:
        errors, shifts = _errors_and_shifts(matcher)
    return {
        "garments": int(np.count_nonzero(~truth.iscrowd)),
        "found": int(np.count_nonzero(found)),
        "right_class": 100 * _or_nan(np.mean, matcher.same_class[found]),
        "median_IoU": _or_nan(np.median, matcher.iou[found]),
        "compared": len(errors),
        "landmark_error": _or_nan(np.mean, errors),
        "common_shift": _or_nan(np.mean, shifts),
    }


def _errors_and_shifts(matcher: BoxMatcher) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean error and the common shift, float64 (n,) both, of the garments that can be compared."""
    truth = matcher.ground_truth
    distances = keypoint_distances(matcher, visible_only=False, iou=_IOU)
    known = ~np.isnan(distances.distance[:, 0])
    garments, index = np.unique(distances.garment[known], return_inverse=True)
    relative = distances.distance[known] / np.sqrt(truth.area[garments])[index, None]
    x, y, length = (
        np.bincount(index, values, minlength=len(garments)) / np.bincount(index, minlength=len(garments))
        for values in (relative[:, 0], relative[:, 1], np.hypot(relative[:, 0], relative[:, 1]))
    )
    return length, np.hypot(x, y)


def _or_nan(statistic: Callable[[np.ndarray], np.floating], values: np.ndarray) -> float:
    return float(statistic(values)) if len(values) else math.nan
