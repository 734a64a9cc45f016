"""Detectron2's RetinaNet on this project's backbone and configs."""

import pytest

from tests.helpers.box_detectors import (
    check_channels_last_changes_nothing,
    detect,
    make_model,
    photos,
    train_once,
)
from tests.modeling.test_kgdet import BATCHES

CONFIG = "configs/sample/retinanet_tiny.yaml"
GROUP_NORM = ["MODEL.FPN.NORM", "GN", "MODEL.RETINANET.NORM", ""]  # BatchNorm cannot train on one cell
ALL_LEVELS = ["p3", "p4", "p5", "p6", "p7"]
ALL = ["MODEL.FPN.OUT_FEATURES", str(ALL_LEVELS), "MODEL.RETINANET.IN_FEATURES", str(ALL_LEVELS)]
ALL += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]"]


@pytest.mark.parametrize("levels", [[], ALL], ids=["p3-p5", "p3-p7"])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_trains_and_detects(batch, levels):
    model = make_model(CONFIG, *GROUP_NORM, *levels)
    inputs = photos(batch)
    losses = train_once(model, inputs)
    assert set(losses) == {"loss_cls", "loss_box_reg"} and losses["loss_cls"] > 0
    garments = sum(len(each["instances"]) for each in inputs)
    assert (losses["loss_box_reg"] > 0) == (garments > 0)
    detect(model, inputs)


def test_every_parameter_learns():
    model = make_model(CONFIG)
    train_once(model, photos([(96, 96, [[5, 5, 60, 90]]), (96, 96, [])]))
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_channels_last_changes_nothing():
    check_channels_last_changes_nothing(make_model(CONFIG))
