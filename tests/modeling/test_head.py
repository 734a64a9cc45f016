import pytest
import torch

from kgdet_d2.modeling.aggregation import select_keypoints
from kgdet_d2.modeling.head import KGDetHead


def make_head(**changes):
    torch.manual_seed(0)
    arguments = {
        "in_channels": 32,
        "num_classes": 3,
        "num_keypoints": 4,
        "num_stages": 3,
        "aggregation": "encoding",
        "columns": [9, 25],
        "channels": 32,
        "num_convs": 1,
        "norm": "GN",
        "prior_prob": 0.01,
        "points_gradient": 0.1,
        "moment_gradient": 0.01,
    }
    return KGDetHead(**(arguments | changes))


SELECTION = {"aggregation": "selection", "columns": [9], "num_keypoints": 12}


@pytest.mark.parametrize(("columns", "num_stages"), [([9], 2), ([9, 25, 49], 3), ([25], 1), ([9, 9], 2)])
def test_shapes_of_every_stage_and_level(columns, num_stages):
    head = make_head(columns=columns, num_stages=num_stages)
    sizes = [(4, 5), (2, 3), (1, 1)]
    stages = head([torch.randn(2, 32, *size) for size in sizes])
    assert len(stages) == num_stages
    for stage in stages:
        for level, size in enumerate(sizes):
            assert stage.logits[level].shape == (2, 3, *size)
            assert stage.keypoints[level].shape == (2, 8, *size)
            assert stage.points[level].shape == (2, 2 * sum(columns), *size)
            assert stage.boxes[level].shape == (2, 4, *size)
        assert stage.visibility is None


def test_selection_tells_visibility_and_takes_the_stage_s_own_landmarks():
    head = make_head(**SELECTION)
    sizes = [(4, 5), (1, 1)]
    stages = head([torch.randn(2, 32, *size) for size in sizes])
    assert len(stages) == 3
    for stage in stages:
        for level, size in enumerate(sizes):
            assert stage.visibility[level].shape == (2, 12, *size)
            assert stage.points[level].shape == (2, 18, *size)
            expected = select_keypoints(stage.keypoints[level], stage.visibility[level], 9)
            assert torch.equal(stage.points[level], expected)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match=r"aggregation: expected one of .*encoding.*, got 'sum'"):
        make_head(aggregation="sum")


def test_scores_start_at_the_prior():
    (stage,) = make_head(num_stages=1, **SELECTION)([torch.zeros(1, 32, 2, 2)])
    for level in (*stage.logits, *stage.visibility):
        torch.testing.assert_close(level.sigmoid(), torch.full_like(level, 0.01))


@pytest.mark.parametrize("changes", [{}, SELECTION], ids=["encoding", "selection"])
def test_boxes_are_the_moments_of_the_points(changes):
    head = make_head(**changes)
    head.moment_scale.data.copy_(torch.tensor([0.3, -0.2]))
    for stage in head([torch.randn(1, 32, 3, 3)]):
        y, x = stage.points[0][0, 0::2], stage.points[0][0, 1::2]
        half_width, half_height = x.std(0) * 2.718281828**0.3, y.std(0) * 2.718281828**-0.2
        sides = [
            x.mean(0) - half_width,
            y.mean(0) - half_height,
            x.mean(0) + half_width,
            y.mean(0) + half_height,
        ]
        torch.testing.assert_close(stage.boxes[0][0], torch.stack(sides))


@pytest.mark.parametrize("changes", [{}, SELECTION], ids=["encoding", "selection"])
def test_the_cascade_adds_residuals_without_gradient_to_earlier_stages(changes):
    """The last stage's offsets teach stage 1 only through a tenth of the sampling positions' gradient."""
    head = make_head(points_gradient=0.0, **changes)
    stages = head([torch.randn(1, 32, 3, 3)])
    (stages[-1].keypoints[0].sum() + stages[-1].boxes[0].sum()).backward()
    first, last = head.stages[0], head.stages[-1]
    assert first.keypoint_offsets.weight.grad is None or not first.keypoint_offsets.weight.grad.any()
    assert last.keypoint_offsets.weight.grad.any()


@pytest.mark.parametrize("changes", [{}, SELECTION], ids=["encoding", "selection"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_of_the_gradient_that_reaches_the_points(share, changes):
    features = torch.randn(1, 32, 3, 3)

    def gradient(points_gradient):
        head = make_head(points_gradient=points_gradient, num_stages=2, **changes)
        head([features])[-1].logits[0].sum().backward()
        gradient = head.stages[0].keypoint_offsets.weight.grad
        assert gradient.any()
        return gradient

    torch.testing.assert_close(gradient(share), gradient(1.0) * share)


def test_moment_scale_learns_at_its_share():
    features = torch.randn(1, 32, 3, 3)

    def gradient(moment_gradient):
        head = make_head(moment_gradient=moment_gradient)
        head([features])[-1].boxes[0].square().sum().backward()
        return head.moment_scale.grad

    torch.testing.assert_close(gradient(0.01), gradient(1.0) * 0.01)
