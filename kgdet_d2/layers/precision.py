"""What is computed in float32 under autocast, too: places. bfloat16 has even numbers alone from 256 on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from kgdet_d2.geometry.points import to_float32


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast; where there is none it leaves no trace in a traced graph."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class FullPrecisionConv(nn.Conv2d):
    """A convolution that predicts places, ``nn.Conv2d`` but for autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve in float32 at least."""
        with full_precision(input.device):
            return super().forward(to_float32(input))


def keep_full_precision(conv: nn.Conv2d) -> None:
    """Make a convolution that Detectron2 has built a :class:`FullPrecisionConv`, with its parameters."""
    conv.__class__ = FullPrecisionConv  # one built anew would draw random weights, and change all later ones
