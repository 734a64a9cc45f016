"""Predictions that are not finite, as half precision may give them: each costs itself, and all are counted.

One among the boxes that are suppressed together would spoil that of all others.

n predictions.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn

from kgdet_d2.layers.precision import keep_full_precision

logger = logging.getLogger(__name__)


class _Counter:
    """How many predictions this process has left out."""

    number = 0


def finite_rows(*values: Tensor) -> Tensor:
    """Check which of n predictions are finite in all values (n, ...): bool (n,). The others are counted."""
    finite = torch.stack([value[:, None].flatten(1).isfinite().all(dim=1) for value in values]).all(dim=0)
    left_out = len(finite) - int(finite.sum())
    if left_out:
        log_first_n(logging.WARNING, "predictions that are not finite are left out", name=__name__)
        _Counter.number += left_out
    return finite


def finite_scores(scores: Tensor, lowest: float) -> Tensor:
    """Return scores of any shape with the lowest in place of those not finite, which sorting puts first."""
    return scores.masked_fill(~finite_rows(scores.flatten()).view_as(scores), lowest)


def finite_detections(detections: Instances) -> Instances:
    """Return the detections all of whose fields are finite."""
    fields = detections.get_fields().values()
    return detections[finite_rows(*(getattr(field, "tensor", field) for field in fields))]


@contextmanager
def counted_left_out() -> Iterator[None]:
    """Log at the end, where there were any, how many detections were left out in all processes."""
    before = _Counter.number
    yield
    number = sum(comm.all_gather(_Counter.number - before))
    if number:
        logger.warning("%d detections were not finite and were left out", number)


class ExactBoxes:
    """A base before Detectron2's RetinaNet or FCOS: boxes are float32 and finite.

    Args:
        detectron2_arguments: those of Detectron2's class.
    """

    def __init__(self, *, head: nn.Module, **detectron2_arguments: Any):
        super().__init__(head=head, **detectron2_arguments)  # type: ignore[call-arg]
        keep_full_precision(head.bbox_pred)  # type: ignore[arg-type]

    def _decode_per_level_predictions(self, anchors: Any, pred_scores: Tensor, *others: Any) -> Instances:
        """Decode as Detectron2 does, and leave out boxes that are not finite."""
        finite_rows(pred_scores)  # to count them: what is not a number is above no threshold
        found = super()._decode_per_level_predictions(anchors, pred_scores, *others)  # type: ignore[misc]
        return finite_detections(found)
