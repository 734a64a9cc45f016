"""Keypoint-guided feature aggregation (paper, "Keypoint-Guided Feature Aggregation", Figure 3).

From all landmarks to a few informative points, by encoding or by selection, and from the points to features.
N images, C channels, K landmarks of all classes, P informative points, H x W cells.
"""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from kgdet_d2.geometry.points import kernel_grid, split_points
from kgdet_d2.layers.bilinear_gather import BilinearNeighbors, deform_conv_gather
from kgdet_d2.layers.deform_conv import DeformConv
from kgdet_d2.layers.numerics import to_float32


class SamplingLocations:
    """Where the branches of a stage read their maps: P points at each cell, the same ones in all branches.

    Attributes:
        offsets: (N, 2P, H, W) from the cell, in strides, y first.
        cells: of those that read, images, rows and columns, (n,) each; None for all cells.
    """

    def __init__(self, offsets: Tensor, cells: tuple[Tensor, Tensor, Tensor] | None = None):
        self.offsets = offsets
        self.cells = cells

    def of(self, maps: Tensor) -> Tensor:
        """Maps (N, D, H, W) at the cells that read: themselves, or (n, D, 1, 1)."""
        return maps if self.cells is None else pick(maps, self.cells)

    @cached_property
    def corners(self) -> BilinearNeighbors:
        """The cells around the points."""
        num, _, height, width = self.offsets.shape
        device = self.offsets.device
        if self.cells is None:
            images, rows, columns = (torch.arange(size, device=device) for size in (num, height, width))
            rows = rows[:, None]
        else:
            images, rows, columns = self.cells
            rows, columns = rows[:, None, None, None], columns[:, None, None, None]
        x, y = split_points(to_float32(self.of(self.offsets)), dim=1)
        return BilinearNeighbors(x + columns, y + rows, images, self.offsets.shape)


def pick(maps: Tensor, cells: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Maps (N, D, H, W) at images, rows and columns (n,) as maps of one cell each, (n, D, 1, 1)."""
    images, rows, columns = cells
    return maps[images, :, rows, columns][..., None, None]


class PointAggregation(nn.Module):
    """The informative points are the taps of one deformable convolution a column.

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

    def forward(self, features: Tensor, points: SamplingLocations) -> Tensor:
        """Features (N, C, H, W) and where to read them -> (N, out_channels, H, W), or of ``points.cells``."""
        if features.device.type == "cpu":  # elsewhere the deformable kernels are the faster
            kernels = [conv.weight for conv in self.convs]
            return deform_conv_gather(features, points.corners, kernels).relu()
        # A tap lands on cell + grid + offset; without the grid it lands on cell + point.
        offsets = (points.offsets - self.grids).split([2 * points for points in self.columns], dim=1)
        columns = [conv(features, offset) for conv, offset in zip(self.convs, offsets, strict=True)]
        return points.of(torch.cat(columns, dim=1).relu())


class InitialConv(nn.Module):
    """What stage 1 has in place of an aggregation, there being no points yet: a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.out_channels = channels

    def forward(self, features: Tensor, points: SamplingLocations) -> Tensor:
        return points.of(self.conv(features).relu())


def aggregation_makers(
    channels: int, columns: list[int], num_stages: int
) -> list[Callable[[], InitialConv | PointAggregation]]:
    """What makes the features of a branch, for each stage: a convolution in the first, else aggregation."""
    first = [lambda: InitialConv(channels)]
    return first + [lambda: PointAggregation(channels, channels, columns)] * (num_stages - 1)


class KeypointEncoding(nn.Conv2d):
    """Informative points by a 1x1 convolution over all landmarks (paper, "Informative Keypoints")."""

    def __init__(self, channels: int, num_keypoints: int, num_points: int):
        super().__init__(2 * num_keypoints, 2 * num_points, kernel_size=1)

    def forward(
        self, features: Tensor, residual: Tensor, keypoints: Tensor, previous_points: Tensor
    ) -> tuple[Tensor, None]:
        """The points (N, 2P, H, W): the previous stage's and an encoding of what this stage adds.

        Args:
            features: (N, channels, H, W) that the landmarks were regressed from; not used.
            residual: (N, 2K, H, W), what the stage added to the landmarks' offsets.
            keypoints: (N, 2K, H, W), the landmarks' offsets; not used.
            previous_points: (N, 2P, H, W).
        """
        return previous_points + super().forward(residual), None


class KeypointSelection(nn.Module):
    """Informative points are the landmarks likeliest in view (paper, "Reliable-Keypoints-Selection").

    A classifier scores every landmark from the features that its offset was regressed from. The P best are
    the points, P <= K.
    """

    def __init__(self, channels: int, num_keypoints: int, num_points: int):
        super().__init__()
        self.num_points = num_points
        self.visibility = nn.Conv2d(channels, num_keypoints, kernel_size=1)

    def forward(
        self, features: Tensor, residual: Tensor, keypoints: Tensor, previous_points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The points (N, 2P, H, W), and the landmarks' visibility (N, K, H, W) before the sigmoid.

        Arguments as for :class:`KeypointEncoding`; ``residual`` and ``previous_points`` are not used.
        """
        visibility = self.visibility(features)
        return select_keypoints(keypoints, visibility, self.num_points), visibility


def select_keypoints(keypoints: Tensor, scores: Tensor, num_points: int) -> Tensor:
    """Keypoints (N, 2K, H, W) with scores (N, K, H, W) -> the best at each cell, (N, 2P, H, W).

    They stand in the order of their slots, not of their scores: a tap of the convolution that reads them then
    keeps its place along a garment's contour when scores change ranks. The scores get no gradient.
    """
    slots = scores.topk(num_points, dim=1, sorted=False).indices.sort(dim=1).values
    pairs = keypoints.unflatten(1, (-1, 2))  # (N, K, 2, H, W)
    return pairs.gather(1, slots.unsqueeze(2).expand(-1, -1, 2, -1, -1)).flatten(1, 2)
