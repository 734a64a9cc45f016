"""Deformable convolution on every device, with one set of weights.

N images, C and D channels in and out, H x W locations, P = k^2 taps.
"""

import torch
from detectron2 import layers
from detectron2.layers import deform_conv as detectron2_deform_conv
from torch import Tensor
from torchvision.ops import deform_conv2d

from kgdet_d2.geometry.points import sampling_positions, to_float32
from kgdet_d2.layers.bilinear_gather import BilinearNeighbors, deform_conv_gather

# None in a Detectron2 that was built without its compiled part.
_COMPILED = getattr(detectron2_deform_conv, "_C", None)


class DeformConv(layers.DeformConv):
    """Deformable convolution of k x k taps and stride 1 that keeps the map's size; k is odd.

    Parameters and state-dict names are those of :class:`detectron2.layers.DeformConv`. On CUDA it runs
    Detectron2's op where that is compiled, else torchvision's. On CPU, where Detectron2's cannot run backward
    and torchvision's is slow, the same sum is written as a gather and a matrix product.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Convolve features (N, C, H, W) at offsets (N, 2P, H, W) in locations, y first -> (N, D, H, W)."""
        if not x.is_cuda:
            return deform_conv2d_gather(x, offset, self.weight)
        if _COMPILED is not None and x.dtype == offset.dtype == self.weight.dtype:
            return super().forward(x, offset)
        return deform_conv2d(x, offset.to(x.dtype), self.weight.to(x.dtype), padding=self.padding)


def deform_conv2d_gather(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """Compute the deformable convolution of ``x`` with ``weight``, equal to torchvision's.

    Outside the map the features are zero, and between its border and one location further they fade out.

    Args:
        x: features (N, C, H, W).
        offset: (N, 2P, H, W), displacement of each tap, in locations, y first.
        weight: (D, C, k, k); k is odd.

    Returns:
        (N, D, H, W).
    """
    x_positions, y_positions = sampling_positions(to_float32(offset), weight.shape[-1])
    images = torch.arange(len(x), device=x.device)
    neighbors = BilinearNeighbors(x_positions, y_positions, images, x.shape)
    return deform_conv_gather(x, neighbors, [weight])
