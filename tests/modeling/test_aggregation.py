import pytest
import torch

from kgdet_d2.modeling.heads.aggregation import PointAggregation, SamplingLocations
from kgdet_d2.modeling.heads.keypoint_selection import KeypointSelection, select_keypoints
from kgdet_d2.modeling.heads.kgdet_head import KeypointStage
from tests.helpers.images import image_input
from tests.helpers.systems import SELECTION, make_kgdet


def test_aggregation_reads_the_features_where_the_points_lie():
    """With one-hot weights a column copies the feature at its tap's point."""
    aggregation = PointAggregation(1, 1, [9, 25])
    for conv, tap in zip(aggregation.convs, (2, 11), strict=True):
        conv.weight.data.zero_().view(-1)[tap] = 1.0
    features = torch.arange(1.0, 31.0).view(1, 1, 5, 6)
    points = torch.zeros(1, 68, 5, 6)
    points[:, 2 * 2] = 1.0  # column 1, tap 2: one row down
    points[:, 18 + 2 * 11 + 1] = -2.0  # column 2, tap 11: two columns left
    out = aggregation(features, SamplingLocations(points))
    assert out.shape == (1, 2, 5, 6)
    assert torch.equal(out[0, 0, :-1], features[0, 0, 1:])
    assert torch.equal(out[0, 0, -1], torch.zeros(6))
    assert torch.equal(out[0, 1, :, 2:], features[0, 0, :, :-2])


def test_encoding_adds_a_convolution_of_the_residual_to_the_points_before():
    stage = KeypointStage(
        0, channels=2, columns=[9], num_classes=None, num_keypoints=2, aggregation="encoding"
    )
    features, keypoints, points = (torch.randn(1, channels, 2, 3) for channels in (2, 4, 18))
    sampling = SamplingLocations(torch.zeros(1, 18, 2, 3))
    after, encoded, visibility = stage.regress(features, sampling, keypoints, points)
    residual, weight = after - keypoints, stage.encode_points.weight[:, :, 0, 0]
    for y in range(2):
        for x in range(3):
            expected = points[0, :, y, x] + weight @ residual[0, :, y, x] + stage.encode_points.bias
            torch.testing.assert_close(encoded[0, :, y, x], expected)
    assert visibility is None


def test_selection_against_plain_loops():
    torch.manual_seed(0)
    selection = KeypointSelection(channels=8, num_keypoints=7, num_points=3)
    features, keypoints = torch.randn(2, 8, 3, 4), torch.randn(2, 14, 3, 4)
    points, visibility = selection(features, keypoints)
    torch.testing.assert_close(visibility, selection.visibility(features))
    assert points.shape == (2, 6, 3, 4)
    for image in range(2):
        for y in range(3):
            for x in range(4):
                scores = visibility[image, :, y, x].tolist()
                best = sorted(range(7), key=lambda slot: -scores[slot])[:3]
                expected = [keypoints[image, 2 * k + axis, y, x] for k in sorted(best) for axis in range(2)]
                assert points[image, :, y, x].tolist() == expected


def test_taps_keep_their_landmarks_when_the_selected_change_ranks():
    keypoints = torch.randn(1, 10, 1, 1)
    scores = torch.tensor([0.9, -3.0, 0.2, 0.5, -2.0])
    swapped = torch.tensor([0.1, -3.0, 4.0, 0.3, -2.0])
    points = select_keypoints(keypoints, scores.view(1, 5, 1, 1), 3)
    assert torch.equal(points, select_keypoints(keypoints, swapped.view(1, 5, 1, 1), 3))
    assert torch.equal(points, keypoints[:, [0, 1, 4, 5, 6, 7]])


def test_selected_landmarks_alone_get_the_gradient_of_the_points():
    keypoints = torch.randn(1, 10, 1, 1, requires_grad=True)
    scores = torch.tensor([0.9, -3.0, 0.2, 0.5, -2.0]).view(1, 5, 1, 1).requires_grad_()
    select_keypoints(keypoints, scores, 3).sum().backward()
    assert keypoints.grad.flatten().tolist() == [1, 1, 0, 0, 1, 1, 1, 1, 0, 0]
    assert scores.grad is None


@pytest.mark.parametrize(
    "batch",
    [
        [image_input(64, 64, [[5, 5, 60, 60]])],
        [image_input(64, 64, [[5, 5, 60, 60]], labelled=0)],
        [image_input(64, 64), image_input(32, 64)],
        [image_input(32, 32, [[0, 0, 30, 30]]), image_input(32, 32)],
        [image_input(64, 96), image_input(64, 64, [[1, 1, 60, 60], [5, 5, 40, 60]])],
    ],
    ids=["one", "no landmarks", "no garments", "one cell", "half without"],
)
def test_model_with_selection_trains_and_detects(batch):
    model = make_kgdet(*SELECTION, "MODEL.FPN.OUT_FEATURES", "['p5', 'p6', 'p7']")
    losses = model(batch)
    kinds = ("cls", "box", "keypoint", "visibility")
    assert set(losses) == {f"loss_{kind}_{t}" for kind in kinds for t in (1, 2, 3)}
    sum(losses.values()).backward()
    # Data-parallel training waits for the gradient of every parameter, zero or not.
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    model.eval()
    model.postprocessor.score_threshold = 0.0
    with torch.no_grad():
        for output in model(batch):
            found = output["instances"]
            assert found.pred_keypoints.shape == (len(found), 294, 3) and len(found) > 0


@pytest.mark.parametrize("opts", [SELECTION, []], ids=["selection", "encoding"])
def test_without_supervision_of_landmarks_boxes_and_classes_teach_them(opts):
    model = make_kgdet(*opts, "MODEL.KGDET.LOSS.KEYPOINT_WEIGHT", "0.0")
    losses = model([image_input(96, 96, [[5, 5, 60, 90]])])
    assert all(losses[f"loss_keypoint_{t}"] == 0 for t in (1, 2, 3))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(stage.keypoint_offsets.weight.grad.any() for stage in model.head.stages)
