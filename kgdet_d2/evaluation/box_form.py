"""A guess at the form of boxes in COCO results, x y width height or x1 y1 x2 y2, which files do not say."""

from collections.abc import Callable

import numpy as np

from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions

_MARGIN = 0.1  # of the photo's sides
_MANY, _FEW = 0.1, 0.01


def check_box_form(
    ground_truth: AnnotationTable, predictions: Predictions, entry: Callable[[int], str]
) -> None:
    """Refuse boxes that were read as x y width height and look as if they were x1 y1 x2 y2.

    That is when more than 10 % of them do not fit their photos as they were read, and at most 1 % would not
    in the other form. A box fits that has no negative side and stands out of the photo by at most a tenth of
    the photo's. The other way round some side would be negative, which :class:`Predictions` refuses.

    Args:
        ground_truth: with the photos' sizes.
        predictions: on its photos.
        entry: returns how the file names a detection, given its row.

    Raises:
        ValueError: naming the first detection whose box does not fit.
    """
    if not predictions.num_detections:
        return
    rows = ground_truth.image_rows(predictions.image_id)[predictions.detection_image]
    sizes = np.column_stack([ground_truth.width[rows], ground_truth.height[rows]])
    written = predictions.box_xywh
    misfits, others = _misfits(predictions.box, sizes), _misfits(written, sizes)
    if misfits.mean() > _MANY and others.mean() <= _FEW:
        row = int(misfits.argmax())
        width, height = sizes[row].tolist()
        raise ValueError(
            f"{entry(row)}: bbox: expected x y width height in a photo of {width} x {height} pixels, got "
            f"{written[row].tolist()}; {misfits.sum()} of {len(written)} boxes do not fit their photos, and "
            f"as x1 y1 x2 y2 {others.sum()} do not"
        )


def _misfits(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return whether boxes (D, 4), x1 y1 x2 y2, do not fit photos of width and height (D, 2), bool (D,)."""
    corner, opposite = boxes[:, :2], boxes[:, 2:]
    inside = (corner >= -_MARGIN * sizes) & (opposite <= (1 + _MARGIN) * sizes)
    return np.logical_not((inside & (corner <= opposite)).all(axis=1))
