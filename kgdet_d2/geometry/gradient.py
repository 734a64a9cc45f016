"""Gradients that pass in part."""

from torch import Tensor


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself; its gradient is multiplied by ``factor``."""
    return x.detach() * (1 - factor) + x * factor
