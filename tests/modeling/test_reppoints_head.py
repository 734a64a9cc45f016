import pytest
import torch

from kgdet_d2.modeling.heads.kgdet_head import KGDetHead
from kgdet_d2.modeling.heads.reppoints_head import RepPointsHead

SIZES = [(4, 5), (2, 3), (1, 1)]
COMMON = {
    "in_channels": 32,
    "num_classes": 3,
    "num_keypoints": 4,
    "columns": [9],
    "channels": 32,
    "num_convs": 1,
    "norm": "GN",
    "prior_prob": 0.01,
    "points_gradient": 0.1,
    "moment_gradient": 0.01,
}


def make_head(keypoints, **changes):
    torch.manual_seed(0)
    return RepPointsHead(**(COMMON | {"num_stages": 2, "keypoints": keypoints} | changes))


def spread(head):
    """Points and landmarks some cells off."""
    torch.manual_seed(1)
    for parameter in head.stages.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 1.0)
    return head


@pytest.mark.parametrize("num_stages", [2, 3])
@pytest.mark.parametrize("columns", [[9], [9, 25]], ids=str)
@pytest.mark.parametrize("keypoints", ["none", "parallel", "serial"])
def test_shapes_of_every_stage_and_level(keypoints, columns, num_stages):
    head = make_head(keypoints, columns=columns, num_stages=num_stages)
    stages = head([torch.randn(2, 32, *size) for size in SIZES])
    assert len(stages) == num_stages
    for number, stage in enumerate(stages):
        assert (stage.logits is None) == (number == 0)
        assert (stage.keypoints is None) == (keypoints == "none")
        for level, size in enumerate(SIZES):
            assert stage.points[level].shape == (2, 2 * sum(columns), *size)
            assert stage.boxes[level].shape == (2, 4, *size)
            if stage.logits is not None:
                assert stage.logits[level].shape == (2, 3, *size)
            if stage.keypoints is not None:
                assert stage.keypoints[level].shape == (2, 8, *size)


def test_landmarks_in_parallel_change_neither_points_nor_classes():
    """The branch adds to what RepPoints says, and takes nothing from it but the tower and the points."""
    with_keypoints, without = spread(make_head("parallel")), make_head("none")
    state = {name: value for name, value in with_keypoints.state_dict().items() if ".keypoints." not in name}
    without.load_state_dict(state)
    features = [torch.randn(2, 32, *size) for size in SIZES]
    for one, other in zip(with_keypoints(features), without(features), strict=True):
        for field in ("logits", "points", "boxes"):
            if getattr(one, field) is not None:
                torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=0, atol=0)


def test_serial_landmarks_are_those_of_a_kgdet_without_classes_in_its_first_stage():
    serial = spread(make_head("serial", columns=[9, 25]))
    kgdet = KGDetHead(**(COMMON | {"num_stages": 2, "columns": [9, 25], "aggregation": "encoding"}))
    missing, unexpected = kgdet.load_state_dict(serial.state_dict(), strict=False)
    assert not unexpected and missing and all(name.startswith("stages.0.cls_") for name in missing)
    features = [torch.randn(2, 32, *size) for size in SIZES]
    ours, theirs = serial(features), kgdet(features)
    assert ours[0].logits is None
    for one, other in zip(ours, theirs, strict=True):
        for field in ("points", "keypoints", "boxes"):
            torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=0, atol=0)
    torch.testing.assert_close(ours[1].logits, theirs[1].logits, rtol=0, atol=0)


@pytest.mark.parametrize("keypoints", ["none", "parallel", "serial"])
def test_scores_start_at_the_prior(keypoints):
    stages = make_head(keypoints)([torch.zeros(1, 32, 2, 2)])
    torch.testing.assert_close(stages[1].logits[0].sigmoid(), torch.full((1, 3, 2, 2), 0.01))


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("keypoints", ["none", "parallel", "serial"])
def test_share_of_the_gradient_that_reaches_the_points(keypoints, share):
    features = torch.randn(1, 32, 3, 3)

    def gradient(points_gradient):
        head = spread(make_head(keypoints, points_gradient=points_gradient))
        (parameter,) = [p for name, p in head.named_parameters() if name in FIRST_OFFSETS]
        (found,) = torch.autograd.grad(head([features])[1].logits[0].sum(), parameter)
        assert found.any()
        return found

    torch.testing.assert_close(gradient(share), gradient(1.0) * share)


# Of the first stage, what places the points; with serial landmarks these, of which the points are made.
FIRST_OFFSETS = ("stages.0.points.output.weight", "stages.0.keypoint_offsets.weight")


def test_unknown_keypoints_are_refused():
    with pytest.raises(ValueError, match="keypoints: expected 'none', 'parallel' or 'serial', got 'twice'"):
        make_head("twice")
