"""Keypoint-guided feature aggregation (paper, "Keypoint-Guided Feature Aggregation", Figure 3).

N images, C channels, P informative points, H x W cells.
"""

import math

import torch
from torch import Tensor, nn

from kgdet_d2.geometry.points import kernel_grid
from kgdet_d2.modeling.deform_conv import DeformConv


class KeypointEncoding(nn.Module):
    """Multi-column aggregation: the informative points are the taps of one deformable convolution a column.

    Args:
        in_channels: C of the features.
        column_channels: channels that each column gives.
        columns: points of each column, squares of odd numbers; their sum is P.
    """

    def __init__(self, in_channels: int, column_channels: int, columns: list[int]):
        super().__init__()
        self.columns = list(columns)
        self.out_channels = column_channels * len(columns)
        self.convs = nn.ModuleList(
            DeformConv(in_channels, column_channels, kernel_size=math.isqrt(points)) for points in columns
        )
        grids = torch.cat([kernel_grid(math.isqrt(points)) for points in columns])
        self.register_buffer("grids", grids.view(-1, 1, 1), persistent=False)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """Features (N, C, H, W), points (N, 2P, H, W) as offsets from the cell -> (N, out_channels, H, W)."""
        # A tap lands on cell + grid + offset; without the grid it lands on cell + point.
        offsets = (points - self.grids).split([2 * points for points in self.columns], dim=1)
        columns = [conv(features, offset) for conv, offset in zip(self.convs, offsets, strict=True)]
        return torch.cat(columns, dim=1).relu()
