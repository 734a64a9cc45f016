"""Moments, assignment, losses and suppression by themselves against recordings of the released system."""

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms

from kgdet_d2.config import load_config
from kgdet_d2.geometry.points import moment_box, scale_gradient, split_points
from kgdet_d2.modeling import postprocessing as inference
from kgdet_d2.modeling.assigners import assign_by_center
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.losses import KGDetCriterion, Targets
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor
from tests.helpers.release_detections import check_detections, inclusive_nms
from tests.helpers.release_recordings import each_source, load


@pytest.fixture(scope="module")
def criterion():
    return KGDetCriterion(load_config("configs/kgdet_R50.yaml", []))


@each_source
@pytest.mark.parametrize("form", ["map", "flat"])
def test_moment_transform(form, source):
    """Points to boxes, with the gradient of the points and a hundredth of the multipliers' gradient.

    The maps have y first, the flat lists x.
    """
    recording = load("moment", source)
    points = torch.from_numpy(recording[f"pts_{form}"]).requires_grad_()
    log_scale = torch.from_numpy(recording["lambda"]).requires_grad_()
    x, y = split_points(points, dim=1)
    if form == "flat":
        x, y = y, x
    boxes = moment_box(x, y, scale_gradient(log_scale, 0.01), dim=1)
    recording.check(f"moment_{form}_box", boxes.detach(), atol=1e-5)
    (boxes * torch.from_numpy(recording[f"{form}_w"])).sum().backward()
    recording.check(f"moment_{form}_grad_pts", points.grad, atol=1e-6)
    recording.check(f"moment_{form}_grad_lambda", log_scale.grad, atol=0, rtol=1e-4)


@each_source
def test_moment_transform_of_points_that_coincide(source):
    """No gradient by way of the box's size: each point's is the same, 2 and 5 being those of the centre."""
    recording = load("moment", source)
    points = torch.ones(1, 166, 1, 1, requires_grad=True)
    y, x = points[:, 0::2], points[:, 1::2]
    boxes = moment_box(x, y, torch.from_numpy(recording["lambda"]), dim=1)
    recording.check("degenerate_box", boxes.detach(), atol=0)
    (boxes.flatten() * torch.tensor([2.0, 1.0, 3.0, 1.0])).sum().backward()
    recording.check("degenerate_grad", points.grad, atol=1e-7)


@each_source
def test_assignment(source):
    """All layouts of levels. Left out are cases in which equal distances decide, see the recording."""
    recording = load("assigner", source)
    exact = [case for case in recording.facts["items"] if case["exact"]]
    assert len(exact) == 21 and {case["points"] for case in exact} == {"a", "b", "c"}
    for case in exact:
        number = f"{case['case']:02d}"
        cells = torch.from_numpy(recording[f"points_{case['points']}"])  # x, y, stride
        valid = torch.ones(len(cells), dtype=torch.bool)
        boxes = torch.from_numpy(recording[f"boxes_{number}"])
        matched = assign_by_center(boxes, cells[:, :2], cells[:, 2], valid, case["pos_num"]).numpy()
        recording.check(f"gt_inds_{number}", matched + 1, atol=0)
        labels = recording[f"labels_{number}"]
        recording.check(f"assigned_labels_{number}", np.where(matched < 0, 0, labels[matched]), atol=0)


@each_source
@pytest.mark.parametrize(
    "case", [16, 17, 19, 23, 24, 26, 27], ids="tiny huge edges cell four twenty-five mirrored".split()
)
def test_assignment_where_equal_distances_decide(case, source):
    """As many cells for each garment, at the same distances; which of those equally far is left open."""
    recording = load("assigner", source)
    (facts,) = (item for item in recording.facts["items"] if item["case"] == case)
    assert not facts["exact"]
    cells = torch.from_numpy(recording[f"points_{facts['points']}"])
    valid = torch.ones(len(cells), dtype=torch.bool)
    boxes = torch.from_numpy(recording[f"boxes_{case:02d}"])
    ours = assign_by_center(boxes, cells[:, :2], cells[:, 2], valid, facts["pos_num"]) + 1
    theirs = torch.from_numpy(recording[f"gt_inds_{case:02d}"])
    assert (ours > 0).sum() == facts["n_pos"]
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    for garment, (box, size) in enumerate(zip(boxes, sizes, strict=True), start=1):
        distance = ((cells[:, :2] - (box[:2] + box[2:]) / 2) / size).norm(dim=1)
        found, expected = (distance[matched == garment].sort().values for matched in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@each_source
def test_focal_loss(source, criterion):
    """Cells of weight 0 are ignored ones; those labelled 0 are background. Both losses are sums over 22."""
    recording = load("losses", source)
    logits = torch.from_numpy(recording["focal_x"]).requires_grad_()
    labels = torch.from_numpy(recording["focal_t"])
    matched = torch.where(labels > 0, 0, -1)
    matched[torch.from_numpy(recording["focal_w"]) == 0] = -2
    classes = labels[matched >= 0] - 1
    targets = Targets(matched[None], classes, torch.zeros(0), torch.zeros(0), 1)
    loss = criterion._cls_loss(logits[None], targets) / 22
    loss.backward()
    assert loss.item() == pytest.approx(recording["focal_loss"].item(), rel=1e-5)
    recording.check("focal_grad", logits.grad, atol=1e-6)


@each_source
def test_smooth_l1(source, criterion):
    recording = load("losses", source)
    prediction = torch.from_numpy(recording["sl1_p"]).requires_grad_()
    target, weight = (torch.from_numpy(recording[f"sl1_{name}"]) for name in "tw")
    elements = criterion._smooth_l1(prediction, target, torch.ones(1))
    loss = (elements * weight).sum() / 22
    loss.backward()
    assert loss.item() == pytest.approx(recording["sl1_loss"].item(), rel=1e-5)
    recording.check("sl1_grad", prediction.grad, atol=1e-6)


@each_source
@pytest.mark.parametrize("number", range(4))
def test_suppression(number, source):
    """Detectron2's, which we use, keeps what the release's keeps without the "+ 1" on the boxes' sides."""
    recording = load("nms", source)
    rows = torch.from_numpy(recording[f"dets_{number}"])
    arguments = (rows[:, :4], rows[:, 4], torch.zeros(len(rows), dtype=torch.int64), 0.5)
    for name, suppress in (("plain", batched_nms), ("legacy", inclusive_nms)):
        kept = suppress(*arguments).sort().values
        recording.check(f"keep_{name}_{number}", kept, atol=0)


@each_source
@pytest.mark.parametrize("limit", [100, 1000])
def test_suppression_in_every_class_with_landmarks(limit, source, monkeypatch):
    """The boxes as cells of stride 1 at the origin; the recording is with the release's "+ 1"."""
    monkeypatch.setattr(inference, "batched_nms", inclusive_nms)
    recording = load("nms", source)
    boxes, scores, points = (
        torch.from_numpy(recording[f"mc_{name}"]).double() for name in ("boxes", "scores", "kpts")
    )
    yx = points.view(-1, 3, 3)[..., [1, 0]].flatten(1)
    maps = [[values.T[None, :, :, None]] for values in (scores[:, 1:].logit(), yx, yx, boxes)]
    postprocessor = KGDetPostprocessor(
        score_threshold=0.05, topk_candidates=1000, nms_threshold=0.5, max_detections=limit
    )
    cells, size = torch.zeros(len(boxes), 2).double(), (10**6, 10**6)
    (found,) = postprocessor(StageOutput(*maps), cells, torch.ones(len(boxes)).double(), [size])
    keypoints = check_detections(found, recording, "mc_out_", limit).pred_keypoints
    expected = recording[f"mc_out_kpts_{limit}"].reshape(-1, 3, 3)
    np.testing.assert_allclose(keypoints[..., :2], expected[..., :2], rtol=0, atol=1e-6)
