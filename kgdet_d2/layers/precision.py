"""What is computed in full precision inside of autocast: places, which half precision rounds to sixteenths."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from kgdet_d2.geometry.points import to_float32


def full_precision(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast, which costs nothing where there is none."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class FullPrecisionConv(nn.Conv2d):
    """A convolution whose outputs are places; in float32 under autocast, too."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve as ``nn.Conv2d`` does."""
        with full_precision(input.device):
            return super().forward(to_float32(input))
