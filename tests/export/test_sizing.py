"""The rule of sizes, against the way that photos take through the predictor."""

import numpy as np
import pytest
import torch

from kgdet_d2.config import load_config
from kgdet_d2.export.sizing import SizeRule
from kgdet_d2.predictor import PhotoMapper


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(120, 90), (90, 700), (31, 33)])
def test_photos_are_scaled_as_the_predictor_does(size):
    cfg = load_config("configs/sample/kgdet_tiny.yaml", [])
    rule = SizeRule.from_config(cfg, 32, None)
    expected = PhotoMapper(cfg)(photo(*size))["image"]
    scaled = rule.resize(photo(*size))
    if cfg.INPUT.FORMAT == "BGR":
        scaled = scaled[:, :, ::-1]
    assert torch.equal(torch.from_numpy(scaled.copy()).permute(2, 0, 1), expected)


def test_photos_lie_in_the_smallest_common_frame():
    rule = SizeRule(64, 128, 32)
    photos = [photo(64, 80), photo(70, 33)]
    images, sizes = rule.batch(photos)
    assert images.shape == (2, 3, 96, 96) and sizes.tolist() == [[64, 80], [70, 33]]
    for image, (height, width), given in zip(images, sizes, photos, strict=True):
        np.testing.assert_array_equal(image[:, :height, :width].transpose(1, 2, 0), given)
        assert image.sum() == given.sum()


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 200), (48, 96)), ((200, 100), (64, 32)), ((1, 500), (1, 96))]
)
def test_a_fixed_frame_holds_the_whole_photo(size, expected):
    rule = SizeRule(64, 128, 32, frame=(64, 96))
    scaled = rule.resize(photo(*size))
    assert scaled.shape == (*expected, 3)
    assert rule.batch([scaled])[0].shape == (1, 3, 64, 96)
