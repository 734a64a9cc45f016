"""Normalised error (NE) and percentage of correct landmarks (PCK), FLD's metrics and the pose literature's.

Distances are from a labelled landmark to the one that the detection matched with its garment predicts:

- NE: the distance after x is divided by the image's width, y by its height. Liu et al., "Fashion Landmark
  Detection in the Wild", ECCV 2016; Yan et al., "Unconstrained Fashion Landmark Detection via Hierarchical
  Recurrent Transformer Networks", ACM MM 2017, whose images are whole photos.
- NE_box: after x is divided by the width of the garment's box, y by its height. The ECCV paper's network is
  given the box. Published code of later work (Lee et al., "A Global-Local Embedding Module for Fashion
  Landmark Detection", ICCV Workshops 2019) cuts the box out of the photo and divides by what is left; its
  figures stand beside those of the ECCV paper and of Wang et al., "Attentive Fashion Grammar Network", CVPR
  2018.
- PCK@t: the share of landmarks, in percent, whose distance is at most t times the longer side of the
  garment's box. Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", PAMI 2013,
  with t = 0.1 or 0.2.

In those papers the garment is given; here it has to be found first. The detection matched with a garment is
the one of its class that COCO's matching at IoU 0.5 gives it, the best scores choosing first. A garment
without one has no distance. NE, NE_box and PCK are over landmarks of garments that were found, PCK_all counts
the others as wrong. The number of garments with counted landmarks, and the number of those that were found,
stand beside them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.schema import KeypointSchema

THRESHOLDS = (0.05, 0.1, 0.2)  # of PCK


@dataclass(frozen=True, eq=False, kw_only=True)
class KeypointErrors:
    """The errors of the M landmarks that count, nan where the garment was not found.

    Attributes:
        schema: the landmarks.
        slot: int64 (M,), global.
        category_id: int32 (M,), the garment's class.
        garment: int64 (M,), the garment's row in the ground truth.
        image_error: float64 (M,), the distance relative to the image's width and height.
        box_error: float64 (M,), the distance relative to the garment's box' width and height.
        side_error: float64 (M,), the distance relative to the longer side of the garment's box.
    """

    schema: KeypointSchema
    slot: np.ndarray
    category_id: np.ndarray
    garment: np.ndarray
    image_error: np.ndarray
    box_error: np.ndarray
    side_error: np.ndarray

    def overall(self) -> dict[str, dict[str, float]]:
        """Return the scores of all landmarks together.

        ``all``: over all landmarks alike. ``mean of landmarks``: the mean of :meth:`by_keypoint`, each
        landmark's kind weighing the same, as the average in FLD's tables; counts are sums.
        """
        scores = self._scores(np.zeros_like(self.slot), 1)
        everything = {name: values[0].item() for name, values in scores.items()}
        scores = self._scores(self.slot, self.schema.num_keypoints)
        mean = {name: _mean(values) for name, values in scores.items() if name not in _COUNTS}
        return {"all": everything, "mean of landmarks": everything | mean}

    def by_class(self) -> dict[str, dict[str, float]]:
        """Return the scores of each class's landmarks together."""
        return _rows(self.schema.class_names, self._scores(self.category_id, self.schema.num_classes))

    def by_keypoint(self) -> dict[str, dict[str, float]]:
        """Return the scores of each global slot; one that classes share bears the landmark's name alone."""
        return _rows(_slot_names(self.schema), self._scores(self.slot, self.schema.num_keypoints))

    def _scores(self, group: np.ndarray, num_groups: int) -> dict[str, np.ndarray]:
        """Return the scores (num_groups,) by name, nan where a mean is over nothing.

        Args:
            group: int (M,), the group that each landmark belongs to.
            num_groups: the number of groups.
        """
        found = self._found
        num_labelled = np.bincount(group, minlength=num_groups)
        num_found = np.bincount(group[found], minlength=num_groups)
        group_and_garment = group.astype(np.int64) * (self.garment.max(initial=0) + 1) + self.garment
        _, first = np.unique(group_and_garment, return_index=True)  # one landmark of each garment

        def mean(values: np.ndarray, count: np.ndarray) -> np.ndarray:
            sums = np.bincount(group[found], values[found], minlength=num_groups)
            return np.divide(sums, count, out=np.full(num_groups, np.nan), where=count > 0)

        scores = {
            "garments": np.bincount(group[first], minlength=num_groups),
            "garments_found": np.bincount(group[first][found[first]], minlength=num_groups),
            "landmarks": num_labelled,
            "landmarks_found": num_found,
            "NE": mean(self.image_error, num_found),
            "NE_box": mean(self.box_error, num_found),
        }
        for threshold in THRESHOLDS:
            correct = (self.side_error <= threshold).astype(np.float64)
            scores[f"PCK@{threshold:g}"] = 100 * mean(correct, num_found)
            scores[f"PCK_all@{threshold:g}"] = 100 * mean(correct, num_labelled)
        return scores

    @cached_property
    def _found(self) -> np.ndarray:
        """Whether the garment was found, bool (M,)."""
        return ~np.isnan(self.image_error)


_COUNTS = ("garments", "garments_found", "landmarks", "landmarks_found")


@dataclass(frozen=True, eq=False, kw_only=True)
class KeypointDistances:
    """The M landmarks that count, and how far the matched detections' landmarks are from them.

    Attributes:
        garment: int64 (M,), the garment's row in the ground truth.
        local: int64 (M,), index in the class.
        distance: float64 (M, 2), predicted - labelled in x and in y, in pixels; nan where the garment was not
            found.
    """

    garment: np.ndarray
    local: np.ndarray
    distance: np.ndarray


def keypoint_distances(matcher: BoxMatcher, *, visible_only: bool, iou: float = 0.5) -> KeypointDistances:
    """Compute the distances of landmarks from their predictions, in pixels.

    Args:
        matcher: pairs of detections and garments; the detections have landmarks.
        visible_only: landmarks with v = 2 count; otherwise those with v = 1 too.
        iou: the least IoU of a garment's box and the detection matched with it.
    """
    truth, predictions = matcher.ground_truth, matcher.predictions
    matched = matcher.match(iou=iou)
    matched_detection = np.full(truth.num_garments + 1, -1)
    # Detections without a match, whose garment is -1, go to the last row, which is not used.
    matched_detection[matched] = np.arange(predictions.num_detections)

    garment = np.repeat(np.arange(truth.num_garments), np.diff(truth.keypoint_offsets))  # (L,)
    rows = np.flatnonzero(truth.labelled(visible_only=visible_only) & ~truth.iscrowd[garment])  # (M,)
    garment = garment[rows]
    local = rows - truth.keypoint_offsets[garment]
    detection = matched_detection[garment]
    found = detection >= 0
    distance = np.full((len(rows), 2), np.nan)
    predicted_rows = predictions.keypoint_offsets[detection[found]] + local[found]
    distance[found] = predictions.keypoints[predicted_rows] - truth.points_float64[rows[found]]
    return KeypointDistances(garment=garment, local=local, distance=distance)


def keypoint_errors(matcher: BoxMatcher, *, visible_only: bool, iou: float = 0.5) -> KeypointErrors:
    """Compute the errors of landmarks; see the module for their definitions.

    Args:
        matcher: pairs of detections and garments; the detections have landmarks.
        visible_only: landmarks with v = 2 count; otherwise those with v = 1 too. The published code named
            above counts visible ones only.
        iou: the least IoU of a garment's box and the detection matched with it.
    """
    truth = matcher.ground_truth
    distances = keypoint_distances(matcher, visible_only=visible_only, iou=iou)
    garment, distance = distances.garment, distances.distance
    image, box = truth.garment_image[garment], truth.box_float64[garment]
    image_size = np.stack([truth.width[image], truth.height[image]], axis=1)
    box_size = box[:, 2:] - box[:, :2]
    return KeypointErrors(
        schema=truth.schema,
        slot=_slots(truth.schema, truth.category_id[garment], distances.local),
        category_id=truth.category_id[garment],
        garment=garment,
        image_error=_length(distance, image_size),
        box_error=_length(distance, box_size),
        side_error=_length(distance, box_size.max(axis=1, keepdims=True, initial=0)),
    )


def _length(distance: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the lengths (M,) of distances (M, 2) over units that broadcast.

    A box without size has no match: nan over 0.
    """
    scaled = np.divide(distance, unit, out=np.full_like(distance, np.nan), where=unit > 0)
    return np.hypot(scaled[:, 0], scaled[:, 1])


def _slots(schema: KeypointSchema, category_id: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Return the global slots, int64 (M,), of landmarks by their class (M,) and index in it (M,)."""
    starts = np.cumsum([0, *(len(slots) for slots in schema.slots)])
    return np.concatenate(schema.slots)[starts[category_id] + local]


def _slot_names(schema: KeypointSchema) -> list[str]:
    """Return ``class/landmark`` for each global slot, the landmark's name alone where classes share it."""
    num_classes = Counter(chain.from_iterable(schema.slots))
    return [
        name.split("/")[-1] if num_classes[slot] > 1 else name for slot, name in enumerate(schema.slot_names)
    ]


def _rows(names: Sequence[str], scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the scores of each group by its name."""
    rows = {}
    for index, name in enumerate(names):
        rows[name] = {score: values[index].item() for score, values in scores.items()}
    return rows


def _mean(values: np.ndarray) -> float:
    """Return the mean of what is not nan, nan of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
