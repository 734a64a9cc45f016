import pytest
import torch
from detectron2.modeling import build_model

from kgdet_d2.config import load_config
from kgdet_d2.modeling.meta_arch import RepPoints
from tests.modeling.test_kgdet import BATCHES, photo

CONFIGS = {
    "none": ("configs/sample/reppoints_tiny.yaml", []),
    "parallel": ("configs/sample/reppoints_kp_tiny.yaml", []),
    "serial": ("configs/sample/reppoints_kp_tiny.yaml", ["MODEL.REPPOINTS.KEYPOINTS", "serial"]),
}
# The parts of RepPoints' head as the paper counts them, with 256 channels, 13 classes and 9 points.
CONV, DEFORMABLE = 256 * 256 * 9 + 256, 256 * 256 * 9
HEAD = 6 * (DEFORMABLE + 512) + 2 + CONV + 2 * DEFORMABLE + 2 * (257 * 18) + 257 * 13
LANDMARKS = CONV + DEFORMABLE + 2 * (257 * 588)
# With landmarks in series each stage has an encoding of 588 numbers in place of a branch for the points.
SERIAL = HEAD - 2 * (257 * 18) + 2 * (257 * 588) + 2 * (589 * 18)
BACKBONE_AND_NECK = 23_508_032 - 225_344 + 7_999_488


def make_model(keypoints, *opts):
    torch.manual_seed(0)
    config, own = CONFIGS[keypoints]
    norms = ["MODEL.FPN.NORM", "GN", "MODEL.KGDET.NORM", "GN"]  # BatchNorm cannot train on one cell
    return build_model(load_config(config, ["MODEL.DEVICE", "cpu", *norms, *own, *opts]))


def without_landmarks(inputs):
    for each in inputs:
        each["instances"].remove("gt_keypoints")
    return inputs


@pytest.mark.parametrize("levels", [["p4"], ["p3", "p4", "p5", "p6", "p7"]], ids="-".join)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("keypoints", ["none", "parallel", "serial"])
def test_trains_and_detects(keypoints, batch, levels):
    model = make_model(keypoints, "MODEL.FPN.OUT_FEATURES", str(levels))
    inputs = [photo(*arguments) for arguments in batch]
    if keypoints == "none":
        without_landmarks(inputs)
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


@pytest.mark.parametrize("keypoints", ["none", "parallel", "serial"])
def test_every_parameter_learns(keypoints):
    model = make_model(keypoints)
    sum(model([photo(96, 96, [[5, 5, 60, 90]])]).values()).backward()
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
