"""A stage's feature layer: a convolution, or aggregation of features at informative points.

N images, H x W locations of a level, P informative points, n chosen locations. Offsets are relative to the
location, in strides, y first.
"""

import math
from functools import cached_property
from typing import Any

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn

from kgdet_d2.geometry.points import GridIndex, gather_locations, kernel_grid, split_points, to_float32
from kgdet_d2.layers.bilinear_gather import BilinearNeighbors, deform_conv_gather
from kgdet_d2.layers.deform_conv import DeformConv


class SamplingLocations:
    """P points at each location at which both branches of a stage sample their feature maps.

    Attributes:
        offsets: (N, 2P, H, W).
        grid_index: the n locations that sample; None for all.
    """

    def __init__(self, offsets: Tensor, grid_index: GridIndex | None = None):
        self.offsets = offsets
        self.grid_index = grid_index

    def select(self, maps: Tensor) -> Tensor:
        """Select maps (N, D, H, W) at the locations that sample: (n, D, 1, 1), or as they are for all."""
        return maps if self.grid_index is None else gather_locations(maps, self.grid_index)[..., None, None]

    def to_maps(self, values: Tensor, elsewhere: float = 0.0) -> Tensor:
        """Scatter values of the locations that sample, (n, D, 1, 1), into maps (N, D, H, W)."""
        if self.grid_index is None:
            return values
        image, row, column = self.grid_index
        maps = values.new_full((len(self.offsets), values.shape[1], *self.offsets.shape[2:]), elsewhere)
        maps[image, :, row, column] = values.flatten(1)
        return maps

    @cached_property
    def neighbors(self) -> BilinearNeighbors:
        """The four locations around each point and their weights, computed once for both branches."""
        if self.grid_index is None:
            num, _, *sizes = self.offsets.shape
            image, row, column = (torch.arange(n, device=self.offsets.device) for n in (num, *sizes))
            row = row[:, None]  # (H, 1), against columns (W,)
        else:
            image, row, column = self.grid_index
            row, column = row[:, None, None, None], column[:, None, None, None]  # against points (n, P, 1, 1)
        x, y = split_points(to_float32(self.select(self.offsets)), dim=1)
        return BilinearNeighbors(x + column, y + row, image, self.offsets.shape)


class InitialConv(nn.Module):
    """A 3x3 convolution, which the first stage has in place of an aggregation: there are no points yet."""

    def __init__(self, channels: int, norm: str = ""):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.norm = get_norm(norm, channels)
        self.out_channels = channels

    def forward(self, features: Tensor, sampling: SamplingLocations) -> Tensor:
        """Compute features (N, C, H, W), or of the locations that sample."""
        return _normalize(self.norm, sampling.select(self.conv(features))).relu()


class PointAggregation(nn.Module):
    """Multi-column aggregation: the informative points are the taps of one deformable convolution a column.

    Args:
        in_channels: channels of the feature maps.
        column_channels: channels that each column gives.
        columns: points of each column, squares of odd numbers; their sum is P.
        norm: normalisation of all columns together, by Detectron2's names, of each location by itself.
    """

    grids: Tensor

    def __init__(self, in_channels: int, column_channels: int, columns: list[int], norm: str = ""):
        super().__init__()
        self.columns = list(columns)
        self.out_channels = column_channels * len(columns)
        self.convs = nn.ModuleList(
            DeformConv(in_channels, column_channels, kernel_size=math.isqrt(points)) for points in columns
        )
        self.norm = get_norm(norm, self.out_channels)
        grids = torch.cat([kernel_grid(math.isqrt(points)) for points in columns])
        self.register_buffer("grids", grids.view(-1, 1, 1), persistent=False)

    def forward(self, features: Tensor, sampling: SamplingLocations) -> Tensor:
        """Aggregate features (N, in_channels, H, W) into (N, out_channels, H, W), or of (n, ..., 1, 1)."""
        if features.device.type == "cpu":  # elsewhere the deformable kernels are faster
            kernels: list[Any] = [conv.weight for conv in self.convs]
            return _normalize(self.norm, deform_conv_gather(features, sampling.neighbors, kernels)).relu()
        # A tap samples at location + grid + offset; without the grid it samples at location + point.
        offsets = (sampling.offsets - self.grids).split([2 * points for points in self.columns], dim=1)
        columns = [conv(features, offset) for conv, offset in zip(self.convs, offsets, strict=True)]
        return _normalize(self.norm, sampling.select(torch.cat(columns, dim=1))).relu()


def build_aggregation(
    stage_index: int, channels: int, columns: list[int], norm: str = ""
) -> InitialConv | PointAggregation:
    """Build the feature layer of a stage's branch: a convolution in the first stage, else aggregation."""
    if stage_index:
        return PointAggregation(channels, channels, columns, norm)
    return InitialConv(channels, norm)


def _normalize(norm: nn.Module | None, features: Tensor) -> Tensor:
    return features if norm is None else norm(features)
