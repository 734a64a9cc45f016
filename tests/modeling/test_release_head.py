"""The head, its losses, gradients, targets and detections against recordings of the released system."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling import postprocessing as inference
from kgdet_d2.modeling.assigners import IGNORED
from kgdet_d2.modeling.losses import KGDetCriterion
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor
from tests.helpers.release_detections import check_detections, inclusive_nms
from tests.helpers.release_heads import FIELDS, HEADS, LOSSES, STAGES, check_gradient, garments, make_head
from tests.helpers.release_recordings import each_source, features, load

each_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """How many threads share a sum decides its rounding, and so a ReLU whose argument is nearly zero."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def run(name):
    """Our head forward and backward on the recording's features, once for all tests."""
    columns, strides, sizes = HEADS[name]
    recording = load(name, "compact")
    cfg, head, theirs = make_head(columns)
    maps = [torch.from_numpy(level).requires_grad_() for level in features(name, recording.facts, sizes)]
    stages = head(maps)
    cells = make_locations(sizes, strides, torch.device("cpu"))
    padded = [tuple(recording[f"pad_shape_{image}"].tolist()) for image in (0, 1)]
    gt = [garments(recording, image) for image in (0, 1)]
    criterion = KGDetCriterion(cfg)
    assert criterion.num_positives == recording.facts["pos_num"]
    losses = criterion(stages, *cells, padded, gt)
    parameters = dict(head.named_parameters())
    gradients = torch.autograd.grad(sum(losses.values()), [*maps, *parameters.values()])
    return SimpleNamespace(
        stages=stages,
        maps=maps,
        losses={key: loss.item() for key, loss in losses.items()},
        targets=criterion.targets(*cells, padded, gt),
        gradients=dict(zip(map(theirs.get, parameters), gradients[len(maps) :], strict=True)),
        map_gradients=gradients[: len(maps)],
        cells=cells,
        postprocessor=KGDetPostprocessor(cfg),
    )


@each_source
@each_head
def test_features_and_outputs_of_every_stage_and_level(name, source):
    ours, recording = run(name), load(name, source)
    for level, feature in enumerate(ours.maps):
        recording.check(f"feat_l{level}", feature.detach(), atol=0)
        for field, attribute in FIELDS.items():
            for stage in STAGES:
                found = getattr(ours.stages[stage - 1], attribute)[level].detach()
                recording.check(f"out_{field}_{stage}_l{level}", found, atol=1e-4)


@each_source
@each_head
def test_every_loss(name, source):
    expected = load(name, source).facts["losses"]  # a number per level
    for field, ours in LOSSES.items():
        for stage in STAGES:
            total = sum(expected[f"loss_{field}_{stage}"])
            assert run(name).losses[f"loss_{ours}_{stage}"] == pytest.approx(total, rel=1e-5), (field, stage)


@each_source
@each_head
def test_gradients_of_every_parameter_and_feature(name, source):
    ours, recording = run(name), load(name, source)
    assert ours.gradients.keys() == recording.facts["grad"].keys()
    for parameter, expected in recording.facts["grad"].items():
        check_gradient(ours.gradients[parameter], expected, parameter)
    for parameter in (key.removeprefix("grad:") for key in recording.names("grad:")):
        scale = recording.facts["grad"][parameter]["absmax"]
        recording.check(f"grad:{parameter}", ours.gradients[parameter], atol=1e-3 * scale)
    for level, gradient in enumerate(ours.map_gradients):
        recording.check(f"grad_feat_l{level}", gradient, atol=1e-6)


@each_source
@each_head
def test_assignment_and_targets(name, source):
    targets, recording = run(name).targets, load(name, source)
    positive = targets.matched_idxs >= 0
    for image in (0, 1):  # -1 ignored, 0 background, garments from 1
        recording.check(f"assign_gt_inds_{image}", targets.matched_idxs[image] + 1, atol=0)
        recording.check(f"assign_valid_{image}", targets.matched_idxs[image] != IGNORED, atol=0)

    def flatten_levels(values):
        dense = values.new_zeros(*positive.shape, *values.shape[1:])
        dense[positive] = values
        return dense

    expected = {
        "labels": flatten_levels(targets.classes + 1),
        "label_weights": (targets.matched_idxs != IGNORED).float(),
        "boxes": flatten_levels(targets.boxes),
        "box_weights": positive[..., None].float().expand(-1, -1, 4),
        "kpts": flatten_levels(targets.keypoints[..., :2]),
        "kpt_weights": flatten_levels((targets.keypoints[..., 2:] > 0).float().expand(-1, -1, 2)),
    }
    for field, found in expected.items():
        recording.check(f"tgt_{field}", found, atol=1e-6)
    assert targets.normalizer == recording.facts["num_total_pos"]


@each_source
@each_head
def test_boxes_and_scores_before_suppression(name, source):
    ours, recording = run(name), load(name, source)
    nothing_goes = KGDetPostprocessor(
        score_threshold=-1, topk_candidates=10**6, nms_threshold=1, max_detections=10**6
    )
    sizes = [tuple(recording[f"img_shape_{image}"].tolist()) for image in (0, 1)]
    with torch.no_grad():
        found = nothing_goes(ours.stages[-1], *ours.cells, sizes)
    logits = torch.cat([level.flatten(2) for level in ours.stages[-1].logits], dim=2).transpose(1, 2)
    for image in (0, 1):
        recording.check(f"raw_scores_{image}", logits[image].detach().sigmoid(), atol=1e-5)
        boxes = recording[f"raw_boxes_{image}"]
        assert len(found[image]) == 13 * len(boxes)
        distance = torch.cdist(torch.from_numpy(boxes), found[image].pred_boxes.tensor, p=torch.inf)
        assert ((distance < 1e-3).sum(dim=1) >= 13).all() and ((distance < 1e-3).any(dim=0)).all()


# Recorded detections: suppression without the release's "+ 1" on the sides of boxes (ours) or with it, and
# in which pixels; changed limits.
DETECTIONS = {
    "det_plainiou_": {},
    "det_": {"inclusive": True},
    "det_rescaled_": {"inclusive": True, "rescaled": True},
    "det_nmspre30_": {"inclusive": True, "topk_candidates": 30},
    "det_max20_": {"inclusive": True, "max_detections": 20},
}


@each_source
@pytest.mark.parametrize("prefix", DETECTIONS)
@each_head
def test_detections(name, prefix, source, monkeypatch):
    """With our suppression the recording without the "+ 1"; with the release's put in its place the others.

    ``rescaled`` divides the boxes by the photo's scale before they are suppressed, which decides otherwise
    only because of the "+ 1".
    """
    ours, recording = run(name), load(name, source)
    limits = dict(DETECTIONS[prefix])
    inclusive, rescaled = limits.pop("inclusive", False), limits.pop("rescaled", False)
    postprocessor = KGDetPostprocessor(**(vars(ours.postprocessor) | limits))
    for image in (0, 1):
        scale = float(recording[f"scale_factor_{image}"]) if rescaled else 1.0
        if inclusive:
            monkeypatch.setattr(
                inference, "batched_nms", lambda boxes, *rest, s=scale: inclusive_nms(boxes / s, *rest)
            )
        size = tuple(recording[f"img_shape_{image}"].tolist())
        stage = ours.stages[-1]
        with torch.no_grad():
            found = postprocessor(stage, *ours.cells, [size] * 2)[image]
        in_order = check_detections(found, recording, prefix, image, scale=scale)
        if prefix == "det_":
            keypoints = in_order.pred_keypoints.clone()
            keypoints[..., 2] = 1  # where the release has a 1, ours have the detection's score
            # At a stride of 128 pixels float32 alone is worth as much as 1e-3 pixels.
            recording.check(f"det_kpts_{image}", keypoints, atol=1e-3, rtol=1e-5)


def test_some_detections_differ_by_the_release_s_inclusive_boxes():
    """Else the recordings with and without the "+ 1" would not tell the two apart."""
    recording = load("head3_p5", "compact")
    counts = [len(recording[f"{prefix}boxes_1"]) for prefix in ("det_", "det_plainiou_")]
    assert counts == [85, 96]
    assert np.isfinite(recording["det_boxes_1"]).all()
