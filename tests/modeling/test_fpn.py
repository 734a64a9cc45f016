import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from kgdet_d2.config import add_kgdet_config


def make_backbone(levels, *, full=False, norm="GN", fixed=False):
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_lean_fpn_backbone"
    cfg.MODEL.BACKBONE.FIXED_BN_STATS = fixed
    cfg.MODEL.RESNETS.update(DEPTH=18, RES2_OUT_CHANNELS=64, NORM="BN", OUT_FEATURES=["res3", "res4", "res5"])
    cfg.MODEL.FPN.update(OUT_CHANNELS=32, NORM=norm, OUT_FEATURES=levels, FULL=full)
    torch.manual_seed(0)
    return build_backbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize(
    "levels", [["p5"], ["p3", "p4"], ["p4", "p5", "p6", "p7"], ["p6"], ["p5", "p6", "p7"], ["p3"]]
)
def test_lean_and_full_pyramids_give_the_same(levels):
    full = make_backbone(levels, full=True).eval()
    lean = make_backbone(levels).eval()
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


@pytest.mark.parametrize("levels", [["p5"], ["p4", "p5", "p6"]])
def test_unused_parameters_are_exactly_those_without_gradient(levels):
    backbone = make_backbone(levels, full=True)
    sum(level.sum() for level in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert sorted(without) == sorted(backbone.unused_parameters())


def test_fixed_batch_norm_learns_its_affine_part_alone():
    backbone = make_backbone(["p5"], fixed=True).train()
    bn = backbone.bottom_up.res5[0].conv1.norm
    before = bn.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))["p5"].square().sum().backward()
    assert torch.equal(bn.running_mean, before)
    assert bn.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("levels", [[], ["p2"], ["p3", "p5"], ["p5", "p4"], ["res5"]])
def test_levels_that_make_no_pyramid_are_refused(levels):
    with pytest.raises(ValueError, match="expected consecutive levels of"):
        make_backbone(levels)
