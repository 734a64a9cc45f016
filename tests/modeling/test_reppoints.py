"""RepPoints and RepPoints-Kp end to end: batches of every kind, what learns, and parameter counts."""

import pytest
import torch

from kgdet_d2.config import load_config
from kgdet_d2.modeling import RepPoints
from tests.helpers.images import BATCHES, image_input, without_keypoints
from tests.helpers.systems import GROUP_NORM, make_model

KEYPOINTS = ("none", "parallel", "serial")
CONFIGS = {
    "none": ("reppoints_tiny", []),
    "parallel": ("reppoints_kp_tiny", []),
    "serial": ("reppoints_kp_tiny", ["MODEL.REPPOINTS.KEYPOINTS", "serial"]),
}
# The parts of RepPoints' head as the paper counts them, with 256 channels, 13 classes and 9 points.
CONV, DEFORMABLE = 256 * 256 * 9 + 256, 256 * 256 * 9
HEAD = 6 * (DEFORMABLE + 512) + 2 + CONV + 2 * DEFORMABLE + 2 * (257 * 18) + 257 * 13
LANDMARKS = CONV + DEFORMABLE + 2 * (257 * 588)
# With landmarks in series each stage has an encoding of 588 numbers in place of a branch for the points.
SERIAL = HEAD - 2 * (257 * 18) + 2 * (257 * 588) + 2 * (589 * 18)
BACKBONE_AND_NECK = 23_508_032 - 225_344 + 7_999_488
ALL_LEVELS = ["p3", "p4", "p5", "p6", "p7"]


def make_reppoints(keypoints, *opts):
    config, keypoint_opts = CONFIGS[keypoints]
    return make_model(config, *GROUP_NORM, *keypoint_opts, *opts)


# Every setting with two garments, every other batch with one setting, and no garments with all heads.
CASES = [(keypoints, levels, "two") for keypoints in KEYPOINTS for levels in (["p4"], ALL_LEVELS)]
CASES += [("serial", ALL_LEVELS, batch) for batch in BATCHES if batch != "two"]
CASES += [("none", ALL_LEVELS, "no garments"), ("parallel", ALL_LEVELS, "no garments")]


@pytest.mark.parametrize(("keypoints", "levels", "batch"), CASES)
def test_trains_and_detects(keypoints, levels, batch):
    model = make_reppoints(keypoints, "MODEL.FPN.OUT_FEATURES", str(levels))
    inputs = [image_input(*image) for image in BATCHES[batch]]
    if keypoints == "none":
        without_keypoints(inputs)
    losses = model(inputs)
    names = ["box"] if keypoints == "none" else ["box", "keypoint"]
    assert set(losses) == {f"loss_{name}_{t}" for name in names for t in (1, 2)} | {"loss_cls_2"}
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    model.postprocessor.score_threshold = 0.0
    with torch.no_grad():
        outputs = model(inputs)
    for output, given in zip(outputs, inputs, strict=True):
        found = output["instances"]
        assert found.image_size == (given["height"], given["width"])
        assert found.has("pred_keypoints") == (keypoints != "none")
        if keypoints != "none":
            assert found.pred_keypoints.shape == (len(found), 294, 3)


@pytest.mark.parametrize("keypoints", KEYPOINTS)
def test_every_parameter_learns(keypoints):
    model = make_reppoints(keypoints)
    sum(model([image_input(96, 96, [[5, 5, 60, 90]])]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("config", "keypoints", "head"),
    [
        ("reppoints_R50", "none", HEAD),
        ("reppoints_kp_R50", "parallel", HEAD + LANDMARKS),
        ("reppoints_kp_R50", "serial", SERIAL),
    ],
)
def test_trainable_parameters_part_by_part(config, keypoints, head):
    opts = ["MODEL.DEVICE", "meta", "MODEL.REPPOINTS.KEYPOINTS", keypoints]
    cfg = load_config(f"configs/{config}.yaml", opts)
    with torch.device("meta"):
        model = RepPoints(cfg)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == BACKBONE_AND_NECK + head
