"""ResNets of any width against Detectron2's."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone

from kgdet_d2.modeling.backbone.fpn import build_resnet


def make_cfg(depth, width):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.update(DEPTH=depth, RES2_OUT_CHANNELS=width, STEM_OUT_CHANNELS=width, NORM="BN")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res5"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg


@pytest.mark.parametrize("depth", [18, 34])
def test_narrow_networks_have_detectron2_s_layers(depth):
    """Same names as the full width, every channel count divided by two."""
    narrow = build_resnet(make_cfg(depth, 32), ShapeSpec(channels=3)).state_dict()
    full = build_resnet_backbone(make_cfg(depth, 64), ShapeSpec(channels=3)).state_dict()
    assert narrow.keys() == full.keys()
    for name, value in full.items():
        expected = [size // 2 if i < 2 and size > 3 else size for i, size in enumerate(value.shape)]
        if name == "stem.conv1.weight":
            expected = [32, 3, 7, 7]
        assert list(narrow[name].shape) == expected, name


def test_strides():
    network = build_resnet(make_cfg(18, 32), ShapeSpec(channels=3))
    features = network(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(level.shape) for name, level in features.items()} == {
        "res3": (1, 64, 8, 12),
        "res5": (1, 256, 2, 3),
    }
