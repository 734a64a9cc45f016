"""FCOS end to end, its labels against plain loops, and its keys."""

import importlib.util
import inspect
import math

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from kgdet_d2.modeling.meta_arch import FCOS
from tests.helpers.box_detectors import (
    box_inputs,
    check_channels_last_changes_nothing,
    detect,
    train_once,
)
from tests.helpers.images import pair_with_batches
from tests.helpers.regions import lies_in, with_regions
from tests.helpers.systems import make_model

CONFIG = "fcos_tiny"
GROUP_NORM = ["MODEL.FPN.NORM", "GN", "MODEL.FCOS.NORM", "GN"]  # BatchNorm cannot train on one cell
ALL = ["MODEL.FPN.OUT_FEATURES", str(["p3", "p4", "p5", "p6", "p7"]), "MODEL.FPN.EXTRAS_FROM", "p5"]
LEVELS = {"p3-p5": [], "p3-p7": ALL}
STRIDES = [8, 16, 32]


@pytest.mark.parametrize(("levels", "batch"), pair_with_batches(LEVELS))
def test_trains_and_detects(levels, batch):
    model = make_model(CONFIG, *GROUP_NORM, *LEVELS[levels])
    inputs = box_inputs(batch)
    losses = train_once(model, inputs)
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"} and losses["loss_fcos_cls"] > 0
    if not any(len(image["instances"]) for image in inputs):
        assert losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0
    detect(model, inputs)


def test_a_photo_without_garments_adds_no_more_than_background():
    """Boxes and centerness of a batch are those of its photos with garments."""
    model = make_model(CONFIG, *GROUP_NORM)
    model.backbone.eval()  # where BatchNorm would mix the photos
    inputs = box_inputs([(64, 64, [[5, 5, 60, 60]]), (64, 64, [])])
    both = train_once(model, inputs)
    model.loss_normalizer = 300.0  # where Detectron2 starts its running mean
    alone = train_once(model, inputs[:1])
    for name in ("loss_fcos_loc", "loss_fcos_ctr"):
        torch.testing.assert_close(both[name], alone[name])
        assert alone[name] > 0
    assert both["loss_fcos_cls"] > alone["loss_fcos_cls"]


def test_every_parameter_learns():
    model = make_model(CONFIG)
    train_once(model, box_inputs([(96, 96, [[5, 5, 60, 90]]), (96, 96, [])]))
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_channels_last_changes_nothing():
    check_channels_last_changes_nothing(make_model(CONFIG))


def labels_by_loops(sizes, boxes, classes, radius):
    """Tian et al., section 3.2, and centre sampling: of each cell a class, or 13, and its box, or None.

    A cell at x, y is inside a box when all of l, t, r, b are above 0; the greatest of them tells the level
    (0 to 64 pixels at stride 8, to 128 at 16, more at 32); of several boxes the smallest has it.
    """
    found = []
    for stride, (height, width) in zip(STRIDES, sizes, strict=True):
        low, high = {8: (0, 64), 16: (64, 128), 32: (128, math.inf)}[stride]
        for row in range(height):
            for column in range(width):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                candidates = []
                for (x1, y1, x2, y2), label in zip(boxes, classes, strict=True):
                    sides = (x - x1, y - y1, x2 - x, y2 - y)
                    off = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                    if min(sides) > 0 and low < max(sides) < high and off < radius * stride:
                        candidates.append(((x2 - x1) * (y2 - y1), label, [x1, y1, x2, y2]))
                found.append(min(candidates)[1:] if candidates else (13, None))
    return found


@pytest.mark.parametrize("radius", [1.5, 2.5])
def test_labels_against_plain_loops(radius):
    model = make_model(CONFIG, "MODEL.FCOS.CENTER_SAMPLING_RADIUS", radius)
    sizes = [(20, 16), (10, 8), (5, 4)]
    anchors = model.anchor_generator([torch.zeros(1, 1, *size) for size in sizes])
    generator = torch.Generator().manual_seed(0)
    given = []
    for number in (0, 6, 1):
        corners = torch.rand(number, 2, generator=generator) * 60
        boxes = torch.cat([corners, corners + 20 + torch.rand(number, 2, generator=generator) * 80], dim=1)
        classes = torch.randint(13, (number,), generator=generator)
        given.append(Instances((160, 128), gt_boxes=Boxes(boxes), gt_classes=classes))
    labels, matched = model.label_anchors(anchors, given)
    positives = 0
    for instances, ours, its_boxes in zip(given, labels, matched, strict=True):
        boxes = getattr(its_boxes, "tensor", its_boxes).tolist()
        expected = labels_by_loops(
            sizes, instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist(), radius
        )
        assert ours.tolist() == [label for label, _ in expected]
        for (_, box), found in zip(expected, boxes, strict=True):
            if box is not None:
                assert found == box
                positives += 1
        assert len(instances) or (ours == 13).all()
    assert positives > 20


SIZES = [(20, 16), (10, 8), (5, 4)]  # at STRIDES, of an image of 160 x 128


def losses_and_gradients(model, annotations):
    """Losses of two images with random predictions, and the gradients of the logits (N, L, C)."""
    generator = torch.Generator().manual_seed(0)
    predictions = [
        [torch.randn(2, channels, *size, generator=generator).requires_grad_() for size in SIZES]
        for channels in (13, 4, 1)
    ]
    model.loss_normalizer = 300.0  # where Detectron2 starts its running mean
    with EventStorage():
        losses = model.forward_training(None, predictions[0], predictions, annotations)
    gradients = torch.autograd.grad(sum(losses.values()), predictions[0])
    return losses, torch.cat([gradient.flatten(2).mT for gradient in gradients], dim=1)


def test_no_class_is_learnt_in_regions_to_ignore():
    model = make_model(CONFIG)
    boxes, classes = [[5.0, 5, 60, 50], [50, 20, 110, 140]], torch.tensor([3, 8])
    garments = Instances((160, 128), gt_boxes=Boxes(torch.tensor(boxes)), gt_classes=classes)
    regions = [[[0, 0, 30, 60], [60, 40, 78, 150]], [[20, 20, 128, 160]]]
    around = [
        with_regions(garments, regions[0], order=[2, 1, 3, 0]),
        with_regions(garments[:0], regions[1]),
    ]
    expected, expected_gradients = losses_and_gradients(model, [garments, garments[:0]])
    losses, gradients = losses_and_gradients(model, around)
    for name in ("loss_fcos_loc", "loss_fcos_ctr"):
        assert torch.equal(losses[name], expected[name]) and losses[name] > 0
    assert losses["loss_fcos_cls"] < expected["loss_fcos_cls"]

    labels = [labels_by_loops(SIZES, boxes, classes.tolist(), 1.5), labels_by_loops(SIZES, [], [], 1.5)]
    centres = [
        ((column + 0.5) * stride, (row + 0.5) * stride)
        for stride, (height, width) in zip(STRIDES, SIZES, strict=True)
        for row in range(height)
        for column in range(width)
    ]
    kinds = set()
    for image in range(2):
        for index, (centre, (label, _)) in enumerate(zip(centres, labels[image], strict=True)):
            inside = lies_in(centre, regions[image])
            kinds.add((inside, label < 13))
            if inside and label == 13:
                assert not gradients[image, index].any()
            else:
                assert torch.equal(gradients[image, index], expected_gradients[image, index])
    assert len(kinds) == 4


def test_keys_reach_the_model():
    keys = {
        "CENTER_SAMPLING_RADIUS": ("center_sampling_radius", 2.0),
        "FOCAL_LOSS_ALPHA": ("focal_loss_alpha", 0.3),
        "FOCAL_LOSS_GAMMA": ("focal_loss_gamma", 1.5),
        "SCORE_THRESH_TEST": ("test_score_thresh", 0.3),
        "TOPK_CANDIDATES_TEST": ("test_topk_candidates", 10),
        "NMS_THRESH_TEST": ("test_nms_thresh", 0.4),
    }
    opts = []
    for key, (_, value) in keys.items():
        opts += [f"MODEL.FCOS.{key}", value]
    opts += ["MODEL.KGDET.SCHEMA", "fld", "MODEL.FCOS.NUM_CONVS", 2, "MODEL.FCOS.PRIOR_PROB", 0.2]
    model = make_model(CONFIG, *opts)
    for attribute, value in keys.values():
        assert getattr(model, attribute) == value
    assert model.num_classes == model.head.cls_score.out_channels == 3
    assert len(model.head.cls_subnet) == len(model.head.bbox_subnet) == 2 * 3
    torch.testing.assert_close(model.head.cls_score.bias.sigmoid(), torch.full((3,), 0.2))


@pytest.mark.parametrize(
    ("norm", "kind"), [("GN", torch.nn.GroupNorm), ("", torch.nn.ReLU), ("BN", torch.nn.ModuleList)]
)
def test_norm_of_the_towers(norm, kind):
    head = make_model(CONFIG, "MODEL.FCOS.NORM", norm).head
    assert isinstance(head.cls_subnet[1], kind) and isinstance(head.bbox_subnet[1], kind)
    if norm == "GN":
        assert (head.cls_subnet[1].num_groups, head.cls_subnet[1].num_channels) == (32, 64)


def test_the_name_is_left_to_one_that_is_registered_already():
    assert META_ARCH_REGISTRY.get("FCOS") is FCOS
    spec = importlib.util.spec_from_file_location("again", inspect.getfile(FCOS))
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.FCOS is not FCOS and META_ARCH_REGISTRY.get("FCOS") is FCOS
