"""The refiner against grid_sample and by hand: what it reads, where keypoints move, what has no effect."""

import pytest
import torch
import torch.nn.functional as F

from kgdet_d2.modeling.heads.keypoint_refiner import (
    BoxRefiner,
    FineMaps,
    Garments,
    KeypointRefiner,
    extents,
)

STRIDE, WINDOW = 8, 5
SLOTS = [[0, 1, 2], [3, 4, -1]]
KINDS = [0, 1, 2, 0, 2]


def make_refiner(spacings=(0.1, 0.05)):
    torch.manual_seed(0)
    refiner = KeypointRefiner(
        in_channels=4,
        stride=STRIDE,
        slots=SLOTS,
        kinds=KINDS,
        channels=8,
        norm="BN",
        window=WINDOW,
        spacings=list(spacings),
        predicts_quality=True,
        verifies=True,
        refines_boxes=True,
    )
    return refiner.eval()


def make_garments(number=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * 30
    return Garments(
        image=torch.arange(number) % 2,
        classes=torch.arange(number) % 2,
        boxes=torch.cat([corner, corner + 20 + 30 * torch.rand(number, 2, generator=generator)], dim=1),
        keypoints=torch.rand(number, 3, 2, generator=generator) * 60,
    )


@pytest.fixture
def fine():
    return torch.randn(2, 4, 10, 12, generator=torch.Generator().manual_seed(1))


def test_heat_is_interpolated_in_the_keypoint_s_own_map():
    """Against grid_sample; outside of the map there is no heat."""
    generator = torch.Generator().manual_seed(0)
    heat = torch.randn(2, 3, 5, 7, generator=generator)
    image, kinds = torch.tensor([1, 0]), torch.tensor([[0, 2, 1], [1, 1, 0]])
    x, y = torch.rand(2, 2, 3, 4, generator=generator) * 80 - 15
    points = torch.stack(torch.broadcast_tensors(x[..., None, :], y[..., None]), dim=-1).flatten(2, 3)
    maps = FineMaps(heat, heat, stride=STRIDE, image=image, kinds=kinds)
    values = maps.read_heat(x, y)
    size = torch.tensor([7, 5])
    for n in range(2):
        for k in range(3):
            grid = (2 * points[n, k] / STRIDE + 1) / size - 1  # align_corners=False: cells are 1 wide
            expected = F.grid_sample(
                heat[image[n], kinds[n, k]][None, None], grid[None, None], align_corners=False
            )
            torch.testing.assert_close(values[n, k], expected.flatten(), atol=1e-5, rtol=1e-5)


def test_features_are_those_of_the_nearest_location():
    features = torch.arange(2 * 3 * 4.0).view(2, 1, 3, 4)
    maps = FineMaps(
        features, features, stride=STRIDE, image=torch.tensor([1]), kinds=torch.zeros(1, 4).long()
    )
    points = torch.tensor([[[0.0, 0.0], [11.0, 8.0], [13.0, 3.0], [999.0, -99.0]]])
    assert maps.read_features(points).flatten().tolist() == [12.0, 12 + 4 + 1, 12 + 2, 12 + 3]


def test_a_keypoint_moves_to_the_peak_of_its_heat(fine):
    """Where nothing but heat counts, and that has one high peak at a position of the window."""
    refiner = make_refiner([0.1])
    for layer in (refiner.rounds[0].heat_bias, refiner.rounds[0].offset):
        torch.nn.init.zeros_(layer.weight)
    heat = torch.zeros(2, 3, 10, 12)
    heat[0, 1, 4, 5] = 1000.0  # kind 1 at x = 40, y = 32
    refiner.heat.forward = lambda _: heat
    garments = Garments(
        image=torch.tensor([0]),
        classes=torch.tensor([0]),
        boxes=torch.tensor([[0.0, 0.0, 80.0, 80.0]]),  # a step of 8 pixels
        keypoints=torch.tensor([[[40.0, 32.0], [32.0, 48.0], [24.0, 24.0]]]),
    )
    (outcome,) = refiner(fine, garments)
    torch.testing.assert_close(outcome.keypoints[0, 1], torch.tensor([40.0, 32.0]))
    for other in (0, 2):  # a flat window's mean is its middle
        torch.testing.assert_close(outcome.keypoints[0, other], garments.keypoints[0, other])


def test_each_round_starts_where_the_one_before_ended(fine):
    garments = make_garments()
    first, second = make_refiner()(fine, garments)
    middle = WINDOW**2 // 2
    torch.testing.assert_close(first.window[:, :, middle], garments.keypoints)
    torch.testing.assert_close(second.window[:, :, middle], first.keypoints)
    in_second = garments._replace(boxes=first.boxes)
    for outcome, spacing, start in ((first, 0.1, garments), (second, 0.05, in_second)):
        step = (outcome.window[:, :, 1] - outcome.window[:, :, 0])[..., 0]
        torch.testing.assert_close(step, spacing * start.size[:, None].expand(-1, 3))


def test_what_follows_a_class_s_keypoints_has_no_effect(fine):
    garments = make_garments()
    other = garments._replace(keypoints=garments.keypoints.clone())
    other.keypoints[1, 2] = 1e4  # class 1 has two keypoints
    for outcome, changed in zip(make_refiner()(fine, garments), make_refiner()(fine, other), strict=True):
        torch.testing.assert_close(outcome.keypoints[[0, 2]], changed.keypoints[[0, 2]])
        torch.testing.assert_close(outcome.keypoints[1, :2], changed.keypoints[1, :2])
        torch.testing.assert_close(outcome.verification, changed.verification)
        torch.testing.assert_close(outcome.boxes, changed.boxes)


def test_garments_do_not_depend_on_one_another(fine):
    garments, refiner = make_garments(4), make_refiner()
    together = refiner(fine, garments)[-1].keypoints
    for row in range(4):
        alone = refiner(fine, Garments(*(field[row : row + 1] for field in garments)))[-1].keypoints
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-5)


def test_keypoints_of_a_garment_depend_on_one_another(fine):
    garments = make_garments()
    moved = garments._replace(keypoints=garments.keypoints.clone())
    moved.keypoints[0, 0] += 9
    refiner = make_refiner()
    before, after = (refiner(fine, each)[-1].keypoints for each in (garments, moved))
    assert not torch.equal(before[0, 1], after[0, 1])


def test_boxes_lie_between_themselves_and_the_extents_of_their_keypoints():
    """Where nothing is known of the garment, half way: the gate is a half then, and nothing is missing."""
    keypoints = torch.tensor([[[10.0, 20.0], [30.0, 60.0], [999.0, 999.0]]])
    around = extents(keypoints, torch.tensor([[False, False, True]]))
    assert around.tolist() == [[10.0, 20.0, 30.0, 60.0]]
    boxes = torch.tensor([[0.0, 0.0, 40.0, 100.0]])
    refined = BoxRefiner(16)(torch.zeros(1, 16), boxes, around, torch.tensor([50.0]))
    assert refined.tolist() == [[5.0, 10.0, 35.0, 80.0]]


def test_the_loss_of_boxes_reaches_no_landmark(fine):
    refiner = make_refiner()
    sum(outcome.boxes.sum() for outcome in refiner(fine, make_garments())).backward()
    reached = {name for name, parameter in refiner.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in refiner.named_parameters() if ".box." in name}
    assert len(reached) == 8  # two layers with bias in each round


def test_sides_of_boxes_do_not_pass_one_another():
    refiner = BoxRefiner(16)
    refiner.delta.bias.data = torch.tensor([2.0, 2.0, -2.0, -2.0])
    boxes = torch.tensor([[0.0, 0.0, 40.0, 100.0]])
    x1, y1, x2, y2 = refiner(torch.zeros(1, 16), boxes, boxes, torch.tensor([50.0]))[0].tolist()
    assert x2 - x1 == 1 and y2 - y1 == 1 and (x1 + x2) / 2 == 20 and (y1 + y2) / 2 == 50


@pytest.mark.parametrize("training", [True, False])
def test_no_garments(fine, training):
    outcomes = make_refiner().train(training)(fine, make_garments(0))
    assert [outcome.keypoints.shape for outcome in outcomes] == [(0, 3, 2)] * 2
    assert outcomes[0].heat.shape == (0, 3, WINDOW**2) and outcomes[0].quality.shape == (0, 3)


def test_keypoints_that_are_no_numbers_stay_so_and_harm_no_others(fine):
    """Training then stops at the loss, which names the photos; to read outside of the map would crash."""
    garments, refiner = make_garments(), make_refiner()
    broken = garments._replace(keypoints=garments.keypoints.clone())
    broken.keypoints[0] = torch.nan
    with torch.no_grad():
        expected, outcome = refiner(fine, garments)[-1], refiner(fine, broken)[-1]
    assert outcome.keypoints[0].isnan().all()
    torch.testing.assert_close(outcome.keypoints[1:, :2], expected.keypoints[1:, :2])
