"""From a set of points to a box by its first two moments (RepPoints; KGDet's eq. for B_ij)."""

import torch
from torch import Tensor


def moment_box(x: Tensor, y: Tensor, log_scale: Tensor, dim: int) -> Tensor:
    """Boxes around the means of the points, half-sizes of exp(log_scale) standard deviations.

    Args:
        x, y: coordinates of P >= 2 points along ``dim``, in any unit.
        log_scale: (2,), logarithms of the learned multipliers lambda_x and lambda_y.

    Returns:
        x1, y1, x2, y2 along ``dim``, in the points' unit. The standard deviation is the unbiased one; where
        all points coincide the box has no area and the points get no gradient from its size.
    """
    scale_x, scale_y = log_scale.exp()
    half_width, half_height = x.std(dim) * scale_x, y.std(dim) * scale_y
    centre_x, centre_y = x.mean(dim), y.mean(dim)
    sides = [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
    return torch.stack(sides, dim=dim)
