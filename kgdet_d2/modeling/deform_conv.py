"""Deformable convolution on whatever device is at hand, with one set of weights.

N images, C and D channels in and out, H x W cells, P = k^2 taps.
"""

import torch
import torch.nn.functional as F
from detectron2 import layers
from detectron2.layers import deform_conv as detectron2_deform_conv
from torch import Tensor
from torchvision.ops import deform_conv2d

from kgdet_d2.geometry.numerics import full_precision
from kgdet_d2.geometry.points import sampling_positions

# None in a Detectron2 that was built without its compiled part.
_COMPILED = getattr(detectron2_deform_conv, "_C", None)


class DeformConv(layers.DeformConv):
    """A k x k deformable convolution of stride 1 that keeps the map's size; k is odd.

    Parameters and state-dict names are those of :class:`detectron2.layers.DeformConv`. On CUDA it runs
    Detectron2's op where that is compiled, else torchvision's. On CPU, where Detectron2's cannot run backward
    and torchvision's is slow, the same sum is written as a gather and a matrix product.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Features (N, C, H, W), offsets (N, 2P, H, W) in cells, y first -> (N, D, H, W)."""
        if not x.is_cuda:
            return gather_deform_conv(x, offset, self.weight)
        if _COMPILED is not None and x.dtype == offset.dtype == self.weight.dtype:
            return super().forward(x, offset)
        return deform_conv2d(x, offset.to(x.dtype), self.weight.to(x.dtype), padding=self.padding)


def gather_deform_conv(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """The deformable convolution of ``x`` with ``weight`` (D, C, k, k), equal to torchvision's.

    Outside the map the features are zero, and between its border and one cell further they fade out.
    """
    kernel_size = weight.shape[-1]
    samples = sample_bilinear(x, *sampling_positions(full_precision(offset), kernel_size))  # (N, H, W, P, C)
    out = samples.flatten(-2) @ weight.permute(2, 3, 1, 0).flatten(0, 2).to(samples.dtype)
    return out.permute(0, 3, 1, 2)


def sample_bilinear(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Features (N, C, H, W) read between cells.

    Args:
        x, y: (N, P, H', W') in full precision, columns and rows, continuous; outside the map are zeros.

    Returns:
        (N, H', W', P, C) in full precision. Differentiable in the features and in the positions.
    """
    num, channels, height, width = features.shape
    x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
    left, top = x.detach().floor(), y.detach().floor()
    image_start = torch.arange(num, device=x.device).view(num, 1, 1, 1) * (height * width)
    rows, weights = [], []
    for corner_y, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for corner_x, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (corner_x >= 0) & (corner_x < width) & (corner_y >= 0) & (corner_y < height)
            # Clamped as integers: a position that is not finite must not become an index out of range.
            column, row = corner_x.long().clamp(0, width - 1), corner_y.long().clamp(0, height - 1)
            rows.append(image_start + row * width + column)
            weights.append(weight_y * weight_x * inside)
    table = full_precision(features).permute(0, 2, 3, 1).reshape(-1, channels)
    # A bag is one sample: its four corners in the table, weighted and summed without ever being stored.
    bags = torch.stack(rows, dim=-1).view(-1, 4)
    weights = torch.stack(weights, dim=-1).view(-1, 4)
    samples = F.embedding_bag(bags, table, per_sample_weights=weights, mode="sum")
    return samples.view(*x.shape, channels)
