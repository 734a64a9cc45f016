"""Feature maps read between their cells, and matrix products of what is read: deformable convolution on CPU.

N images, C and D channels in and out, H x W cells, R = N H W rows of the map as a table, P taps, L = M H' W'
places that read the map at P positions each, T of them at once.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kgdet_d2.geometry.points import to_float32

# So many bytes are read before they are multiplied: enough for a product to run at the processor's full rate,
# few enough for them to stay in its cache.
_AT_ONCE = 2**23


class BilinearNeighbors:
    """The four cells around each position, and their weights. Outside the map the features are zero.

    Worked out once for everything that reads at these positions, whatever it reads.

    Attributes:
        rows: (L, P, 4) of the table, in 32 bits, which are quicker to copy and to sort.
        weights: (L, P, 4) in the positions' precision, differentiable in the positions.
    """

    def __init__(self, x: Tensor, y: Tensor, images: Tensor, shape: Sequence[int]):
        """
        Args:
            x, y: (M, P, H', W') columns and rows of the map, continuous; L = M H' W'.
            images: (M,), which image each of the M reads.
            shape: (N, C, H, W) of the map.
        """
        num, _, height, width = shape
        self._num_rows = num * height * width
        self._places = x[:, 0].shape
        self._readers = {}
        images = images.int()[:, None, None].expand(self._places).reshape(-1, 1)
        x, y = (positions.permute(0, 2, 3, 1).flatten(0, 2).contiguous() for positions in (x, y))
        rows, weights = [], []
        for row, y_weight in _both_sides(y, height):
            start = (images * height + row) * width
            for column, x_weight in _both_sides(x, width):
                rows.append(start + column)
                weights.append(y_weight * x_weight)
        self.rows, self.weights = torch.stack(rows, dim=-1), torch.stack(weights, dim=-1)

    def as_map(self, values: Tensor) -> Tensor:
        """What was read, (L, D) -> (M, D, H', W'), a view."""
        return values.view(*self._places, values.shape[-1]).permute(0, 3, 1, 2)

    def readers(self, taps: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Who reads each row of the table in some T taps.

        Returns:
            (4 L T,) samples, counted through those (L, T), in order of the row that they read; (4 L T,) their
            weights for it, not differentiable; (R,) where in that order each row's begin.
        """
        key = taps.start, taps.stop
        if key not in self._readers:
            rows, entries = self.rows[:, taps].flatten().sort()
            weights = self.weights.detach()[:, taps].flatten()[entries]
            starts = torch.searchsorted(rows, torch.arange(self._num_rows, device=rows.device))
            self._readers[key] = entries // 4, weights, starts
        return self._readers[key]


def _both_sides(positions: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions along an axis -> the cells before and after them, each with its weights."""
    before = positions.detach().floor()
    after = before + 1
    for cells, weights in ((before, after - positions), (after, positions - before)):
        inside = (cells >= 0) & (cells < size)
        # Clamped as integers: a position that is not finite must not become a cell out of range.
        yield cells.int().clamp_(0, size - 1), weights * inside


def deform_conv_gather(features: Tensor, corners: BilinearNeighbors, kernels: list[Tensor]) -> Tensor:
    """Several deformable convolutions of one map, whose taps follow one another in ``corners``.

    Differentiable in the features, the corners' weights and the kernels. What is read is P times the map: it
    is not kept for the backward pass but read again, which costs a fraction of the matrix products.

    Args:
        features: (N, C, H, W), the map that ``corners`` are of.
        kernels: (D_i, C, k_i, k_i) each; the sum of k_i^2 is P.

    Returns:
        (M, sum of D_i, H', W'), of the features' type or autocast's.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype
    # Contiguous: one image's permuted map is a table as it stands, but one that is slow to read.
    table = features.to(dtype).permute(0, 2, 3, 1).flatten(0, 2).contiguous()
    kernels = [kernel.to(dtype).permute(0, 2, 3, 1).flatten(1, 2).contiguous() for kernel in kernels]
    weights = corners.weights.to(dtype)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled():
            return corners.as_map(_DeformableProducts.apply(table, weights, corners, *kernels))
        return corners.as_map(_products(table, weights, corners, kernels))


def _products(
    table: Tensor, weights: Tensor, corners: BilinearNeighbors, kernels: Sequence[Tensor]
) -> Tensor:
    """Table (R, C), weights (L, P, 4), kernels (D_i, P_i, C) -> (L, sum of D_i).

    A few taps at a time: their samples stay in the cache and in memory that the allocator has at hand. Fresh
    pages would cost more than all the reading.
    """
    outs = [table.new_zeros(len(weights), len(kernel), dtype=_wide(table)) for kernel in kernels]
    for taps, out, kernel in _some_taps(outs, kernels):
        samples = _read(table, corners.rows[:, taps], weights[:, taps])
        out += _product(samples.view(-1, kernel.shape[1]), kernel)
    return torch.cat(outs, dim=1).to(table.dtype)


class _DeformableProducts(torch.autograd.Function):
    """:func:`_products`, which reads again on the way back."""

    @staticmethod
    def forward(ctx, table: Tensor, weights: Tensor, corners: BilinearNeighbors, *kernels: Tensor) -> Tensor:
        ctx.save_for_backward(table, weights, *kernels)
        ctx.corners = corners
        return _products(table, weights, corners, kernels)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, weights, *kernels = ctx.saved_tensors
        d_table, d_weights = torch.zeros_like(table, dtype=_wide(table)), torch.empty_like(weights)
        d_kernels = [torch.empty_like(kernel) for kernel in kernels]
        d_outs = [part.contiguous() for part in gradient.split([len(kernel) for kernel in kernels], dim=1)]
        for taps, d_out, kernel, d_kernel in _some_taps(d_outs, kernels, d_kernels):
            with torch.enable_grad():
                some = weights[:, taps].detach().requires_grad_()
                samples = _read(table, ctx.corners.rows[:, taps], some)
            torch.mm(d_out.T, samples.detach().view(-1, kernel.shape[1]), out=d_kernel)
            d_samples = _product(d_out, kernel.T).reshape(samples.shape)
            (d_weights[:, taps],) = torch.autograd.grad(samples, some, d_samples)
            d_table += _spread(d_samples, *ctx.corners.readers(taps))
        return d_table.to(table.dtype), d_weights, None, *d_kernels


def _wide(table: Tensor) -> torch.dtype:
    """In what sums over many taps are kept."""
    return to_float32(table[:0]).dtype


def _some_taps(outs: list[Tensor], *kernels: Sequence[Tensor]) -> Iterator[tuple[slice | Tensor, ...]]:
    """T taps of one output: which of all P, its (L, D_i), and their (D_i, T C) of kernels (D_i, P_i, C)."""
    begin = 0
    for out, *column in zip(outs, *kernels, strict=True):
        parts = math.ceil(len(out) * column[0][0].nbytes / _AT_ONCE)
        for some in zip(*(kernel.chunk(max(parts, 1), dim=1) for kernel in column), strict=True):
            end = begin + some[0].shape[1]
            yield slice(begin, end), out, *(kernel.flatten(1) for kernel in some)
            begin = end


def _product(rows: Tensor, kernel: Tensor) -> Tensor:
    """Rows (L, C), kernel (D, C) -> (L, D)."""
    if rows.dtype != torch.float32 or not len(rows):
        return rows @ kernel.T
    # As a 1x1 convolution of a map one cell high, by oneDNN. The matrix product would be MKL's, and slower.
    row_map = rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)
    return F.conv2d(row_map, kernel[..., None, None]).permute(0, 2, 3, 1).flatten(0, 2)


def _read(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Some taps' samples (L T, C), of their rows and weights (L, T, 4)."""
    # A bag is one sample: its four corners in the table, weighted and summed without ever being stored.
    rows, weights = rows.flatten(0, 1), weights.flatten(0, 1)
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def _spread(samples: Tensor, readers: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """The reverse of :func:`_read`: samples (L T, C) -> (R, C)."""
    # Read, too: a row's bag is all samples that it is a corner of. To add into rows is many times slower.
    return F.embedding_bag(readers, samples, starts, per_sample_weights=weights.to(samples.dtype), mode="sum")
