"""Gathered deformable convolutions against torchvision's op and plain loops, in every precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import deform_conv2d

from kgdet_d2.layers.bilinear_gather import BilinearNeighbors, deform_conv_gather
from kgdet_d2.modeling.heads.aggregation import PointAggregation, SamplingLocations

CHANNELS, OUT = 3, 2


def make_branches(columns, dtype=torch.float32):
    return [PointAggregation(CHANNELS, OUT, columns).to(dtype) for _ in range(2)]


def by_torchvision(branch, features, points):
    grids = branch.grids.to(points)
    offsets = (points - grids).split([2 * points for points in branch.columns], dim=1)
    columns = [
        deform_conv2d(features, offset, conv.weight, padding=conv.padding)
        for conv, offset in zip(branch.convs, offsets, strict=True)
    ]
    return torch.cat(columns, dim=1).relu()


def outputs_and_gradients(branches, maps, points, upstream, read):
    leaves = [*maps, points, *(p for branch in branches for p in branch.parameters())]
    outs = [read(branch, features) for branch, features in zip(branches, maps, strict=True)]
    return [*outs, *torch.autograd.grad(outs, leaves, upstream)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    columns=st.lists(st.sampled_from([1, 9, 25]), min_size=1, max_size=3),
    spread=st.sampled_from([0.3, 2.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_two_branches_at_the_same_points_equal_torchvision_s_op(seed, num, size, columns, spread, dtype):
    """Outputs; gradients of maps, points and weights; points inside, across and beyond the border."""
    torch.manual_seed(seed)
    branches = make_branches(columns, dtype)
    maps = [torch.randn(num, CHANNELS, *size, dtype=dtype, requires_grad=True) for _ in branches]
    points = (spread * torch.randn(num, 2 * sum(columns), *size, dtype=dtype)).requires_grad_()
    upstream = [torch.randn(num, OUT * len(columns), *size, dtype=dtype) for _ in branches]
    sampling = SamplingLocations(points)
    ours = outputs_and_gradients(branches, maps, points, upstream, lambda b, f: b(f, sampling))
    theirs = outputs_and_gradients(
        branches, maps, points, upstream, lambda b, f: by_torchvision(b, f, points)
    )
    # Where the ReLU's argument is zero but for the arithmetic, its gradient may be either.
    doubtful = any(((out > 0) != (other > 0)).any() for out, other in zip(ours[:2], theirs[:2], strict=True))
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    for one, other in list(zip(ours, theirs, strict=True))[: 2 if doubtful else None]:
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True], ids=["half inputs", "autocast"])
def test_half_precision_is_as_exact_as_its_numbers(dtype, autocast):
    """Outputs and gradients against full precision, in units of the largest of them."""
    torch.manual_seed(0)
    branches = make_branches([9, 25])
    points = (2 * torch.randn(2, 68, 6, 7)).requires_grad_()
    maps = [torch.randn(2, CHANNELS, 6, 7).to(dtype).float().requires_grad_() for _ in branches]
    upstream = [torch.randn(2, 2 * OUT, 6, 7).to(dtype).float() for _ in branches]
    for branch in branches:
        for parameter in branch.parameters():
            parameter.data = parameter.data.to(dtype).float()

    def read(branch, features):
        with torch.autocast("cpu", dtype, enabled=autocast):
            sampling = SamplingLocations(points)
            out = branch(features if autocast else features.to(dtype), sampling)
        assert out.dtype == dtype
        return out.float()

    def in_full(branch, features):
        return branch(features, SamplingLocations(points))

    for features, gradient, branch in zip(maps, upstream, branches, strict=True):
        # Where the ReLU's argument is zero but for the arithmetic, its gradient may be either.
        gradient *= (read(branch, features) > 0) == (in_full(branch, features) > 0)
    half = outputs_and_gradients(branches, maps, points, upstream, read)
    full = outputs_and_gradients(branches, maps, points, upstream, in_full)
    for one, other in zip(half, full, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() <= 8 * torch.finfo(dtype).eps * other.abs().max()


def test_empty_batch():
    (branch, _), points = make_branches([9, 25]), torch.zeros(0, 68, 4, 5, requires_grad=True)
    features = torch.zeros(0, CHANNELS, 4, 5, requires_grad=True)
    out = branch(features, SamplingLocations(points))
    assert out.shape == (0, 2 * OUT, 4, 5)
    out.sum().backward()
    assert features.grad.shape == features.shape and points.grad.shape == points.shape
    assert not any(parameter.grad.any() for parameter in branch.parameters())


def test_chosen_cells_read_what_they_read_among_all():
    torch.manual_seed(0)
    branch, _ = make_branches([9, 25])
    features, points = torch.randn(2, CHANNELS, 6, 7), 3 * torch.randn(2, 68, 6, 7)
    locations = torch.tensor([1, 0, 1]), torch.tensor([5, 0, 2]), torch.tensor([6, 3, 2])
    chosen = branch(features, SamplingLocations(points, locations))
    assert chosen.shape == (3, 2 * OUT, 1, 1)
    everywhere = branch(features, SamplingLocations(points))
    images, rows, columns = locations
    torch.testing.assert_close(chosen[..., 0, 0], everywhere[images, :, rows, columns])


def test_corners_against_plain_loops():
    torch.manual_seed(0)
    x, y = 4 * torch.rand(2, 1, 3, 4, 5).double() - 1
    features = torch.randn(1, CHANNELS, 3, 3).double()
    kernel = torch.eye(CHANNELS).double()[:, :, None, None]  # copies what is read

    def feature(row, column):
        inside = 0 <= row < 3 and 0 <= column < 3
        return features[0, :, row, column] if inside else torch.zeros(CHANNELS).double()

    corners = BilinearNeighbors(x[:, :1], y[:, :1], torch.arange(1), features.shape)
    out = deform_conv_gather(features, corners, [kernel])
    for i in range(4):
        for j in range(5):
            px, py = x[0, 0, i, j].item(), y[0, 0, i, j].item()
            left, top = math.floor(px), math.floor(py)
            expected = sum(
                (1 - abs(px - column)) * (1 - abs(py - row)) * feature(row, column)
                for row in (top, top + 1)
                for column in (left, left + 1)
            )
            torch.testing.assert_close(out[0, :, i, j], expected)
