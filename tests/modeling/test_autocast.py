"""Training under autocast, as SOLVER.AMP does on the CPU: places and landmarks are as exact as in float32.

A step of bfloat16 is 1/256 of a number. What is compared here differs by 1/100,000 at most.
"""

import copy

import pytest
import torch
from detectron2.layers import roi_align
from detectron2.structures import PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from kgdet_d2.layers.precision import FullPrecisionConv, keep_full_precision
from kgdet_d2.modeling.heads import aggregation
from kgdet_d2.modeling.heads.keypoint_refiner import RefinementRound
from tests.helpers.images import image_input
from tests.helpers.systems import SELECTION, make_model

PLUS = ["MODEL.WEIGHTS", ""]
# Config and overrides, and the names of the layers that predict places.
SYSTEMS = {
    "kgdet": ("kgdet_tiny", [], {"keypoint_offsets", "encode_points"}),
    "kgdet, selection": ("kgdet_tiny", SELECTION, {"keypoint_offsets"}),
    "plus": ("kgdet_plus_tiny", PLUS, {"keypoint_offsets", "encode_points"}),
    "reppoints_kp": ("reppoints_kp_tiny", [], {"output"}),
    "retinanet": ("retinanet_tiny", [], {"bbox_pred"}),
    "fcos": ("fcos_tiny", [], {"bbox_pred"}),
    "match_rcnn": ("match_rcnn_tiny", [], {"anchor_deltas", "bbox_pred", "score_lowres"}),
}


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def train(model):
    """Compute losses and gradients of a batch under autocast."""
    torch.manual_seed(0)
    inputs = [image_input(96, 96, [[5, 5, 60, 90], [30.3, 10.1, 90.7, 40.9]]), image_input(96, 64)]
    corners = inputs[0]["instances"].gt_boxes.tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]].numpy()
    inputs[0]["instances"].gt_masks = PolygonMasks([[corner] for corner in corners])
    with EventStorage(), autocast():
        losses = model.train()(inputs)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(loss.isfinite() for loss in losses.values())


def record(modules):
    """Return the list of the calls of some modules: the module, its arguments and what it gives."""
    calls = []
    for module in modules:
        module.register_forward_hook(lambda *call: calls.append(call))
    return calls


def assert_as_exact(found, expected):
    """Compare float32 with float64."""
    assert found.dtype == torch.float32 and expected.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-5 * max(expected.abs().max(), 1)


@pytest.mark.parametrize(("config", "opts", "names"), SYSTEMS.values(), ids=SYSTEMS)
def test_layers_that_predict_places(config, opts, names):
    model = make_model(config, *opts)
    layers = [part for name, part in model.named_modules() if name.split(".")[-1] in names]
    calls = record(layers)
    features = record(part for part in model.backbone.modules() if isinstance(part, nn.Conv2d))
    train(model)
    assert torch.bfloat16 in {output.dtype for _, _, output in features}
    calls = [call for call in calls if len(call[1][0])]
    assert {module for module, _, _ in calls} == set(layers)
    for module, (given,), output in calls:
        outputs = output if isinstance(output, tuple) else (output,)
        for found in outputs:
            expected = copy.deepcopy(module).double()(given.detach().double())
            assert_as_exact(found.detach(), expected.detach())


@pytest.mark.parametrize("system", ["kgdet", "reppoints_kp"])
def test_landmarks_and_sampling_positions_are_sums_in_float32(system, monkeypatch):
    """Of the residuals of the stages; a stage samples where the one before it has put its points."""
    config, opts, _ = SYSTEMS[system]
    model, sampled = make_model(config, *opts), []
    for stage in model.head.stages:  # some locations far
        for name, layer in stage.named_modules():
            if name in ("keypoint_offsets", "keypoints.output", "points.output"):
                nn.init.normal_(layer.weight, std=0.5)
                nn.init.uniform_(layer.bias, -9, 9)
    keypoint_layers = [
        getattr(stage, "keypoint_offsets", None) or stage.keypoints.output for stage in model.head.stages
    ]
    residuals = record(keypoint_layers)
    neighbors = aggregation.BilinearNeighbors
    monkeypatch.setattr(
        aggregation, "BilinearNeighbors", lambda *given: sampled.append(given) or neighbors(*given)
    )
    with autocast():
        outputs = model.head([torch.randn(2, model.head.cls_tower[0].in_channels, 6, 4).bfloat16()])
    assert [call[0] for call in residuals] == keypoint_layers
    total = torch.zeros(2, 2 * 294, 6, 4, dtype=torch.float64)
    for stage, (_, _, residual) in zip(outputs, residuals, strict=True):
        total = total + residual.double()
        assert_as_exact(stage.keypoints[0].detach(), total.detach())
        assert total.abs().max() > 8
    assert len(sampled) == len(outputs) - 1
    for before, (x, y, *_) in zip(outputs, sampled, strict=False):
        points = before.points[0].detach().double()
        assert_as_exact(x.detach(), points[:, 1::2] + torch.arange(4))
        assert_as_exact(y.detach(), points[:, 0::2] + torch.arange(6)[:, None])


def test_rounds_of_the_refiner():
    """Each finds under autocast what it finds without it in the same maps, bit for bit."""
    model = make_model("kgdet_plus_tiny", *PLUS)
    calls = record(part for part in model.modules() if isinstance(part, RefinementRound))
    train(model)
    assert len(calls) == len(model.refiner.rounds)
    for module, given, (_, outcome) in calls:
        assert given[3].features.dtype == given[3].heat.dtype == torch.bfloat16
        _, again = module(*given)
        for found, expected in zip(outcome, again, strict=True):
            assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("training", [True, False])
def test_boxes_of_FCOS(training):
    """Detectron2 decodes them in the precision of the layer that predicts them."""
    model, decoded = make_model("fcos_tiny"), []
    decode = model.box2box_transform.apply_deltas
    model.box2box_transform.apply_deltas = lambda *given: (
        decoded.append((*given, decode(*given))) or decoded[-1][-1]
    )
    model.test_score_thresh = 0.0
    if training:
        train(model)
    else:
        with autocast(), torch.no_grad():
            (output,) = model.eval()([image_input(96, 96)])
        assert output["instances"].pred_boxes.tensor.dtype == torch.float32
    assert decoded
    for deltas, anchors, boxes in decoded:
        assert_as_exact(boxes.detach(), decode(deltas.detach().double(), anchors.double()))
    assert any((boxes != boxes.bfloat16()).any() for *_, boxes in decoded)


def test_pooled_boxes(monkeypatch):
    """Detectron2 rounds them to the precision of the maps: 4 pixels from 512 on."""
    model, pooled, given = make_model("match_rcnn_tiny"), [], []
    pool = roi_align.roi_align
    monkeypatch.setattr(
        roi_align,
        "roi_align",
        lambda maps, boxes, *others: pooled.append(boxes) or pool(maps, boxes, *others),
    )
    heads = model.roi_heads
    for pooler in (heads.box_pooler, heads.mask_pooler, heads.keypoint_pooler):
        pooler.register_forward_pre_hook(lambda _, arguments: given.extend(arguments[1]))
    train(model)
    rows = torch.cat([boxes[:, 1:] for boxes in pooled])
    expected = torch.cat([boxes.tensor for boxes in given])
    assert rows.dtype == torch.float32 and (rows != rows.bfloat16()).any()
    assert sorted(rows.tolist()) == sorted(expected.tolist())


def test_a_layer_that_is_kept_exact_is_the_same_layer():
    conv = nn.Conv2d(3, 4, 1)
    parameters, image = dict(conv.named_parameters()), torch.randn(2, 3, 5, 5)
    expected = conv(image)
    keep_full_precision(conv)
    assert type(conv) is FullPrecisionConv and torch.equal(conv(image), expected)
    assert conv.state_dict().keys() == nn.Conv2d(3, 4, 1).state_dict().keys()
    assert all(conv.get_parameter(name) is value for name, value in parameters.items())
    assert conv(image.double().float()).dtype == torch.float32
