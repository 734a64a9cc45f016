"""Detections as the release keeps them, and how to compare two lists of detections."""

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from tests.helpers.release_recordings import Recording


def inclusive_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Suppress non-maxima as the release does, written out.

    A box reaches to the end of its last pixel: its sides are x2 - x1 + 1 and y2 - y1 + 1.

    Returns:
        Indices of what is kept, by descending score.
    """
    corners, classes = boxes.numpy(), classes.numpy()
    areas = (corners[:, 2] - corners[:, 0] + 1) * (corners[:, 3] - corners[:, 1] + 1)
    left, kept = np.argsort(-scores.numpy(), kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        starts = np.maximum(corners[best, :2], corners[left, :2])
        ends = np.minimum(corners[best, 2:], corners[left, 2:])
        overlap = (ends - starts + 1).clip(min=0).prod(axis=1)
        iou = overlap / (areas[best] + areas[left] - overlap)
        left = left[(iou <= threshold) | (classes[left] != classes[best])]
    return torch.tensor(np.array(kept, dtype=np.int64))


def check_detections(
    found: Instances, recording: Recording, prefix: str, image: int, *, scale: float = 1
) -> Instances:
    """Check for the detections ``{prefix}boxes_{image}`` and ``{prefix}labels_{image}``, in any order.

    Boxes may differ by 0.001 pixels, scores by 1e-5.

    Args:
        scale: the recorded coordinates are those found, divided by it.

    Returns:
        ``found`` in the order of the recording.
    """
    recorded = recording[f"{prefix}boxes_{image}"]  # x1, y1, x2, y2, score
    labels = recording[f"{prefix}labels_{image}"]
    boxes = np.c_[found.pred_boxes.tensor.numpy(), found.scores.numpy()]
    assert len(boxes) == len(recorded)
    factor = np.array([scale] * 4 + [1])
    # Rows are matched by class, score and place; the scores are made to count as much as the coordinates.
    weighted = [rows * [1, 1, 1, 1, 1000] for rows in (boxes, recorded * factor)]
    distance = np.abs(weighted[1][:, None] - weighted[0][None]).max(axis=2)
    distance[labels[:, None] != found.pred_classes.numpy()[None]] = np.inf
    order = distance.argmin(axis=1)
    assert sorted(order) == list(range(len(boxes)))
    np.testing.assert_allclose(boxes[order, :4], recorded[:, :4] * scale, rtol=0, atol=1e-3)
    np.testing.assert_allclose(boxes[order, 4], recorded[:, 4], rtol=0, atol=1e-5)
    return found[torch.from_numpy(order)]
