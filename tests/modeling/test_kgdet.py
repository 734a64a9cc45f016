"""KGDet end to end: batches of every kind, what learns, and the parameters that the paper counts."""

import pytest
import torch

from kgdet_d2.config import load_config
from kgdet_d2.modeling import KGDet
from tests.helpers.images import image_input, pair_with_batches
from tests.helpers.systems import make_kgdet

LEVELS = ["p4", "p5", "p5 p6 p7", "p4 p5 p6 p7"]


@pytest.mark.parametrize(("levels", "batch"), pair_with_batches(LEVELS))
def test_trains_and_detects(levels, batch):
    model = make_kgdet("MODEL.FPN.OUT_FEATURES", str(levels.split()))
    inputs = [image_input(*arguments) for arguments in batch]
    losses = model(inputs)
    assert set(losses) == {f"loss_{name}_{t}" for name in ("cls", "box", "keypoint") for t in (1, 2, 3)}
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
        assert found.pred_keypoints.shape == (len(found), 294, 3)
        assert (found.pred_keypoints[..., 0] <= given["width"]).all()


def test_garments_without_landmarks():
    losses = make_kgdet()([image_input(64, 64, [[5, 5, 60, 60]], labelled=0)])
    assert losses["loss_keypoint_3"] == 0 and losses["loss_box_3"] > 0


def test_every_parameter_learns():
    model = make_kgdet()
    sum(model([image_input(96, 96, [[5, 5, 60, 90]])]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("depth", "full", "trainable"),
    [
        (50, True, 59_134_423),
        (101, True, 78_126_551),
        (50, False, 59_134_423 - 6_884_352),
    ],
)
def test_trainable_parameters_as_published(depth, full, trainable):
    """The paper's Table 1 counts 59.13 M and 78.13 M, with the parts of the neck that reach no output."""
    cfg = load_config(
        "configs/kgdet_R50.yaml",
        ["MODEL.DEVICE", "meta", "MODEL.FPN.FULL", full, "MODEL.RESNETS.DEPTH", depth],
    )
    with torch.device("meta"):
        model = KGDet(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
