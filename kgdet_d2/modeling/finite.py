"""Predictions that are not finite, as half precision may give them: each costs itself, not the whole evaluation.

n predictions.
"""

import logging
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor

logger = logging.getLogger(__name__)


def finite_rows(*values: Tensor) -> Tensor:
    """Check which of n predictions are finite in all values (n, ...), bool (n,); log how many are not."""
    finite = torch.stack([value.flatten(1).isfinite().all(dim=1) for value in values]).all(dim=0)
    dropped = len(finite) - int(finite.sum())
    if dropped:
        logger.warning(
            "%d of %d predictions of a batch were dropped: their boxes or landmarks are not finite",
            dropped,
            len(finite),
        )
    return finite


class FiniteBoxes:
    """A base that stands before Detectron2's RetinaNet or FCOS, and drops boxes that are not finite."""

    def _decode_multi_level_predictions(self, *arguments: Any) -> Instances:
        """Decode as Detectron2 does; one such box would spoil the suppression of all."""
        found = super()._decode_multi_level_predictions(*arguments)  # type: ignore[misc]
        return found[finite_rows(found.pred_boxes.tensor)]
