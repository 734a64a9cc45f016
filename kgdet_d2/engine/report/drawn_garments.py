"""Garments drawn as their landmarks lie, with the landmarks' errors.

A landmark is where it lies in the boxes of the dataset's frontal garments, by the median; a box is as wide
and high as the class's boxes are, by the median, and its longer side is 1.
"""

from typing import NamedTuple

import numpy as np

from kgdet_d2.data.inspect.flip_check import check_flip_map
from kgdet_d2.evaluation.keypoint_error import KeypointErrors
from kgdet_d2.structures.annotations import AnnotationTable


class DrawnLandmark(NamedTuple):
    """A landmark of a drawn garment.

    Attributes:
        name: within the class.
        x: from the box's left, in longer sides of the box, as all lengths.
        y: from its top.
        error: the median distance from the truth, nan where no detection could be compared.
        compared: the number of detections that it is of.
    """

    name: str
    x: float
    y: float
    error: float
    compared: int


class DrawnGarment(NamedTuple):
    """A class's drawing.

    Attributes:
        name: of the class.
        garments: of the ground truth, crowds apart.
        width: of the box.
        height: likewise.
        landmarks: those whose place is known.
        edges: pairs of them, by the skeleton.
    """

    name: str
    garments: int
    width: float
    height: float
    landmarks: list[DrawnLandmark]
    edges: list[tuple[DrawnLandmark, DrawnLandmark]]

    @property
    def worst(self) -> DrawnLandmark | None:
        """The landmark with the largest error, None where none is known."""
        known = [landmark for landmark in self.landmarks if landmark.compared]
        return max(known, key=lambda landmark: landmark.error, default=None)


def draw_garments(truth: AnnotationTable, errors: KeypointErrors) -> list[DrawnGarment]:
    """Draw each class that has a landmark whose place is known.

    Args:
        truth: the ground truth.
        errors: of its landmarks.
    """
    drawn = [
        _draw_class(truth, errors, check.category_id, check.median_xy) for check in check_flip_map(truth)
    ]
    return [garment for garment in drawn if garment.landmarks]


def _draw_class(
    truth: AnnotationTable, errors: KeypointErrors, category_id: int, median_xy: np.ndarray
) -> DrawnGarment:
    """Draw a class; ``median_xy`` (K_c, 2) are places in the box, 0..1, nan where not known."""
    schema = truth.schema
    of_class = truth.category_id == category_id
    boxes = truth.box_float64[of_class & truth.has_area]
    sides = np.median(boxes[:, 2:] - boxes[:, :2], axis=0) if len(boxes) else np.ones(2)
    width, height = (sides / sides.max()).tolist()
    places = median_xy * [width, height]
    landmarks: dict[int, DrawnLandmark] = {}
    for local in np.flatnonzero(np.isfinite(places).all(axis=1)).tolist():
        values = _errors_of(errors, category_id, schema.slots[category_id][local])
        x, y = places[local].tolist()
        landmarks[local] = DrawnLandmark(
            name=schema.keypoint_names[category_id][local],
            x=x,
            y=y,
            error=float(np.median(values)) if len(values) else float("nan"),
            compared=len(values),
        )
    return DrawnGarment(
        name=schema.class_names[category_id],
        garments=int(np.count_nonzero(of_class & ~truth.iscrowd)),
        width=width,
        height=height,
        landmarks=list(landmarks.values()),
        edges=[
            (landmarks[start], landmarks[end])
            for start, end in schema.skeleton[category_id]
            if start in landmarks and end in landmarks
        ],
    )


def _errors_of(errors: KeypointErrors, category_id: int, slot: int) -> np.ndarray:
    """Return the known errors of a class's landmark, float64, in longer sides of the garments' boxes."""
    values = errors.side_error[(errors.category_id == category_id) & (errors.slot == slot)]
    return values[~np.isnan(values)]
