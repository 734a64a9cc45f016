"""timm's networks as backbones: names and strides of their maps, what is frozen, names that do not fit."""

import sys

import pytest
import timm
import torch
from detectron2.modeling import build_model
from detectron2.structures import PolygonMasks

import kgdet_d2.config_checks
from kgdet_d2.config import load_config
from kgdet_d2.modeling.backbone import TimmBackbone
from kgdet_d2.utils.command import exit_status
from tests.helpers.box_detectors import train_once
from tests.helpers.images import image_input
from tests.helpers.systems import make_model

NAMES = ["mobilenetv2_100", "tf_efficientnet_lite0", "resnet18", "convnext_atto"]
TIMM = ["MODEL.BACKBONE.NAME", "build_timm_lean_fpn_backbone", "MODEL.TIMM.NAME"]


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_strides_and_channels_that_are_stated(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, own = backbone(image), backbone.net(image)
    for stage, stride in {"res2": 4, "res3": 8, "res4": 16, "res5": 32}.items():
        shape = backbone.output_shape()[stage]
        assert shape.stride == stride
        assert maps[stage].shape == (1, shape.channels, 64 // stride, 96 // stride)
        assert any(torch.equal(maps[stage], each) for each in own)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_what_is_frozen_makes_the_maps_up_to_there(name, freeze_at):
    """A map depends on no parameter that learns if it is frozen; the next one depends on some."""
    backbone = TimmBackbone(name, freeze_at=freeze_at).train()
    maps = backbone(torch.randn(2, 3, 64, 64))
    learns = [maps[f"res{stage}"].requires_grad for stage in (2, 3, 4, 5)]
    assert learns == [stage > freeze_at for stage in (2, 3, 4, 5)]
    first = next(iter(backbone.parameters()))
    assert first.requires_grad == (freeze_at == 0)
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:  # one that is frozen keeps its statistics
        assert norm.training == norm.weight.requires_grad
    assert not norms or norms[0].training == (freeze_at == 0)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("mobilenet_v2_100", "close to it: .*mobilenetv2_100"),
        ("zzz", "close to it: -"),
        ("hf-hub:timm/resnet18.a1_in1k", "timm has no network"),
        ("vit_tiny_patch16_224", r"expected strides \[4, 8, 16, 32\], got \[16, 16, 16\]"),
        # Of images of 224 x 224 alone; with the channels last; with sides padded to a multiple of 64.
        ("swin_tiny_patch4_window7_224", r"expected of 96 x 32 pixels maps .*, got AssertionError: .*224"),
        ("mambaout_femto", r"maps \{'res2': \(1, 48, 24, 8\), .*, got \{'res2': \(1, 24, 8, 48\), "),
        ("mobilevitv2_050", r"\(1, 256, 3, 1\)\}, got .*\(1, 256, 4, 2\)\}"),
    ],
)
def test_a_network_that_does_not_fit_is_named(name, complaint):
    with pytest.raises(ValueError, match=f"MODEL.TIMM.NAME: .*{complaint}"):
        TimmBackbone(name)


@pytest.mark.parametrize(
    ("name", "freeze_at", "complaint"),
    [
        ("resnet18", 6, r"expected 0\.\.5, got 6"),
        ("resnet18", -1, r"expected 0\.\.5, got -1"),
        # Its maps are made side by side.
        ("hrnet_w18_small", 2, "expected 0 with 'hrnet_w18_small', .* got 2"),
    ],
)
def test_what_cannot_be_frozen_is_refused(name, freeze_at, complaint):
    with pytest.raises(ValueError, match=f"MODEL.BACKBONE.FREEZE_AT: {complaint}"):
        TimmBackbone(name, freeze_at=freeze_at)


def test_a_tag_of_pretrained_weights_may_follow_the_name():
    shapes = [TimmBackbone(name).output_shape() for name in ("resnet18.tv_in1k", "resnet18")]
    assert shapes[0] == shapes[1]


def test_without_timm(monkeypatch, capsys):
    """A config says so before a network is built, and a command in a line."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm's, which is missing: pip install 'kgdet_d2\[timm\]'"):
        TimmBackbone("resnet18")
    assert exit_status(lambda: TimmBackbone("resnet18")) == 1
    assert capsys.readouterr().err.startswith("error: this backbone is one of timm's, which is missing")
    monkeypatch.setattr(kgdet_d2.config_checks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"BACKBONE.NAME: 'build_timm_lean_fpn_backbone' needs timm"):
        load_config("configs/sample/kgdet_tiny.yaml", [*TIMM, "resnet18"])


@pytest.mark.parametrize("name", NAMES)
def test_channels_last(name):
    torch.manual_seed(0)
    backbone, image = TimmBackbone(name).eval(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = backbone(image)
        found = backbone.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert found["res3"].is_contiguous(memory_format=torch.channels_last)


def test_the_lowest_level_is_of_stride_4():
    model = make_model("kgdet_tiny", *TIMM, "mobilenetv2_100", "MODEL.FPN.OUT_FEATURES", "['p2', 'p3']")
    levels = model.backbone(torch.zeros(1, 3, 64, 96))
    assert {name: level.shape[-2:] for name, level in levels.items()} == {"p2": (16, 24), "p3": (8, 12)}


SYSTEMS = [
    "kgdet_tiny",
    "fcos_tiny",
    "retinanet_tiny",
    "match_rcnn_tiny",
    "reppoints_tiny",
    "reppoints_kp_tiny",
]


@pytest.mark.parametrize("config", SYSTEMS)
def test_serves_every_system(config):
    model = make_model(config, *TIMM, "mobilenetv2_100")
    inputs = [image_input(96, 64, [[5, 5, 60, 90]]), image_input(96, 64, [[9, 5, 50, 60]])]
    for image in inputs:
        x1, y1, x2, y2 = image["instances"].gt_boxes.tensor[0].tolist()
        image["instances"].gt_masks = PolygonMasks([[[x1, y1, x2, y1, x2, y2, x1, y2]]])
    train_once(model, inputs)
    assert model.backbone.bottom_up.net.conv_stem.weight.grad is not None


def test_is_built_on_the_meta_device():
    cfg = load_config("configs/sample/kgdet_plus_tiny.yaml", ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    assert next(model.backbone.parameters()).is_meta


def test_networks_are_made_without_weights_from_elsewhere(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("downloads")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)
    TimmBackbone("resnet18")
