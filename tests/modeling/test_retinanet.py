"""Detectron2's RetinaNet on this project's backbone and configs."""

import pytest

from tests.helpers.box_detectors import (
    box_inputs,
    check_channels_last_changes_nothing,
    detect,
    train_once,
)
from tests.helpers.images import pair_with_batches
from tests.helpers.systems import make_model

CONFIG = "retinanet_tiny"
GROUP_NORM = ["MODEL.FPN.NORM", "GN", "MODEL.RETINANET.NORM", ""]  # BatchNorm cannot train on one cell
ALL_LEVELS = ["p3", "p4", "p5", "p6", "p7"]
ALL = ["MODEL.FPN.OUT_FEATURES", str(ALL_LEVELS), "MODEL.RETINANET.IN_FEATURES", str(ALL_LEVELS)]
ALL += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]"]
LEVELS = {"p3-p5": [], "p3-p7": ALL}


@pytest.mark.parametrize(("levels", "batch"), pair_with_batches(LEVELS))
def test_trains_and_detects(levels, batch):
    model = make_model(CONFIG, *GROUP_NORM, *LEVELS[levels])
    inputs = box_inputs(batch)
    losses = train_once(model, inputs)
    assert set(losses) == {"loss_cls", "loss_box_reg"} and losses["loss_cls"] > 0
    garments = sum(len(image["instances"]) for image in inputs)
    assert (losses["loss_box_reg"] > 0) == (garments > 0)
    detect(model, inputs)


def test_every_parameter_learns():
    model = make_model(CONFIG)
    train_once(model, box_inputs([(96, 96, [[5, 5, 60, 90]]), (96, 96, [])]))
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_channels_last_changes_nothing():
    check_channels_last_changes_nothing(make_model(CONFIG))
