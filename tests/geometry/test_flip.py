"""Mirrored maps, offsets and boxes against mirrors in pixels."""

import pytest
import torch

from kgdet_d2.geometry.flip import mirror_boxes, mirror_columns, mirror_offsets
from kgdet_d2.geometry.points import boxes_to_pixels, make_locations, offsets_to_points

FLIP_MAP = torch.tensor([1, 0, 2, 4, 3])
STRIDE = 8


def flatten_levels(level):
    return level[0].flatten(1).T


@pytest.mark.parametrize("width", [3, 6, 9])
def test_columns_against_loops(width):
    maps = torch.randn(4, 2, 3, 6)
    axis = torch.tensor([5, 3, 8, 20])
    mirrored, inside = mirror_columns(maps, axis, width)
    assert mirrored.shape == (4, 2, 3, width) and inside.shape == (4, 1, 1, width)
    for image in range(4):
        for column in range(width):
            source = int(axis[image]) - column
            there = 0 <= source < 6
            expected = maps[image, :, :, source] if there else torch.zeros(2, 3)
            assert torch.equal(mirrored[image, :, :, column], expected)
            assert inside[image, 0, 0, column] == there


def test_two_mirrors_are_none():
    maps, axis = torch.randn(3, 2, 4, 7), torch.tensor([6, 6, 4])
    once, inside = mirror_columns(maps, axis, 7)
    twice, _ = mirror_columns(once, axis, 7)
    assert torch.equal(twice, torch.where(inside, maps, 0))
    assert inside[:2].all() and inside[2].sum() == 5
    offsets, boxes = torch.randn(2, 10, 3, 4), torch.randn(2, 4, 3, 4)
    assert torch.equal(mirror_offsets(mirror_offsets(offsets, FLIP_MAP), FLIP_MAP), offsets)
    assert torch.equal(mirror_boxes(mirror_boxes(boxes)), boxes)


def test_columns_without_a_source_take_no_nan_and_give_no_gradient():
    maps = torch.full((1, 1, 1, 3), torch.nan, requires_grad=True)
    mirrored, inside = mirror_columns(maps, torch.tensor([-1]), 3)
    assert not inside.any() and not mirrored.any()
    mirrored.sum().backward()
    assert not maps.grad.any()


@pytest.mark.parametrize("axis", [4, 5])
def test_points_and_boxes_land_where_a_mirror_puts_them(axis):
    """In pixels x becomes axis * stride - x, whatever the cell it is written at."""
    locations, strides = make_locations([(2, 5)], [STRIDE], torch.device("cpu"))
    offsets, corners = torch.randn(1, 10, 2, 5), torch.randn(1, 2, 2, 2, 5).sort(dim=1).values
    boxes = corners.flatten(1, 2)
    points = offsets_to_points(flatten_levels(offsets), locations, strides)
    sides = boxes_to_pixels(flatten_levels(boxes), locations, strides)

    columns = torch.tensor([axis])
    mirrored, inside = mirror_columns(mirror_offsets(offsets, FLIP_MAP), columns, 5)
    found_points = offsets_to_points(flatten_levels(mirrored), locations, strides).view(2, 5, 5, 2)
    mirrored_boxes, _ = mirror_columns(mirror_boxes(boxes), columns, 5)
    found_sides = boxes_to_pixels(flatten_levels(mirrored_boxes), locations, strides).view(2, 5, 4)
    points, sides = points.view(2, 5, 5, 2), sides.view(2, 5, 4)
    for row in range(2):
        for column in inside.flatten().nonzero().flatten().tolist():
            source = axis - column
            for landmark in range(5):
                x, y = points[row, source, FLIP_MAP[landmark]]
                expected = torch.stack([axis * STRIDE - x, y])
                torch.testing.assert_close(found_points[row, column, landmark], expected)
            x1, y1, x2, y2 = sides[row, source]
            expected = torch.stack([axis * STRIDE - x2, y1, axis * STRIDE - x1, y2])
            torch.testing.assert_close(found_sides[row, column], expected)
