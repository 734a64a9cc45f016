"""Differences between detections: which are those of rounding, and which are not."""

import numpy as np
import pytest

from kgdet_d2.export.compare import Difference


def detections(number=5, seed=0):
    rng = np.random.default_rng(seed)
    corners = 50.0 * np.arange(number)[:, None] + rng.random((number, 2))
    return {
        "boxes": np.concatenate([corners, corners + 40], axis=1).astype(np.float32),
        "scores": np.sort(rng.random(number).astype(np.float32))[::-1],
        "classes": rng.integers(0, 3, number),
        "keypoints": rng.random((number, 4, 3)).astype(np.float32),
        "keypoint_scores": rng.random(number).astype(np.float32),
    }


def difference(expected, found, cutoff=0.0):
    result = Difference()
    result.add_detections(expected, found, cutoff)
    return result


def test_the_order_does_not_matter():
    expected = detections()
    order = np.array([3, 0, 4, 1, 2])
    assert difference(expected, {name: values[order] for name, values in expected.items()}) == Difference(5)


@pytest.mark.parametrize(
    ("name", "column", "gap", "good"),
    [
        ("boxes", 2, 9e-4, True),
        ("boxes", 2, 2e-3, False),
        ("keypoints", (1, 1), 2e-3, False),
        ("keypoints", (1, 2), 2e-5, False),
        ("scores", (), 2e-5, False),
        ("scores", (), 5e-6, True),
        ("keypoint_scores", (), 2e-5, False),
        ("keypoints", (0, 0), np.nan, False),
        ("scores", (), np.nan, False),
    ],
)
def test_what_is_more_than_rounding(name, column, gap, good):
    expected, found = detections(), detections()
    column = column if isinstance(column, tuple) else (column,)
    found[name][(2, *column)] += gap
    result = difference(expected, found)
    if good:
        result.check("model.onnx")
    else:
        with pytest.raises(ValueError, match="expected what the model finds to"):
            result.check("model.onnx")


@pytest.mark.parametrize("side", [0, 1])
def test_one_that_is_missing(side):
    pair = [detections(), detections()]
    pair[side] = {name: values[:-1] for name, values in pair[side].items()}
    result = difference(*pair)
    assert (result.compared, result.unmatched) == (4, 1)
    with pytest.raises(ValueError, match="1 detections without a pair beside 4"):
        result.check("model.onnx")
    assert difference(*pair, cutoff=float(detections()["scores"][-1])).unmatched == 0


def test_another_class_is_another_garment():
    found = detections()
    found["classes"] = (found["classes"] + 1) % 3
    assert difference(detections(), found).unmatched == 10


def test_nothing_found_is_nothing_compared():
    empty = detections(0)
    with pytest.raises(ValueError, match="nothing was found on the photos, so nothing was compared"):
        difference(empty, empty).check("model.onnx")
