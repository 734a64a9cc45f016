"""The head's cascade against its arithmetic written out in plain loops, at tiny sizes."""

import numpy as np
import pytest
import torch

from kgdet_d2.modeling.heads.kgdet_head import KGDetHead

CLASSES, LANDMARKS, CHANNELS, HEIGHT, WIDTH = 2, 3, 4, 3, 4
CELLS = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]


def at(maps, row, column):
    """All channels at a cell, zeros outside."""
    inside = 0 <= row < HEIGHT and 0 <= column < WIDTH
    return maps[:, row, column] if inside else np.zeros(len(maps))


def between(maps, y, x):
    """All channels between cells: bilinear, zeros outside."""
    top, left = int(np.floor(y)), int(np.floor(x))
    value = np.zeros(len(maps))
    for row, weight_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, weight_x in ((left, 1 - (x - left)), (left + 1, x - left)):
            value += weight_y * weight_x * at(maps, row, column)
    return value


def flatten_levels(function):
    """(D, H, W) of a function of row and column."""
    result = [function(row, column) for row, column in CELLS]
    return np.stack(result, axis=1).reshape(-1, HEIGHT, WIDTH)


def convolution(maps, weight, bias):
    radius = weight.shape[-1] // 2

    def cell(row, column):
        total = bias.copy()
        for i in range(weight.shape[2]):
            for j in range(weight.shape[3]):
                total += weight[:, :, i, j] @ at(maps, row + i - radius, column + j - radius)
        return total

    return flatten_levels(cell)


def column_of_points(maps, points, weight):
    """One column of the aggregation: tap t reads where point t lies, seen from the cell; points y first."""
    side = weight.shape[-1]

    def cell(row, column):
        total = np.zeros(len(weight))
        for tap in range(side * side):
            y, x = points[2 * tap, row, column], points[2 * tap + 1, row, column]
            total += weight[:, :, tap // side, tap % side] @ between(maps, row + y, column + x)
        return np.maximum(total, 0)

    return flatten_levels(cell)


def box(points, scale):
    """Mean and unbiased standard deviation of the points, times exp of the learned logarithms."""

    def cell(row, column):
        x, y = points[1::2, row, column], points[0::2, row, column]
        centre = np.array([sum(x) / len(x), sum(y) / len(y)])
        variance = np.array([sum((v - m) ** 2) / (len(v) - 1) for v, m in ((x, centre[0]), (y, centre[1]))])
        half = np.exp(scale) * np.sqrt(variance)
        return np.concatenate([centre - half, centre + half])

    return flatten_levels(cell)


def head_by_loops(state, features, columns, num_stages):
    """Of every stage logits, keypoints, points and boxes, for one image (C, H, W)."""

    def layer(name, maps):
        return convolution(maps, state[f"{name}.weight"], state[f"{name}.bias"])

    towers = {
        branch: np.maximum(layer(f"{tower}.0", features), 0)
        for branch, tower in (("cls", "cls_tower"), ("keypoint", "keypoint_tower"))
    }
    keypoints, points, outputs = 0.0, np.zeros((2 * sum(columns), HEIGHT, WIDTH)), []
    starts = 2 * np.cumsum([0, *columns])
    for t in range(num_stages):
        stage, read = f"stages.{t}", {}
        for branch, maps in towers.items():
            aggregation = f"{stage}.{branch}_aggregation"
            if t == 0:
                read[branch] = np.maximum(layer(f"{aggregation}.conv", maps), 0)
                continue
            read[branch] = np.concatenate(
                [
                    column_of_points(
                        maps, points[starts[i] : starts[i + 1]], state[f"{aggregation}.convs.{i}.weight"]
                    )
                    for i in range(len(columns))
                ]
            )
        logits = layer(f"{stage}.cls_score", read["cls"])
        residual = layer(f"{stage}.keypoint_offsets", read["keypoint"])
        keypoints = keypoints + residual
        points = points + layer(f"{stage}.encode_points", residual)
        outputs.append((logits, keypoints, points, box(points, state["moment_scale"])))
    return outputs


@pytest.mark.parametrize(("columns", "num_stages"), [([9], 2), ([9, 25], 3), ([9, 9], 1)])
def test_against_plain_loops(columns, num_stages):
    torch.manual_seed(0)
    head = KGDetHead(
        in_channels=CHANNELS,
        num_classes=CLASSES,
        num_keypoints=LANDMARKS,
        num_stages=num_stages,
        aggregation="encoding",
        columns=columns,
        channels=CHANNELS,
        num_convs=1,
        norm="",
        prior_prob=0.01,
        points_gradient=0.1,
        moment_gradient=0.01,
    ).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    features = torch.randn(2, CHANNELS, HEIGHT, WIDTH).double()
    with torch.no_grad():
        stages = head([features])
    state = {name: value.numpy() for name, value in head.state_dict().items()}
    for image in range(2):
        expected = head_by_loops(state, features[image].numpy(), columns, num_stages)
        assert len(stages) == len(expected)
        for stage, fields in zip(stages, expected, strict=True):
            found = (stage.logits, stage.keypoints, stage.points, stage.boxes)
            for ours, theirs in zip(found, fields, strict=True):
                np.testing.assert_allclose(ours[0][image], theirs, rtol=0, atol=1e-10)
