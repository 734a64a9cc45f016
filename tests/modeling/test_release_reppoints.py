"""RepPoints-Kp's head, its losses, gradients and detections against a recording of the released system."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kgdet_d2.geometry.points import make_locations, offsets_to_points
from kgdet_d2.modeling import postprocessing as inference
from kgdet_d2.modeling.losses import RepPointsCriterion, flatten_levels
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor
from tests.helpers.release_detections import check_detections, inclusive_nms
from tests.helpers.release_heads import check_gradient, garments, make_reppoints_kp_head
from tests.helpers.release_recordings import each_source, features, load

NAME = "repkp_parallel"
STRIDES, SIZES = [32, 64, 128], [(8, 10), (4, 5), (2, 3)]
SCALE = 0.39  # the network's pixels to the photo's, in which detections are recorded
OUTPUTS = {
    "cls": (1, "logits"),
    "rep_init": (0, "points"),
    "rep_refine": (1, "points"),
    "kpt_init": (0, "keypoints"),
    "kpt_refine": (1, "keypoints"),
}
LOSSES = {
    "loss_cls": "loss_cls_2",
    "loss_bbox_init": "loss_box_1",
    "loss_bbox_refine": "loss_box_2",
    "loss_kpt_init": "loss_keypoint_1",
    "loss_kpt_refine": "loss_keypoint_2",
}


@functools.cache
def run():
    """Our head forward and backward on the recording's features, once for all tests."""
    recording = load(NAME, "compact")
    cfg, head, theirs = make_reppoints_kp_head()
    maps = [torch.from_numpy(level) for level in features("repkp", {}, SIZES, num_images=1)]
    stages = head(maps)
    cells = make_locations(SIZES, STRIDES, torch.device("cpu"))
    gt, padded = [garments(recording, None)], [tuple(recording["pad_shape"].tolist())]
    losses = RepPointsCriterion(cfg)(stages, *cells, padded, gt)
    parameters = dict(head.named_parameters())
    gradients = torch.autograd.grad(sum(losses.values()), parameters.values())
    return SimpleNamespace(
        maps=maps,
        stages=stages,
        cells=cells,
        losses={name: loss.item() for name, loss in losses.items()},
        gradients=dict(zip(map(theirs.get, parameters), gradients, strict=True)),
        postprocessor=KGDetPostprocessor(cfg),
        size=tuple(recording["img_shape"].tolist()),
    )


@each_source
def test_features_and_outputs_of_both_stages(source):
    ours, recording = run(), load(NAME, source)
    assert ours.stages[0].logits is None
    for level in range(len(SIZES)):
        recording.check(f"feat_l{level}", ours.maps[level], atol=0)
        for field, (stage, attribute) in OUTPUTS.items():
            found = getattr(ours.stages[stage], attribute)[level].detach()
            recording.check(f"out_{field}_l{level}", found, atol=1e-4)


@each_source
def test_every_loss(source):
    expected = load(NAME, source).facts["losses"]  # a number per level
    assert {
        LOSSES[name]: pytest.approx(sum(each), rel=1e-5) for name, each in expected.items()
    } == run().losses


@each_source
def test_gradients_of_every_parameter(source):
    expected = load(NAME, source).facts["grad"]
    assert run().gradients.keys() == expected.keys()
    for name, gradient in run().gradients.items():
        check_gradient(gradient, expected[name], name)


def detect(monkeypatch):
    """Our detections, suppressed as the release does it: in the photo's pixels, with "+ 1" on the sides."""
    monkeypatch.setattr(inference, "batched_nms", lambda boxes, *rest: inclusive_nms(boxes / SCALE, *rest))
    with torch.no_grad():
        (found,) = run().postprocessor(run().stages[-1], *run().cells, [run().size])
    return found


@each_source
def test_boxes_and_scores_of_detections(source, monkeypatch):
    assert len(check_detections(detect(monkeypatch), load(NAME, source), "det_", 0, scale=SCALE)) == 100


def release_clamp(points, size):
    """The release's clamp of landmarks (n, K, 2) to the image.

    It takes the landmarks for coordinates x, y and a third number in turn: of landmark 0, 3, 6.. both
    coordinates are limited by the width, of 1, 4, 7.. both by the height, and 2, 5, 8.. stay as they are.
    """
    height, width = size
    clamped = points.copy()
    clamped[:, 0::3] = points[:, 0::3].clip(0, width)
    clamped[:, 1::3] = points[:, 1::3].clip(0, height)
    return clamped


@each_source
def test_landmarks_of_detections_but_for_the_release_s_clamp(source, monkeypatch):
    """Ours, with the release's clamp in place of ours, are the recorded ones."""
    recording, (height, width) = load(NAME, source), run().size
    in_order = check_detections(detect(monkeypatch), recording, "det_", 0, scale=SCALE)
    cells, strides = run().cells
    offsets = flatten_levels(run().stages[-1].keypoints)[0].detach()
    everywhere = offsets_to_points(offsets, cells, strides).numpy()  # (L, K, 2), not clamped
    logits = flatten_levels(run().stages[-1].logits)[0].detach()
    scores = logits.sigmoid()[:, in_order.pred_classes].T  # (n, L)
    cell = (scores - in_order.scores[:, None]).abs().argmin(dim=1)
    points = everywhere[cell]
    theirs, ours = release_clamp(points, (height, width)), in_order.pred_keypoints.numpy()
    np.testing.assert_array_equal(ours[..., :2], points.clip(0, [width, height]))
    assert 0.1 < (ours[..., :2] != theirs).any(axis=2).mean() < 0.5  # the clamp matters
    # Where ours have the detection's score the release has a 1.
    in_photo = np.concatenate([theirs / SCALE, np.ones((*theirs.shape[:2], 1))], axis=2)
    recording.check("det_kpts_0", in_photo.reshape(len(theirs), -1), atol=3e-3)
