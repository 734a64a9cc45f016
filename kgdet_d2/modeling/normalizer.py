"""What losses are divided by where several processes train one model.

Data-parallel training gives each of W processes a part of the batch, and averages their gradients. Where the
loss is a sum over the garments (or locations, landmarks) of a process, divided by their number n_w, that is
not the batch's gradient: garments weigh more where there are few. Divided by the processes' mean number,
(n_1 + .. + n_W) / W, it is.

``MODEL.LOSS_NORMALIZER`` says which of the two: "global", the mean, or "local", the process's own number.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch import Tensor

GLOBAL, LOCAL = "global", "local"


def num_sharing(scope: str) -> int:
    """Return W, the processes that share their normalisers; 1 where each has its own."""
    return comm.get_world_size() if scope == GLOBAL else 1


def sum_over_processes(counts: Tensor, scope: str) -> Tensor:
    """Sum counts, of any shape, over the processes that share them; alone, return the very same tensor.

    All processes must call it, in the same order, whatever they have counted.
    """
    if num_sharing(scope) == 1:
        return counts
    total = counts.clone()
    torch.distributed.all_reduce(total)
    return total


def normalizers(counts: Sequence[int], scope: str, device: torch.device) -> list[float]:
    """Return by what each process divides its sums over so many things, of which the batch has one at least.

    Args:
        counts: of this process, one for each sum.
        scope: "global" or "local".
        device: on which the processes exchange tensors.
    """
    sharing = num_sharing(scope)
    if sharing == 1:
        return [max(count, 1) for count in counts]
    totals = sum_over_processes(torch.tensor(counts, dtype=torch.float64, device=device), scope)
    return [max(total, 1) / sharing for total in totals.tolist()]


def share_of_mean(count: int, scope: str, device: torch.device) -> float:
    """Return what turns a mean over this process's things into its sum over them by :func:`normalizers`."""
    return count / normalizers([count], scope, device)[0] if num_sharing(scope) > 1 else 1.0


class RunningNormalizer:
    """The normaliser of Detectron2's RetinaNet and FCOS, of all processes: a running average of positives.

    A base that stands before Detectron2's class. ``loss_normalizer`` is the average of the batch's positives,
    the same in all processes.

    Args:
        normalizer_scope: "global" or "local".
        detectron2_arguments: those of Detectron2's class.
    """

    num_classes: int

    @configurable
    def __init__(self, *, normalizer_scope: str = GLOBAL, **detectron2_arguments: Any):
        super().__init__(**detectron2_arguments)
        self.normalizer_scope = normalizer_scope
        self._positives = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return Detectron2's arguments, and ``MODEL.LOSS_NORMALIZER``."""
        arguments = super().from_config(cfg)  # type: ignore[misc]
        return {**arguments, "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER}

    def losses(
        self, anchors: Any, pred_logits: Any, gt_labels: list[Tensor], *others: Any
    ) -> dict[str, Tensor]:
        """Compute Detectron2's losses, divided by the average over all processes."""
        if num_sharing(self.normalizer_scope) > 1:
            labels = torch.stack(gt_labels)
            positives = ((labels >= 0) & (labels != self.num_classes)).sum()
            self._positives = int(sum_over_processes(positives, self.normalizer_scope).item())
        return super().losses(anchors, pred_logits, gt_labels, *others)  # type: ignore[misc]

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        """Average as Detectron2 does, but the positives of all processes; return a process's share of it."""
        sharing = num_sharing(self.normalizer_scope)
        if sharing > 1:
            value = max(self._positives, 1)
        return super()._ema_update(name, value, initial_value, momentum) / sharing  # type: ignore[misc]
