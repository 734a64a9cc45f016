"""Gradients that pass in part, numbers in full precision."""

import torch
from torch import Tensor


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself; its gradient is multiplied by ``factor``."""
    return x.detach() * (1 - factor) + x * factor


def to_float32(x: Tensor) -> Tensor:
    """``x`` in float32 where it is of half precision, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
