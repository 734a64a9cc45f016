"""A guess at the form that boxes are in, x y width height or x1 y1 x2 y2, which files do not say."""

import logging
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode

from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions

logger = logging.getLogger(__name__)

_NAMES = {BoxMode.XYWH_ABS: "x y width height", BoxMode.XYXY_ABS: "x1 y1 x2 y2"}
_MARGIN = 0.1  # of the photo's sides
_MANY, _FEW = 0.1, 0.01


def warn_of_box_form(
    ground_truth: AnnotationTable, predictions: Predictions, form: BoxMode, path: str | Path
) -> None:
    """Warn where boxes look as if they were not in the form that they were read in.

    That is when more than 10 % of them do not fit their photos as they were read, and at most 1 % would not
    in the other form. A box fits that has no negative side and stands out of the photo by at most a tenth of
    the photo's.

    Args:
        ground_truth: with the photos' sizes.
        predictions: on its photos.
        form: ``XYWH_ABS`` or ``XYXY_ABS``, in which the file's boxes were read.
        path: the file, for the warning.
    """
    if not predictions.num_detections:
        return
    rows = ground_truth.image_rows(predictions.image_id)[predictions.detection_image]
    sizes = np.column_stack([ground_truth.width[rows], ground_truth.height[rows]])
    written = predictions.box if form == BoxMode.XYXY_ABS else predictions.box_xywh
    misfits = {
        other: _share_of_misfits(BoxMode.convert(written, other, BoxMode.XYXY_ABS), sizes) for other in _NAMES
    }
    other = BoxMode.XYXY_ABS if form == BoxMode.XYWH_ABS else BoxMode.XYWH_ABS
    if misfits[form] > _MANY and misfits[other] <= _FEW:
        logger.warning(
            "%s: boxes are read as %s, and %.0f %% of them do not fit their photos; as %s %.0f %% do not: "
            "they look as if they were %s",
            *(path, _NAMES[form], 100 * misfits[form], _NAMES[other], 100 * misfits[other], _NAMES[other]),
        )


def _share_of_misfits(boxes: np.ndarray, sizes: np.ndarray) -> float:
    """Return the share of boxes (D, 4), x1 y1 x2 y2, that do not fit photos of width and height (D, 2)."""
    corner, opposite = boxes[:, :2], boxes[:, 2:]
    inside = (corner >= -_MARGIN * sizes) & (opposite <= (1 + _MARGIN) * sizes)
    fits = (inside & (corner <= opposite)).all(axis=1)
    return float((~fits).mean())
