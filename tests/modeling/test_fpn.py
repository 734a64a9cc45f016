"""The lean pyramid against the full one and Detectron2's, and its unused parameters."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from kgdet_d2.config import add_kgdet_config
from kgdet_d2.modeling.backbone.fpn import EXTRAS_FROM, FineMap, LeanFPN


def make_backbone(levels, *, full=False, norm="GN", fixed=False, extras_from="res5"):
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_lean_fpn_backbone"
    cfg.MODEL.BACKBONE.FIXED_BN_STATS = fixed
    cfg.MODEL.RESNETS.update(DEPTH=18, RES2_OUT_CHANNELS=64, NORM="BN")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"][0 if "p2" in levels else 1 :]
    cfg.MODEL.FPN.update(OUT_CHANNELS=32, NORM=norm, OUT_FEATURES=levels, FULL=full, EXTRAS_FROM=extras_from)
    torch.manual_seed(0)
    return build_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("extras_from", EXTRAS_FROM)
@pytest.mark.parametrize(
    "levels",
    [["p5"], ["p3", "p4"], ["p4", "p5", "p6", "p7"], ["p6"], ["p5", "p6", "p7"], ["p3"], ["p2", "p3"]],
)
def test_lean_and_full_pyramids_give_the_same(levels, extras_from):
    full = make_backbone(levels, full=True, extras_from=extras_from).eval()
    lean = make_backbone(levels, extras_from=extras_from).eval()
    missing, unexpected = lean.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    assert {name for name in unexpected if not name.endswith(("mean", "var"))} <= set(
        full.unused_parameters()
    )
    assert lean.unused_parameters() == []
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = lean(image), full(image)
    assert list(ours) == levels
    for name, stride in ((name, 2 ** int(name[1])) for name in levels):
        assert ours[name].shape == (2, 32, -(-64 // stride), -(-96 // stride))
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("extras_from", EXTRAS_FROM)
@pytest.mark.parametrize("levels", [["p5"], ["p4", "p5", "p6"], ["p6"]])
def test_unused_parameters_are_exactly_those_without_gradient(levels, extras_from):
    backbone = make_backbone(levels, full=True, extras_from=extras_from)
    sum(level.sum() for level in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert sorted(without) == sorted(backbone.unused_parameters())


@pytest.mark.parametrize("lowest", [2, 3])
def test_without_norm_it_is_detectron2_s_pyramid_of_FCOS(lowest):
    """With p6 of p5, a ReLU between p6 and p7, and biases."""
    ours = make_backbone([f"p{level}" for level in range(lowest, 8)], norm="", extras_from="p5").eval()
    stages = [f"res{level}" for level in range(lowest, 6)]
    theirs = FPN(ours.bottom_up, stages, 32, top_block=LastLevelP6P7(32, 32, in_feature="p5")).eval()
    for parameter in ours.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    for level in range(lowest, 6):
        getattr(theirs, f"fpn_lateral{level}").load_state_dict(ours.laterals[f"p{level}"].state_dict())
        getattr(theirs, f"fpn_output{level}").load_state_dict(ours.outputs[f"p{level}"].state_dict())
    for level in (6, 7):
        getattr(theirs.top_block, f"p{level}").load_state_dict(ours.extras[f"p{level}"].state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


def test_unknown_origin_of_the_extra_levels_is_refused():
    with pytest.raises(ValueError, match=r"EXTRAS_FROM: expected one of \('res5', 'p5'\), got 'p4'"):
        make_backbone(["p5"], extras_from="p4")


def test_fixed_batch_norm_learns_its_affine_part_alone():
    backbone = make_backbone(["p5"], fixed=True).train()
    bn = backbone.bottom_up.res5[0].conv1.norm
    before = bn.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))["p5"].square().sum().backward()
    assert torch.equal(bn.running_mean, before)
    assert bn.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("levels", [[], ["p1", "p2"], ["p3", "p5"], ["p5", "p4"], ["res5"]])
def test_levels_that_make_no_pyramid_are_refused(levels):
    with pytest.raises(ValueError, match="expected consecutive levels of"):
        make_backbone(levels)


def test_levels_of_stages_that_the_network_does_not_give_are_refused():
    bottom_up = make_backbone(["p3"]).bottom_up
    message = r"\['p2'\] need \['res2'\], and the network gives \['res3', 'res4', 'res5'\]"
    with pytest.raises(ValueError, match=message):
        LeanFPN(
            bottom_up,
            out_features=["p2"],
            out_channels=32,
            norm="",
            extras_from="res5",
            full=False,
            fixed_bn_stats=False,
        )


def fine_backbone(level, **changes):
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_lean_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    stages = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.update(DEPTH=18, RES2_OUT_CHANNELS=64, NORM="BN", OUT_FEATURES=stages)
    cfg.MODEL.FPN.update(OUT_CHANNELS=32, OUT_FEATURES=["p5"], FINE_LEVEL=level, FINE_CHANNELS=8, **changes)
    torch.manual_seed(0)
    return build_backbone(cfg, ShapeSpec(channels=3)).eval()


@pytest.mark.parametrize(("level", "stride"), [("p2", 4), ("p3", 8)])
def test_fine_map_sums_what_is_above_it(level, stride):
    """Against the sum of all laterals, each enlarged to the map's size at once."""
    backbone = fine_backbone(level)
    assert backbone.output_shape()["fine"] == ShapeSpec(channels=8, stride=stride)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, res = backbone(image), backbone.bottom_up(image)
        expected = 0
        for number in range(int(level[1]), 6):
            lateral = backbone.fine.laterals[f"p{number}"](res[f"res{number}"])
            expected = expected + F.interpolate(lateral, size=maps["fine"].shape[-2:], mode="nearest")
    assert maps["fine"].shape == (2, 8, 64 // stride, 96 // stride)
    torch.testing.assert_close(maps["fine"], expected)


def test_without_a_fine_level_nothing_changes():
    with_map, without = fine_backbone("p3"), fine_backbone("")
    names = set(with_map.state_dict()) - set(without.state_dict())
    assert names and all(name.startswith("fine.") for name in names)
    assert "fine" not in without.output_shape()
    assert (
        fine_backbone("p3", FULL=True).unused_parameters() == fine_backbone("", FULL=True).unused_parameters()
    )


def test_fine_map_of_a_stage_that_is_not_there():
    shapes = {"res3": 8, "res4": 8, "res5": 8}
    with pytest.raises(ValueError, match=r"MODEL.FPN.FINE_LEVEL: 'p2' is made of res2, .* got \['res3'"):
        FineMap(shapes, level="p2", out_channels=8, norm="")
