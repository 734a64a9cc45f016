"""Aggregation at informative points in operators that other runtimes have.

N images, C and D channels in and out, H x W locations, P points, p of them in a column.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from kgdet_d2.geometry.points import split_points
from kgdet_d2.modeling.heads.aggregation import PointAggregation, SamplingLocations

SPELLINGS = ("deform_conv", "grid_sample")


class SpelledAggregation(nn.Module):
    """A :class:`PointAggregation` of all locations, as torchvision's operator or as sampling and a product.

    Args:
        aggregation: whose weights it takes.
        spelling: one of :data:`SPELLINGS`.
    """

    grids: Tensor

    def __init__(self, aggregation: PointAggregation, spelling: str):
        super().__init__()
        self.columns = aggregation.columns
        self.out_channels = aggregation.out_channels
        self.convs = aggregation.convs
        self.norm = aggregation.norm
        self.spelling = spelling
        self.register_buffer("grids", aggregation.grids, persistent=False)

    def forward(self, features: Tensor, sampling: SamplingLocations) -> Tensor:
        """Aggregate features (N, C, H, W) into (N, out_channels, H, W)."""
        kernels: list[Any] = [conv.weight for conv in self.convs]
        aggregated = aggregate_points(features, sampling.offsets, self.grids, kernels, self.spelling)
        return (aggregated if self.norm is None else self.norm(aggregated)).relu()


def aggregate_points(
    features: Tensor, points: Tensor, grids: Tensor, kernels: list[Tensor], spelling: str
) -> Tensor:
    """Compute a deformable convolution at the points of each column.

    Args:
        features: (N, C, H, W).
        points: (N, 2P, H, W) offsets from the location, in locations, y first.
        grids: (2P, 1, 1), the taps' own places in their kernels, likewise.
        kernels: (D, C, k, k) of each column, k^2 = p.
        spelling: one of :data:`SPELLINGS`.

    Returns:
        (N, D of all columns, H, W).
    """
    sizes = [2 * kernel[0, 0].numel() for kernel in kernels]
    if spelling == "deform_conv":
        # A tap samples at location + grid + offset; without the grid it samples at location + point.
        columns = (points - grids).split(sizes, dim=1)
        outputs = [
            deform_conv2d(features, column, kernel, padding=kernel.shape[-1] // 2)
            for column, kernel in zip(columns, kernels, strict=True)
        ]
    else:
        outputs = [
            _sample_and_multiply(features, column, kernel)
            for column, kernel in zip(points.split(sizes, dim=1), kernels, strict=True)
        ]
    return torch.cat(outputs, dim=1)


def _sample_and_multiply(features: Tensor, points: Tensor, kernel: Tensor) -> Tensor:
    """Sample features (N, C, H, W) at points (N, 2p, H, W), and multiply with a kernel: (N, D, H, W)."""
    height, width = features.shape[-2:]
    x, y = split_points(points, dim=1)  # (N, p, H, W)
    x = x + torch.arange(width, dtype=x.dtype)
    y = y + torch.arange(height, dtype=y.dtype)[:, None]
    # Of align_corners=False: location i is at (2 i + 1) / size - 1. The other rule divides by size - 1.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    samples = F.grid_sample(features, grid.flatten(2, 3), padding_mode="zeros", align_corners=False)
    product = kernel.flatten(1) @ samples.flatten(1, 2)  # (N, D, H W): channels and taps are one dimension
    return product.unflatten(2, (height, width))


def spell_aggregations(module: nn.Module, spelling: str) -> None:
    """Replace every :class:`PointAggregation` below a module by a :class:`SpelledAggregation`, in place."""
    for name, child in module.named_children():
        if isinstance(child, PointAggregation):
            setattr(module, name, SpelledAggregation(child, spelling))
        else:
            spell_aggregations(child, spelling)
