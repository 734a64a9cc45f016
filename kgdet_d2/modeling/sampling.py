"""Feature maps read between their cells, and matrix products of what is read: deformable convolution on CPU.

N images, C and D channels in and out, H x W cells, R = N H W rows of the map as a table, P taps, L = M H' W'
places that read the map at P positions each.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kgdet_d2.geometry.numerics import full_precision


class Corners:
    """The four cells around each position, and their weights. Outside the map the features are zero.

    Worked out once for everything that reads at these positions, whatever it reads.

    Attributes:
        rows: (P, L, 4) of the table.
        weights: (P, L, 4) in the positions' precision, differentiable in the positions.
        num_rows: R.
    """

    def __init__(self, x: Tensor, y: Tensor, images: Tensor, shape: Sequence[int]):
        """
        Args:
            x, y: (M, P, H', W') columns and rows of the map, continuous; L = M H' W'.
            images: (M,), which image each of the M reads.
            shape: (N, C, H, W) of the map.
        """
        num, _, height, width = shape
        self.num_rows = num * height * width
        self._places = x[:, 0].shape
        images = images[:, None, None].expand(self._places).flatten()
        x, y = x.transpose(0, 1).flatten(1), y.transpose(0, 1).flatten(1)
        left, top = x.detach().floor(), y.detach().floor()
        rows, weights = [], []
        for corner_y, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
            for corner_x, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
                inside = (corner_x >= 0) & (corner_x < width) & (corner_y >= 0) & (corner_y < height)
                # Clamped as integers: a position that is not finite must not become a row out of range.
                column, row = corner_x.long().clamp(0, width - 1), corner_y.long().clamp(0, height - 1)
                rows.append((images * height + row) * width + column)
                weights.append(weight_y * weight_x * inside)
        self.rows, self.weights = torch.stack(rows, dim=-1), torch.stack(weights, dim=-1)

    def as_map(self, values: Tensor) -> Tensor:
        """What was read, (L, D) -> (M, D, H', W'), a view."""
        return values.view(*self._places, values.shape[-1]).permute(0, 3, 1, 2)

    @cached_property
    def readers(self) -> tuple[Tensor, Tensor]:
        """Who reads each row of the table, tap by tap.

        Returns:
            The entries of a tap's ``rows`` (L, 4), counted through, in order of the row they name: (P, 4 L);
            and where in that order each row's entries begin: (P, R).
        """
        rows, entries = self.rows.flatten(1).sort(dim=1)
        every = torch.arange(self.num_rows, device=rows.device).expand(len(rows), -1)
        return entries, torch.searchsorted(rows, every.contiguous())


def deformable_products(features: Tensor, corners: Corners, kernels: list[Tensor]) -> Tensor:
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


def _products(table: Tensor, weights: Tensor, corners: Corners, kernels: Sequence[Tensor]) -> Tensor:
    """Table (R, C), weights (P, L, 4), kernels (D_i, P_i, C) -> (L, sum of D_i).

    Tap by tap: as little as one tap's samples, the size of the map, stays in the cache and in memory that the
    allocator has at hand. Fresh pages would cost more than all the reading.
    """
    outs = [table.new_zeros(weights.shape[1], len(kernel), dtype=_wide(table)) for kernel in kernels]
    for tap, (out, kernel) in enumerate(_taps(outs, kernels)):
        out += _read(table, corners.rows[tap], weights[tap]) @ kernel.T
    return torch.cat(outs, dim=1).to(table.dtype)


class _DeformableProducts(torch.autograd.Function):
    """:func:`_products`, which reads again on the way back."""

    @staticmethod
    def forward(ctx, table: Tensor, weights: Tensor, corners: Corners, *kernels: Tensor) -> Tensor:
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
        for tap, (d_out, kernel, d_kernel) in enumerate(_taps(d_outs, kernels, d_kernels)):
            with torch.enable_grad():
                weight = weights[tap].detach().requires_grad_()
                samples = _read(table, ctx.corners.rows[tap], weight)
            d_samples = d_out @ kernel
            (d_weights[tap],) = torch.autograd.grad(samples, weight, d_samples)
            torch.mm(d_out.T, samples.detach(), out=d_kernel)
            d_table += _spread(d_samples, ctx.corners, weights[tap], tap)
        return d_table.to(table.dtype), d_weights, None, *d_kernels


def _wide(table: Tensor) -> torch.dtype:
    """In what sums over many taps are kept."""
    return full_precision(table[:0]).dtype


def _taps(outs: list[Tensor], *kernels: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Each tap's column (L, D_i) of the output, and its (D_i, C) of kernels (D_i, P_i, C)."""
    for out, *column in zip(outs, *kernels, strict=True):
        for slices in zip(*(kernel.unbind(1) for kernel in column), strict=True):
            yield out, *slices


def _read(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """One tap's samples (L, C), of its rows and weights (L, 4)."""
    # A bag is one sample: its four corners in the table, weighted and summed without ever being stored.
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def _spread(samples: Tensor, corners: Corners, weights: Tensor, tap: int) -> Tensor:
    """The reverse of :func:`_read`: samples (L, C) -> (R, C)."""
    # Read, too: a row's bag is all samples that it is a corner of. To add into rows is many times slower.
    entries, starts = (part[tap] for part in corners.readers)
    weights = weights.flatten()[entries]
    return F.embedding_bag(entries // 4, samples, starts, per_sample_weights=weights, mode="sum")
