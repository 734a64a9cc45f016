"""RetinaNet on this project's backbone and configs, its labels in regions to ignore, and Detectron2's own."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.helpers.box_detectors import (
    box_inputs,
    check_channels_last_changes_nothing,
    detect,
    train_once,
)
from tests.helpers.images import pair_with_batches
from tests.helpers.regions import half_in, with_regions
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


def test_without_regions_it_is_Detectron2_s():
    inputs = box_inputs([(96, 96, [[5, 5, 60, 90], [30, 10, 90, 40]]), (96, 96, [])])
    ours, theirs = (make_model(CONFIG, *opts) for opts in ([], ["MODEL.META_ARCHITECTURE", "RetinaNet"]))
    assert type(ours) is not type(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    expected = train_once(theirs, inputs)
    assert {name: loss.item() for name, loss in train_once(ours, inputs).items()} == expected
    for found, given in zip(detect(ours, inputs), detect(theirs, inputs), strict=True):
        assert torch.equal(found.scores, given.scores)


def test_anchors_in_regions_to_ignore():
    """Of label -1 where they are background by Detectron2's rules, and of no weight for Detectron2's loss."""
    model = make_model(CONFIG)
    anchors = model.anchor_generator([torch.zeros(1, 1, *size) for size in ((20, 16), (10, 8), (5, 4))])
    boxes, classes = torch.tensor([[5.0, 5, 60, 50], [50, 20, 110, 140]]), torch.tensor([3, 8])
    plain = [
        Instances((160, 128), gt_boxes=Boxes(boxes), gt_classes=classes),
        Instances((160, 128), gt_boxes=Boxes(boxes[:0]), gt_classes=classes[:0]),
    ]
    # On no edge of an anchor, where rounding would decide.
    regions = [[[0.3, 0.3, 71, 61], [61, 41, 125, 151]], [[21.0, 21, 127.3, 159.3]]]
    around = [with_regions(plain[0], regions[0], order=[3, 0, 2, 1]), with_regions(plain[1], regions[1])]
    expected, expected_boxes = model.label_anchors(anchors, plain)
    labels, its_boxes = model.label_anchors(anchors, around)
    places = Boxes.cat(anchors).tensor.tolist()
    kinds = set()
    for image, image_regions in enumerate(regions):
        assert torch.equal(its_boxes[image], expected_boxes[image])
        for place, label, plain_label in zip(
            places, labels[image].tolist(), expected[image].tolist(), strict=True
        ):
            inside = half_in(place, image_regions)
            kinds.add((inside, "positive" if 0 <= plain_label < 13 else plain_label))
            assert label == (-1 if inside and plain_label == 13 else plain_label)
    assert kinds == {(inside, kind) for inside in (True, False) for kind in ("positive", 13, -1)}

    logits = torch.zeros(2, len(places), 13, requires_grad=True)
    per_level = logits.split([len(level) for level in anchors], dim=1)
    deltas = [torch.zeros(2, len(level), 4) for level in anchors]
    with EventStorage():
        model.losses(anchors, per_level, labels, deltas, its_boxes)["loss_cls"].backward()
    assert torch.equal(logits.grad.any(dim=2), torch.stack(labels) >= 0)
