"""Partial gradients and full precision."""

import torch
from torch import Tensor


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` with its gradient multiplied by ``factor``."""
    return x.detach() * (1 - factor) + x * factor


def to_float32(x: Tensor) -> Tensor:
    """Return ``x`` in float32 where it is of half precision, else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
