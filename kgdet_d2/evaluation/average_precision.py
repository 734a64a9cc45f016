"""Box AP and landmark AP by COCO's rules, class by class on each class's own landmarks."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from kgdet_d2.evaluation.coco_backends import BACKENDS, Backend, Objects, Ranges
from kgdet_d2.evaluation.similarity import (
    BoxIoU,
    ClassPairs,
    ObjectKeypointSimilarity,
    Similarity,
    pairs_by_class,
)
from kgdet_d2.evaluation.subset_curves import SubsetCurves
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.utils.check import check

# A garment's size by its box, in square pixels; the letter is the one in APs, APm, APl.
AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
_THRESHOLDS: dict[str, int | slice] = {"": slice(None), "50": 0, "75": 5}  # of 0.50, 0.55 to 0.95
_NUM_THRESHOLDS, _NUM_RECALLS = 10, 101
_MAX_KEYPOINT_DETECTIONS = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Subset:
    """A part of the ground truth to compute scores for.

    Attributes:
        garments: bool (G,), the garments that count. The others are ignored as COCO ignores other sizes: to
            miss them costs nothing, and a detection matched with one counts neither way. None: all count.
        images: bool (N,), the images that exist; the others' garments and detections do not. None: all.
    """

    garments: np.ndarray | None = None
    images: np.ndarray | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all garments count and all images exist."""
        return self.garments is None and self.images is None


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePrecision:
    """Precision and recall of C classes, -1 where there is no garment to find.

    Attributes:
        class_names: C names.
        areas: A names, the first is "all".
        max_detections: M limits of detections of a class in an image, rising.
        precision: float64 (T, R, C, A, 1), at T = 10 thresholds of similarity from 0.5 to 0.95 and R = 101 of
            recall from 0 to 1; of the highest limit alone, COCO's scores using no other.
        recall: float64 (T, C, A, M), the highest reached.
    """

    class_names: Sequence[str]
    areas: Sequence[str]
    max_detections: Sequence[int]
    precision: np.ndarray
    recall: np.ndarray

    def summary(self) -> dict[str, float]:
        """Return COCO's scores in percent, means over the classes that have garments, otherwise nan.

        They are AP, AP50, AP75; APs, APm, APl of small, medium and large garments; AR1, AR10, AR100 at the
        limits of detections (where there is one limit: AR, AR50, AR75); ARs, ARm, ARl; AP-<class>.
        """
        precision, recall = self.precision[..., 0], self.recall  # (T, R, C, A), (T, C, A, M)
        scores = {}
        for name, threshold in _THRESHOLDS.items():
            scores[f"AP{name}"] = _percent(precision[threshold, ..., 0])
        sizes = list(enumerate(self.areas))[1:]  # "all" is the first
        for index, area in sizes:
            scores[f"AP{area[0]}"] = _percent(precision[..., index])
        if len(self.max_detections) == 1:
            for name, threshold in _THRESHOLDS.items():
                scores[f"AR{name}"] = _percent(recall[threshold, ..., 0, -1])
        else:
            for index, limit in enumerate(self.max_detections):
                scores[f"AR{limit}"] = _percent(recall[..., 0, index])
        for index, area in sizes:
            scores[f"AR{area[0]}"] = _percent(recall[..., index, -1])
        for index, name in enumerate(self.class_names):
            scores[f"AP-{name}"] = _percent(precision[:, :, index, 0])
        return scores


def box_average_precision(
    ground_truth: AnnotationTable,
    predictions: Predictions,
    *,
    max_detections: int = 100,
    areas: Sequence[str] = ("all", "small", "medium", "large"),
    subsets: Sequence[Subset] = (Subset(),),
    backend: str = "faster-coco-eval",
) -> list[AveragePrecision]:
    """Compute the AP of boxes.

    Args:
        ground_truth: N images with G garments.
        predictions: of the same schema. Images that were not predicted count as missed.
        max_detections: the most detections of a class in an image that count, best scores first.
        areas: some of ``AREAS``, "all" first. Fewer are faster.
        subsets: the parts to compute scores for; IoUs are computed once for all.
        backend: one of ``BACKENDS``.

    Returns:
        One a subset.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """
    return _by_class(
        ground_truth,
        predictions,
        BoxIoU(ground_truth, predictions),
        ignored=ground_truth.iscrowd,
        limits=sorted({min(limit, max_detections) for limit in (1, 10, max_detections)}),
        areas=areas,
        subsets=subsets,
        backend=backend,
    )


def keypoint_average_precision(
    ground_truth: AnnotationTable,
    predictions: Predictions,
    *,
    visible_only: bool,
    areas: Sequence[str] = ("all", "medium", "large"),
    subsets: Sequence[Subset] = (Subset(),),
    backend: str = "faster-coco-eval",
) -> list[AveragePrecision]:
    """Compute the AP of landmarks, ranked by their own scores where they have some.

    OKS has the variance (2 sigma)^2, of the ground truth's schema, and the box's area. At most 20 detections
    of a class in an image count. A garment without a counted landmark is ignored.

    Args:
        ground_truth: N images with G garments.
        predictions: of the same schema. Images that were not predicted count as missed.
        visible_only: count landmarks with v = 2; otherwise those with v = 1 too.
        areas: some of ``AREAS``, "all" first. Fewer are faster.
        subsets: the parts to compute scores for; OKS is computed once for all.
        backend: one of ``BACKENDS``.

    Returns:
        One a subset.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """
    predictions = predictions.ranked_by_keypoints()
    return _by_class(
        ground_truth,
        predictions,
        ObjectKeypointSimilarity(ground_truth, predictions, visible_only=visible_only),
        ignored=ground_truth.iscrowd | (ground_truth.num_labelled(visible_only=visible_only) == 0),
        limits=[_MAX_KEYPOINT_DETECTIONS],
        areas=areas,
        subsets=subsets,
        backend=backend,
    )


def average_precisions(
    ground_truth: AnnotationTable,
    predictions: Predictions,
    *,
    max_detections: int = 100,
    sizes: bool = True,
    subsets: Sequence[Subset] = (Subset(),),
    backend: str = "faster-coco-eval",
) -> dict[str, list[AveragePrecision]]:
    """Compute every AP that the predictions have.

    Args:
        ground_truth: N images with G garments.
        predictions: of the same schema. Images that were not predicted count as missed.
        max_detections: the most detections of a class in an image that count for boxes.
        sizes: compute the AP of small, medium and large garments, too.
        subsets: the parts to compute scores for.
        backend: one of ``BACKENDS``.

    Returns:
        "bbox", and where the predictions have landmarks "keypoints" (visible and occluded ones count) and
        "keypoints_visible" (visible ones only) -> one a subset.

    Raises:
        ValueError: as :func:`box_average_precision` and :func:`keypoint_average_precision` do.
    """
    shared: dict[str, Any] = {"subsets": subsets, "backend": backend}
    if not sizes:
        shared["areas"] = ["all"]
    boxes = box_average_precision(ground_truth, predictions, max_detections=max_detections, **shared)
    results = {"bbox": boxes}
    if predictions.has_keypoints:
        for task, visible_only in {"keypoints": False, "keypoints_visible": True}.items():
            results[task] = keypoint_average_precision(
                ground_truth, predictions, visible_only=visible_only, **shared
            )
    return results


def _by_class(
    ground_truth: AnnotationTable,
    predictions: Predictions,
    similarity: Similarity,
    *,
    ignored: np.ndarray,
    limits: Sequence[int],
    areas: Sequence[str],
    subsets: Sequence[Subset],
    backend: str,
) -> list[AveragePrecision]:
    """Compute the AP of each subset with one class in memory at a time.

    Args:
        ground_truth: N images with G garments.
        predictions: of the same schema.
        similarity: of garments and detections.
        ignored: bool (G,), garments that are ignored in every subset.
        limits: M limits of detections of a class in an image, rising.
        areas: A of ``AREAS``.
        subsets: the parts to compute scores for.
        backend: one of ``BACKENDS``.
    """
    _check_subsets(subsets, ground_truth)
    results = [_nothing_found(ground_truth.schema.class_names, areas, limits) for _ in subsets]
    ranges = [AREAS[area] for area in areas]
    with gc_disabled():
        for pairs in pairs_by_class(ground_truth, predictions, max_detections=limits[-1]):
            index = pairs.class_index
            similarities = _similarities(pairs, similarity)
            if len(subsets) == 1 and subsets[0].is_whole:
                matcher: Backend = BACKENDS[backend](_detection_objects(pairs, predictions), similarities)
                garments, images = (
                    _garment_objects(pairs, ground_truth, ignored),
                    np.arange(len(pairs.images)),
                )
                found = [_curves(matcher, garments, images, ranges, limits)]
            else:
                matched = SubsetCurves(
                    pairs,
                    similarities,
                    score=predictions.score,
                    detection_area=predictions.area,
                    garment_area=ground_truth.area,
                    iscrowd=ground_truth.iscrowd,
                )
                everywhere = np.ones(len(pairs.images), bool)
                found = []
                for subset in subsets:
                    left_out = ignored if subset.garments is None else ignored | ~subset.garments
                    exists = everywhere if subset.images is None else subset.images[pairs.images]
                    found.append(matched.curves(left_out, exists, ranges, limits))
            for result, (precision, recall) in zip(results, found, strict=True):
                result.precision[:, :, index], result.recall[:, index] = precision, recall
    return results


def _nothing_found(
    class_names: Sequence[str], areas: Sequence[str], limits: Sequence[int]
) -> AveragePrecision:
    """Return precision and recall of -1 everywhere."""
    shape = (len(class_names), len(areas))
    return AveragePrecision(
        class_names=class_names,
        areas=areas,
        max_detections=limits,
        precision=np.full((_NUM_THRESHOLDS, _NUM_RECALLS, *shape, 1), -1.0),
        recall=np.full((_NUM_THRESHOLDS, *shape, len(limits)), -1.0),
    )


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable the search for cycles, which Python would repeat over millions of small objects without any."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _curves(
    matcher: Backend, garments: Objects, images: np.ndarray, areas: Ranges, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute precision (T, R, A, 1) at the highest limit and recall (T, A, M) at all."""
    precision, recall = matcher.curves(garments, images, areas, limits[-1:])
    if len(limits) > 1:
        # The rest is recall alone, to which images without garments, which hold most detections, add nothing.
        has_garments = np.array([len(garments[image]) > 0 for image in images.tolist()], bool)
        _, lower_recall = matcher.curves(garments, images[has_garments], areas, limits[:-1])
        recall = np.concatenate([lower_recall, recall], axis=-1)
    return precision, recall


def _check_subsets(subsets: Sequence[Subset], ground_truth: AnnotationTable) -> None:
    shapes = {"garments": (ground_truth.num_garments,), "images": (len(ground_truth),)}
    for subset in subsets:
        for field, shape in shapes.items():
            mask = getattr(subset, field)
            if mask is not None:
                fits = mask.shape == shape and mask.dtype == bool
                check(fits, f"subset: {field}: expected bool {shape}, got {mask.dtype} {mask.shape}")


def _similarities(pairs: ClassPairs, similarity: Similarity) -> list[np.ndarray]:
    """Return the similarities (D, G) of each image, (0, 0) where one of the two is missing."""
    nothing = np.zeros((0, 0))
    return [
        similarity(garments, detections) if len(garments) and len(detections) else nothing
        for garments, detections in zip(pairs.garments, pairs.detections, strict=True)
    ]


def _detection_objects(pairs: ClassPairs, predictions: Predictions) -> list[list[dict]]:
    rows = np.concatenate(pairs.detections)
    scores, areas = predictions.score[rows].tolist(), predictions.area[rows].tolist()
    objects = (
        {"id": row + 1, "score": score, "area": area}
        for row, score, area in zip(rows.tolist(), scores, areas, strict=True)
    )
    return [list(islice(objects, len(of_image))) for of_image in pairs.detections]


def _garment_objects(
    pairs: ClassPairs, ground_truth: AnnotationTable, ignored: np.ndarray
) -> list[list[dict]]:
    rows = np.concatenate(pairs.garments)
    areas, iscrowd = ground_truth.area[rows].tolist(), ground_truth.iscrowd[rows].tolist()
    objects = (
        {"id": row + 1, "area": area, "iscrowd": int(is_crowd), "ignore": ignore}
        for row, area, is_crowd, ignore in zip(
            rows.tolist(), areas, iscrowd, ignored[rows].tolist(), strict=True
        )
    )
    return [list(islice(objects, len(of_image))) for of_image in pairs.garments]


def _percent(values: np.ndarray) -> float:
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else float("nan")
