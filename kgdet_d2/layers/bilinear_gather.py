"""Bilinear sampling of feature maps as a gather, and its matrix products: deformable convolution on CPU.

N images, C and D channels in and out, H x W locations, R = N H W rows of the flattened map, P taps,
L = M H' W' output locations that sample the map at P positions each, T of these taps at once.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kgdet_d2.geometry.points import to_float32

# Bytes of samples that are gathered before they are multiplied: enough for a product to run at the full rate
# of the processor, few enough for them to stay in its cache.
_CHUNK_BYTES = 2**23


class InverseIndex(NamedTuple):
    """The samples that read each of the R rows, for T taps: the transpose of a gather.

    Attributes:
        samples: (4 L T,) indices of samples, counted through (L, T), in order of the row that they read.
        weights: (4 L T,) of each for that row, not differentiable.
        starts: (R,) where in that order the samples of each row begin.
    """

    samples: Tensor
    weights: Tensor
    starts: Tensor


class BilinearNeighbors:
    """The four locations around each sampling position, and their weights. Outside the map features are zero.

    Computed once for all maps that are sampled at these positions.

    Args:
        x: (M, P, H', W') columns of the map, continuous; L = M H' W'.
        y: (M, P, H', W') rows, likewise.
        images: (M,) index of the image that each of the M samples.
        shape: (N, C, H, W) of the map.

    Attributes:
        rows: (L, P, 4) of the flattened map, in 32 bits, which are quicker to copy and to sort.
        weights: (L, P, 4) in the positions' precision, differentiable in the positions.
    """

    def __init__(self, x: Tensor, y: Tensor, images: Tensor, shape: Sequence[int]):
        num_images, _, height, width = shape
        self._num_rows = num_images * height * width
        self._out_shape = x[:, 0].shape  # (M, H', W')
        self._inverse_indices: dict[tuple[int, int], InverseIndex] = {}
        images = images.int()[:, None, None].expand(self._out_shape).reshape(-1, 1)  # (L, 1)
        x = x.permute(0, 2, 3, 1).flatten(0, 2).contiguous()  # (L, P)
        y = y.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
        rows, weights = [], []
        for map_row, y_weight in neighbors_1d(y, height):
            row_start = (images * height + map_row) * width
            for map_column, x_weight in neighbors_1d(x, width):
                rows.append(row_start + map_column)
                weights.append(y_weight * x_weight)
        self.rows = torch.stack(rows, dim=-1)  # (L, P, 4)
        self.weights = torch.stack(weights, dim=-1)

    def to_map(self, values: Tensor) -> Tensor:
        """Return values (L, D) of the output locations as a map (M, D, H', W'), a view."""
        return values.view(*self._out_shape, values.shape[-1]).permute(0, 3, 1, 2)

    def inverse_index(self, taps: slice) -> InverseIndex:
        """Return the samples that read each row in T taps; computed once for each slice."""
        key = taps.start, taps.stop
        if key not in self._inverse_indices:
            rows, entries = self.rows[:, taps].flatten().sort()  # (4 L T,)
            weights = self.weights.detach()[:, taps].flatten()[entries]
            starts = torch.searchsorted(rows, torch.arange(self._num_rows, device=rows.device))  # (R,)
            self._inverse_indices[key] = InverseIndex(entries // 4, weights, starts)
        return self._inverse_indices[key]


def neighbors_1d(positions: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices before and after positions along an axis, each with its weights (0 outside)."""
    before = positions.detach().floor()
    after = before + 1
    for indices, weights in ((before, after - positions), (after, positions - before)):
        inside = (indices >= 0) & (indices < size)
        # Clamped as integers: a position that is not finite must not become an index out of range.
        yield indices.int().clamp_(0, size - 1), weights * inside


def deform_conv_gather(features: Tensor, neighbors: BilinearNeighbors, kernels: list[Tensor]) -> Tensor:
    """Compute several deformable convolutions of one map, whose taps follow one another in ``neighbors``.

    Differentiable in the features, the neighbors' weights and the kernels. The samples are P times the map:
    they are not kept for the backward pass but gathered again, which costs a fraction of the matrix products.

    Args:
        features: (N, C, H, W), the map that ``neighbors`` are of.
        neighbors: of P positions for each output location.
        kernels: (D_i, C, k_i, k_i) each; the sum of k_i^2 is P.

    Returns:
        (M, sum of D_i, H', W'), of the features' type or autocast's.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    # Contiguous: one image's permuted map is flat as it stands, but slow to read.
    flat_features = features.to(dtype).permute(0, 2, 3, 1).flatten(0, 2).contiguous()  # (R, C)
    flat_kernels = [
        kernel.to(dtype).permute(0, 2, 3, 1).flatten(1, 2).contiguous()  # (D_i, k_i^2, C)
        for kernel in kernels
    ]
    weights = neighbors.weights.to(dtype)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled():
            out = _DeformConvGather.apply(flat_features, weights, neighbors, *flat_kernels)
        else:
            out = _gather_and_multiply(flat_features, weights, neighbors, flat_kernels)
    return neighbors.to_map(out)


def _gather_and_multiply(
    flat_features: Tensor, weights: Tensor, neighbors: BilinearNeighbors, kernels: Sequence[Tensor]
) -> Tensor:
    """Compute the convolutions (L, sum of D_i) of features (R, C), weights (L, P, 4), kernels (D_i, P_i, C).

    A few taps at a time: their samples stay in the cache and in memory that the allocator has at hand. Fresh
    pages would cost more than the whole gather.
    """
    dtype = _accumulate_dtype(flat_features)
    outputs = [flat_features.new_zeros(len(weights), len(kernel), dtype=dtype) for kernel in kernels]
    for index, taps, kernel_taps in _tap_chunks(len(weights), kernels):
        samples = _gather(flat_features, neighbors.rows[:, taps], weights[:, taps])  # (L T, C)
        kernel = kernels[index][:, kernel_taps].flatten(1)  # (D_i, T C)
        outputs[index] += _matmul(samples.view(-1, kernel.shape[1]), kernel)
    return torch.cat(outputs, dim=1).to(flat_features.dtype)


class _DeformConvGather(torch.autograd.Function):
    """:func:`_gather_and_multiply`, which gathers again in the backward pass."""

    @staticmethod
    def forward(
        ctx, flat_features: Tensor, weights: Tensor, neighbors: BilinearNeighbors, *kernels: Tensor
    ) -> Tensor:
        ctx.save_for_backward(flat_features, weights, *kernels)
        ctx.neighbors = neighbors
        return _gather_and_multiply(flat_features, weights, neighbors, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat_features, weights, *kernels = ctx.saved_tensors
        d_features = torch.zeros_like(flat_features, dtype=_accumulate_dtype(flat_features))
        d_weights = torch.empty_like(weights)
        d_kernels = [torch.empty_like(kernel) for kernel in kernels]
        sizes = [len(kernel) for kernel in kernels]
        d_outputs = [part.contiguous() for part in gradient.split(sizes, dim=1)]  # (L, D_i) each
        for index, taps, kernel_taps in _tap_chunks(len(weights), kernels):
            kernel = kernels[index][:, kernel_taps].flatten(1)  # (D_i, T C)
            with torch.enable_grad():
                tap_weights = weights[:, taps].detach().requires_grad_()  # (L, T, 4)
                samples = _gather(flat_features, ctx.neighbors.rows[:, taps], tap_weights)  # (L T, C)
            rows = samples.detach().view(-1, kernel.shape[1])  # (L, T C)
            d_kernel = d_kernels[index][:, kernel_taps].flatten(1)  # (D_i, T C), a view
            torch.mm(d_outputs[index].T, rows, out=d_kernel)
            d_samples = _matmul(d_outputs[index], kernel.T).reshape(samples.shape)
            (d_weights[:, taps],) = torch.autograd.grad(samples, tap_weights, d_samples)
            d_features += _scatter_add(d_samples, ctx.neighbors.inverse_index(taps))
        return d_features.to(flat_features.dtype), d_weights, None, *d_kernels


def _accumulate_dtype(features: Tensor) -> torch.dtype:
    """Return the type in which sums over many taps are kept."""
    return to_float32(features[:0]).dtype


def _tap_chunks(num_locations: int, kernels: Sequence[Tensor]) -> Iterator[tuple[int, slice, slice]]:
    """Split the taps of kernels (D_i, P_i, C) into chunks, whose samples take about ``_CHUNK_BYTES``.

    Yields:
        The kernel's index i, the chunk's T taps among all P, and among the kernel's own P_i.
    """
    kernel_start = 0
    for index, kernel in enumerate(kernels):
        num_taps = kernel.shape[1]
        num_chunks = max(math.ceil(num_locations * kernel[0].nbytes / _CHUNK_BYTES), 1)
        chunk_size = math.ceil(num_taps / num_chunks)
        for start in range(0, num_taps, chunk_size):
            stop = min(start + chunk_size, num_taps)
            yield index, slice(kernel_start + start, kernel_start + stop), slice(start, stop)
        kernel_start += num_taps


def _matmul(rows: Tensor, kernel: Tensor) -> Tensor:
    """Multiply rows (L, C) by the transpose of a kernel (D, C) -> (L, D)."""
    if rows.dtype != torch.float32 or not len(rows):
        return rows @ kernel.T
    # As a 1x1 convolution of a map of height 1, by oneDNN. The matrix product would be MKL's, and slower.
    row_map = rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)  # (1, C, 1, L)
    return F.conv2d(row_map, kernel[..., None, None]).permute(0, 2, 3, 1).flatten(0, 2)


def _gather(flat_features: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sample features (R, C) at rows with weights (L, T, 4) -> (L T, C)."""
    # A bag is one sample: its four rows, weighted and summed without ever being stored.
    rows, weights = rows.flatten(0, 1), weights.flatten(0, 1)
    return F.embedding_bag(rows, flat_features, per_sample_weights=weights, mode="sum")


def _scatter_add(samples: Tensor, inverse: InverseIndex) -> Tensor:
    """Add samples (L T, C) to the rows that they were gathered from -> (R, C), the reverse of a gather."""
    # By a gather, too: a row's bag is all samples that read it. To add into rows is many times slower.
    weights = inverse.weights.to(samples.dtype)
    return F.embedding_bag(inverse.samples, samples, inverse.starts, per_sample_weights=weights, mode="sum")
