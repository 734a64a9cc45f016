"""Box AP and landmark AP by COCO's rules, class by class on each class's own landmarks."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from kgdet_d2.evaluation.coco_backends import BACKENDS, Backend, Objects, Ranges
from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.evaluation.similarity import (
    BoxIoU,
    ClassPairs,
    ObjectKeypointSimilarity,
    Similarity,
    pairs_by_class,
)
from kgdet_d2.structures.predictions import Predictions

# A garment's size by its box, in square pixels; the letter is the one in APs, APm, APl.
AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
_THRESHOLDS = {"": slice(None), "50": 0, "75": 5}  # of 0.50, 0.55 to 0.95
_NUM_THRESHOLDS, _NUM_RECALLS = 10, 101
_MAX_KEYPOINT_DETECTIONS = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Subset:
    """A part of the ground truth to compute scores for.

    Attributes:
        garments: bool (G,), those that count. The others are ignored as COCO ignores other sizes: to miss
            them costs nothing, and a detection matched with one counts neither way. None: all count.
        photos: bool (N,); the others do not exist, nor do their detections. None: all of them.
    """

    garments: np.ndarray | None = None
    photos: np.ndarray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePrecision:
    """Precision and recall of C classes, -1 where there is no garment to find.

    Attributes:
        class_names: C names.
        areas: A names, the first is "all".
        max_detections: M limits of detections of a class in a photo, rising.
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
        """COCO's scores in percent, nan where there is no garment to find; means over classes that have any.

        AP, AP50, AP75; APs, APm, APl of small, medium and large garments; AR1, AR10, AR100 at the limits
        of detections (where there is one limit: AR, AR50, AR75); ARs, ARm, ARl; AP-<class>.
        """
        scores = {f"AP{name}": _percent(self.precision[t, ..., 0, 0]) for name, t in _THRESHOLDS.items()}
        sizes = list(enumerate(self.areas))[1:]
        scores |= {f"AP{area[0]}": _percent(self.precision[..., index, 0]) for index, area in sizes}
        if len(self.max_detections) == 1:
            scores |= {f"AR{name}": _percent(self.recall[t, ..., 0, -1]) for name, t in _THRESHOLDS.items()}
        else:
            limits = enumerate(self.max_detections)
            scores |= {f"AR{limit}": _percent(self.recall[..., 0, index]) for index, limit in limits}
        scores |= {f"AR{area[0]}": _percent(self.recall[..., index, -1]) for index, area in sizes}
        for index, name in enumerate(self.class_names):
            scores[f"AP-{name}"] = _percent(self.precision[:, :, index, 0, 0])
        return scores


def box_average_precision(
    ground_truth: GroundTruth,
    predictions: Predictions,
    *,
    max_detections: int = 100,
    areas: Sequence[str] = ("all", "small", "medium", "large"),
    subsets: Sequence[Subset] = (Subset(),),
    engine: str = "faster-coco-eval",
) -> list[AveragePrecision]:
    """AP of boxes.

    Args:
        ground_truth, predictions: of one schema. Photos that were not predicted count as missed.
        max_detections: the most detections of a class in a photo that count, best scores first.
        areas: some of ``AREAS``, "all" first. Fewer are faster.
        subsets: what to compute scores for; IoUs are computed once for all.
        engine: one of ``BACKENDS``.

    Returns:
        One a subset.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """
    similarity = BoxIoU(ground_truth, predictions)
    limits = sorted({min(limit, max_detections) for limit in (1, 10, max_detections)})
    ignored = ground_truth.iscrowd
    data = (ground_truth, predictions, similarity, ignored)
    return _by_class(*data, limits=limits, areas=areas, subsets=subsets, engine_name=engine)


def keypoint_average_precision(
    ground_truth: GroundTruth,
    predictions: Predictions,
    *,
    visible_only: bool,
    sigmas: Sequence[float] | None = None,
    areas: Sequence[str] = ("all", "medium", "large"),
    subsets: Sequence[Subset] = (Subset(),),
    engine: str = "faster-coco-eval",
) -> list[AveragePrecision]:
    """AP of landmarks: OKS with variance (2 sigma)^2 and the box's area, at most 20 detections of a class
    in a photo. A garment without a counted landmark is ignored.

    Args:
        visible_only: landmarks with v = 2 count; otherwise those with v = 1 too.
        sigmas: K, over the global slots; None: the schema's.

    The other arguments, what is returned and raised are those of :func:`box_average_precision`. ValueError is
    raised also where a garment has no counted landmark and predictions for it lack those of other classes.
    """
    sigmas = ground_truth.schema.sigmas if sigmas is None else sigmas
    similarity = ObjectKeypointSimilarity(ground_truth, predictions, sigmas=sigmas, visible_only=visible_only)
    ignored = ground_truth.iscrowd | (ground_truth.num_labelled(visible_only=visible_only) == 0)
    limits = [_MAX_KEYPOINT_DETECTIONS]
    data = (ground_truth, predictions, similarity, ignored)
    return _by_class(*data, limits=limits, areas=areas, subsets=subsets, engine_name=engine)


def average_precisions(
    ground_truth: GroundTruth,
    predictions: Predictions,
    *,
    sigmas: Sequence[float] | None = None,
    max_detections: int = 100,
    sizes: bool = True,
    subsets: Sequence[Subset] = (Subset(),),
    engine: str = "faster-coco-eval",
) -> dict[str, list[AveragePrecision]]:
    """All there is for the predictions: "bbox", and where they have landmarks "keypoints" (visible and
    occluded ones count) and "keypoints_visible" (visible ones only).

    Args:
        sizes: AP of small, medium and large garments, too.

    The other arguments, the lists' items and what is raised are those of :func:`box_average_precision` and
    :func:`keypoint_average_precision`.
    """
    shared = {"subsets": subsets, "engine": engine} | ({} if sizes else {"areas": ["all"]})
    data = (ground_truth, predictions)
    results = {"bbox": box_average_precision(*data, max_detections=max_detections, **shared)}
    if predictions.has_keypoints:
        for task, visible_only in {"keypoints": False, "keypoints_visible": True}.items():
            results[task] = keypoint_average_precision(
                *data, visible_only=visible_only, sigmas=sigmas, **shared
            )
    return results


def _by_class(
    ground_truth: GroundTruth,
    predictions: Predictions,
    similarity: Similarity,
    ignored: np.ndarray,
    *,
    limits: Sequence[int],
    areas: Sequence[str],
    subsets: Sequence[Subset],
    engine_name: str,
) -> list[AveragePrecision]:
    """One class in memory at a time."""
    _check_subsets(subsets, ground_truth)
    class_names = ground_truth.schema.class_names
    shape = (len(class_names), len(areas))
    results = [
        AveragePrecision(
            class_names=class_names,
            areas=areas,
            max_detections=limits,
            precision=np.full((_NUM_THRESHOLDS, _NUM_RECALLS, *shape, 1), -1.0),
            recall=np.full((_NUM_THRESHOLDS, *shape, len(limits)), -1.0),
        )
        for _ in subsets
    ]
    with _without_search_for_cycles():
        for candidates in pairs_by_class(ground_truth, predictions, max_detections=limits[-1]):
            index = candidates.class_index
            engine = BACKENDS[engine_name](
                _detection_objects(candidates, predictions), _similarities(candidates, similarity)
            )
            for subset, result in zip(subsets, results, strict=True):
                left_out = ignored if subset.garments is None else ignored | ~subset.garments
                garments = _garment_objects(candidates, ground_truth, left_out)
                exists = slice(None) if subset.photos is None else subset.photos[candidates.photos]
                photos = np.arange(len(candidates.photos))[exists]
                curves = _curves(engine, garments, photos, [AREAS[area] for area in areas], limits)
                result.precision[:, :, index], result.recall[:, index] = curves
    return results


@contextmanager
def _without_search_for_cycles() -> Iterator[None]:
    """Millions of small objects without cycles, which Python would search for them over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _curves(
    engine: Backend, garments: Objects, photos: np.ndarray, areas: Ranges, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, A, 1) at the highest limit and recall (T, A, M) at all."""
    precision, recall = engine.curves(garments, photos, areas, limits[-1:])
    if len(limits) > 1:
        # The rest is recall alone, for which most detections, in photos without garments, are of no account.
        with_garments = np.array([len(garments[photo]) > 0 for photo in photos.tolist()], bool)
        _, lower = engine.curves(garments, photos[with_garments], areas, limits[:-1])
        recall = np.concatenate([lower, recall], axis=-1)
    return precision, recall


def _check_subsets(subsets: Sequence[Subset], ground_truth: GroundTruth) -> None:
    shapes = {"garments": (ground_truth.num_garments,), "photos": (len(ground_truth),)}
    for subset in subsets:
        for field, shape in shapes.items():
            mask = getattr(subset, field)
            if mask is not None and (mask.shape != shape or mask.dtype != bool):
                found = f"{mask.dtype} {mask.shape}"
                raise ValueError(f"subset: {field}: expected bool {shape}, got {found}")


def _similarities(candidates: ClassPairs, similarity: Similarity) -> list[np.ndarray]:
    nothing = np.zeros((0, 0))
    return [
        similarity(garments, detections) if len(garments) and len(detections) else nothing
        for garments, detections in zip(candidates.garments, candidates.detections, strict=True)
    ]


def _detection_objects(candidates: ClassPairs, predictions: Predictions) -> list[list[dict]]:
    rows = np.concatenate(candidates.detections)
    columns = (rows.tolist(), predictions.score[rows].tolist(), predictions.area[rows].tolist())
    objects = (
        {"id": row + 1, "score": score, "area": area} for row, score, area in zip(*columns, strict=True)
    )
    return [list(islice(objects, len(of_photo))) for of_photo in candidates.detections]


def _garment_objects(
    candidates: ClassPairs, ground_truth: GroundTruth, ignored: np.ndarray
) -> list[list[dict]]:
    rows = np.concatenate(candidates.garments)
    columns = (rows, ground_truth.area[rows], ground_truth.iscrowd[rows], ignored[rows])
    objects = (
        {"id": row + 1, "area": area, "iscrowd": int(iscrowd), "ignore": ignore}
        for row, area, iscrowd, ignore in zip(*(column.tolist() for column in columns), strict=True)
    )
    return [list(islice(objects, len(of_photo))) for of_photo in candidates.garments]


def _percent(values: np.ndarray) -> float:
    values = values[values > -1]
    return 100 * float(values.mean()) if values.size else float("nan")
