"""Locations, offsets, boxes and sampling positions by hand and by plain loops."""

import pytest
import torch

from kgdet_d2.geometry.points import (
    boxes_to_pixels,
    kernel_grid,
    make_locations,
    moment_box,
    offsets_to_points,
    sampling_positions,
    scale_gradient,
    split_points,
)


def test_cells_stand_at_column_and_row_times_stride():
    locations, strides = make_locations([(2, 3), (1, 2)], [32, 64], torch.device("cpu"))
    expected = [[j * 32.0, i * 32.0] for i in range(2) for j in range(3)] + [[0.0, 0.0], [64.0, 0.0]]
    assert locations.tolist() == expected
    assert strides.tolist() == [32.0] * 6 + [64.0] * 2


def test_offsets_are_y_first_in_strides():
    offsets = torch.tensor([[1.0, 2.0, -1.0, 0.5]])  # (y 1, x 2), (y -1, x 0.5)
    points = offsets_to_points(offsets, torch.tensor([[64.0, 32.0]]), torch.tensor([32.0]))
    assert points.tolist() == [[[128.0, 64.0], [80.0, 0.0]]]


def test_split_points_along_any_dimension_agree():
    offsets = torch.randn(2, 3, 4, 10, generator=torch.Generator().manual_seed(0))
    last = split_points(offsets)
    first = split_points(offsets.permute(0, 3, 1, 2), dim=1)
    for a, b in zip(last, first, strict=True):
        assert torch.equal(a, b.permute(0, 2, 3, 1))


def test_boxes_to_pixels():
    boxes = boxes_to_pixels(
        torch.tensor([[-1.0, 0.0, 1.0, 2.0]]), torch.tensor([[32.0, 64.0]]), torch.tensor([16.0])
    )
    assert boxes.tolist() == [[16.0, 64.0, 48.0, 96.0]]


def test_kernel_grid_is_row_major_and_y_first():
    assert kernel_grid(3).view(9, 2).tolist() == [[y, x] for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]


def test_point_minus_grid_samples_at_cell_plus_point():
    points = torch.randn(1, 18, 4, 5, generator=torch.Generator().manual_seed(0))
    x, y = sampling_positions(points - kernel_grid(3)[:, None, None], kernel_size=3)
    for row in range(4):
        for column in range(5):
            expected_y = row + points[0, 0::2, row, column]
            expected_x = column + points[0, 1::2, row, column]
            torch.testing.assert_close(y[0, :, row, column], expected_y)
            torch.testing.assert_close(x[0, :, row, column], expected_x)


def test_moment_box_by_hand():
    x, y = torch.tensor([[0.0, 2.0, 4.0]]), torch.tensor([[1.0, 1.0, 4.0]])
    box = moment_box(x, y, torch.tensor([2.0, 0.5]).log(), dim=-1)
    # Unbiased: var(x) = (4 + 0 + 4) / 2, var(y) = (1 + 1 + 4) / 2.
    assert torch.allclose(box, torch.tensor([[2 - 4.0, 2 - 0.5 * 3**0.5, 2 + 4.0, 2 + 0.5 * 3**0.5]]))


def test_moment_box_of_coinciding_points_has_no_area_and_finite_gradients():
    x = torch.ones(1, 5, requires_grad=True)
    box = moment_box(x, x, torch.zeros(2), dim=-1)
    assert box.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    (box * torch.tensor([1.0, 0.0, 2.0, 0.0])).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_scale_gradient_keeps_the_value(dtype):
    torch.manual_seed(0)
    x = (torch.randn(1000) * 10).to(dtype).requires_grad_()
    y = scale_gradient(x, 0.1)
    y.sum().backward()
    assert torch.equal(y, x)
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.1))
