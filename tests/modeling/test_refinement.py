"""The refiner in the detector: which positives it learns from, its losses, and what becomes of detections."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from kgdet_d2.modeling.heads.keypoint_refiner import KeypointRefiner, Refinement
from kgdet_d2.modeling.refinement import (
    RefinerCriterion,
    heat_loss,
    refine_detections,
    sample_positives,
    sample_wrong_classes,
)
from tests.helpers.images import BATCHES, image_input
from tests.helpers.systems import make_kgdet

REFINER = ["MODEL.FPN.FINE_LEVEL", "p3", "MODEL.KGDET.REFINER.ENABLED", "True"]
REFINER += ["MODEL.KGDET.REFINER.VERIFICATION_WEIGHT", "1.0", "MODEL.KGDET.REFINER.BOX_WEIGHT", "2.0"]
SIGMAS = [0.05, 0.1, 0.2]


def test_positives_are_drawn_for_each_garment():
    image = torch.tensor([0] * 12 + [1] * 2)
    garment = torch.tensor([0, 1] * 5 + [2, 2] + [0, 0])
    drawn = set()
    for seed in range(20):
        torch.manual_seed(seed)
        rows = sample_positives(image, garment, 3)
        assert rows.tolist() == sorted(set(rows.tolist()))
        pairs = list(zip(image[rows].tolist(), garment[rows].tolist(), strict=True))
        assert [pairs.count(pair) for pair in ((0, 0), (0, 1), (0, 2), (1, 0))] == [3, 3, 2, 2]
        drawn |= set(rows.tolist())
    assert drawn == set(range(14))
    assert len(sample_positives(image[:0], garment[:0], 3)) == 0


def make_outcome(window, heat):
    return Refinement(torch.zeros(0), window, heat, None, None, None)


def test_heat_loss_spreads_the_truth_over_the_positions_around_it():
    x, y = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="xy")
    window = (torch.stack([x, y], dim=-1) * 4 + 10).view(1, 1, 9, 2)  # x, y = 10, 14, 18
    heat = torch.randn(1, 1, 9, generator=torch.Generator().manual_seed(0))
    log_probabilities = heat.flatten() - math.log(sum(math.exp(value) for value in heat.flatten()))
    loss = heat_loss(make_outcome(window, heat), torch.tensor([[[15.0, 10.0]]]))
    expected = -(0.75 * log_probabilities[1] + 0.25 * log_probabilities[2])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for outside in ([9.0, 12.0], [19.0, 12.0], [12.0, 30.0]):
        assert heat_loss(make_outcome(window, heat), torch.tensor([[outside]])).item() == 0


def test_losses_by_hand():
    """Two garments of which one has a labelled keypoint and one has none."""
    criterion = RefinerCriterion(
        sigmas=SIGMAS,
        num_positives=1,
        keypoint_weight=2.0,
        heat_weight=0.0,
        quality_weight=3.0,
        verification_weight=0.0,
        exponent=1.5,
        box_weight=0.0,
    )
    truth = torch.tensor([[[10.0, 10.0, 2.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    outcome = Refinement(
        keypoints=torch.tensor([[[13.0, 14.0], [99.0, 99.0]], [[5.0, 5.0], [7.0, 7.0]]]),
        window=torch.zeros(2, 2, 9, 2).index_fill(2, torch.tensor([1]), 1.0),
        heat=torch.zeros(2, 2, 9),
        quality=torch.tensor([[0.4, 0.0], [0.0, 0.0]]),
        verification=None,
        boxes=None,
    )
    sigmas = torch.tensor(SIGMAS)[torch.tensor([[0, 1], [1, 2]])]
    losses = criterion._keypoint_losses([outcome], truth, torch.tensor([50.0, 20.0]), sigmas, 2)
    assert losses["loss_refine_1"].item() == pytest.approx(2 * (3 + 4) / 50 / 2)
    oks = math.exp(-(5**2) / (2 * 50**2 * (2 * 0.05) ** 2))
    score = 1 / (1 + math.exp(-0.4))
    cross_entropy = -(oks * math.log(score) + (1 - oks) * math.log(1 - score))
    assert losses["loss_quality_1"].item() == pytest.approx(3 * cross_entropy / 2, rel=1e-5)


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_trains_and_detects(batch):
    model = make_kgdet(*REFINER)
    inputs = [image_input(*arguments) for arguments in batch]
    losses = model(inputs)
    rounds = {
        f"loss_{name}_{r}" for name in ("refine", "heat", "quality", "verify", "refined_box") for r in (1, 2)
    }
    assert rounds <= set(losses)
    sum(losses.values()).backward()
    # Every parameter takes part, with or without garments, as data-parallel training needs it.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    model.postprocessor.score_threshold = 0.0
    with torch.no_grad():
        outputs = model(inputs)
    for output in outputs:
        found = output["instances"]
        assert found.keypoint_scores.shape == (len(found),)
        assert (found.keypoint_scores <= found.scores).all()
        assert found.pred_keypoints.isfinite().all() and found.pred_boxes.tensor.isfinite().all()
        clipped = found.pred_boxes.clone()
        clipped.clip(found.image_size)
        assert torch.equal(clipped.tensor, found.pred_boxes.tensor)


def test_the_refiner_gives_no_gradient_to_the_cascade():
    model = make_kgdet(*REFINER)
    losses = model([image_input(96, 96, [[5, 5, 60, 90]])])
    sum(loss for name, loss in losses.items() if "refine" in name or "heat" in name).backward()
    assert all(p.grad is None for p in model.head.parameters())
    assert model.backbone.fine.laterals["p3"].weight.grad.abs().sum() > 0


def test_a_published_model_has_no_part_of_it():
    names = set(make_kgdet().state_dict())
    assert {name.split(".")[0] for name in set(make_kgdet(*REFINER).state_dict()) - names} == {
        "backbone",
        "refiner",
    }
    assert names <= set(make_kgdet(*REFINER).state_dict())


def make_detections(numbers, size=(50, 40)):
    generator = torch.Generator().manual_seed(0)
    detections = []
    for number in numbers:
        corner = torch.rand(number, 2, generator=generator) * 20
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.cat([corner, corner + 15], dim=1))
        instances.scores = torch.rand(number, generator=generator)
        instances.pred_classes = torch.arange(number) % 2
        scores = instances.scores[:, None, None].expand(-1, 5, 1)
        instances.pred_keypoints = torch.cat(
            [torch.rand(number, 5, 2, generator=generator) * 40, scores], dim=2
        )
        detections.append(instances)
    return detections


@pytest.mark.parametrize("predicts", [True, False])
@pytest.mark.parametrize("numbers", [[3, 0, 2], [0, 0]])
def test_detections_keep_all_but_their_scores_and_their_class_s_keypoints(numbers, predicts):
    torch.manual_seed(0)
    refiner = KeypointRefiner(
        in_channels=4,
        stride=8,
        slots=[[0, 1, 2], [3, 4, -1]],
        kinds=[0, 1, 2, 0, 2],
        channels=8,
        norm="BN",
        window=5,
        spacings=[3.0],  # far enough to leave the image
        predicts_quality=predicts,
        verifies=predicts,
        refines_boxes=False,
    ).eval()
    torch.nn.init.normal_(refiner.rounds[0].offset.weight)
    detections = make_detections(numbers)
    with torch.no_grad():
        refined = refine_detections(refiner, torch.randn(len(numbers), 4, 7, 5), detections)
    for old, new in zip(detections, refined, strict=True):
        assert len(new) == len(old) and new.has("keypoint_scores") == predicts
        assert new.scores.tolist() == sorted(new.scores.tolist(), reverse=True)
        for row in range(len(new)):
            (before,) = (old.pred_boxes.tensor == new.pred_boxes.tensor[row]).all(dim=1).nonzero()[0]
            assert new.pred_classes[row] == old.pred_classes[before]
            own = [0, 1, 2] if new.pred_classes[row] == 0 else [3, 4]
            others = [slot for slot in range(5) if slot not in own]
            keypoints, old_keypoints = new.pred_keypoints[row], old.pred_keypoints[before]
            assert torch.equal(keypoints[others, :2], old_keypoints[others, :2])
            assert not torch.equal(keypoints[own, :2], old_keypoints[own, :2])
            assert (keypoints[own, :2] >= 0).all()
            assert (keypoints[own, :2] <= torch.tensor([40, 50])).all()
            if predicts:
                verification = new.scores[row] ** 2 / old.scores[before]
                assert 0 < verification < 1
                assert (keypoints[own, 2] < new.scores[row]).all()
                mean = keypoints[own, 2].mean().item()
                assert new.keypoint_scores[row].item() == pytest.approx(mean, rel=1e-5)
            else:
                assert (keypoints[own, 2] == old.scores[before]).all()


def test_wrong_classes_are_likely_ones():
    scores = torch.tensor([[0.9, 0.5, 0.0], [0.1, 0.0, 0.0]]).repeat(500, 1)
    classes = torch.tensor([0, 2]).repeat(500)
    torch.manual_seed(0)
    wrong = sample_wrong_classes(scores, classes)
    assert (wrong != classes).all()
    assert (wrong[::2] == 1).float().mean() > 0.99
    assert (wrong[1::2] == 0).float().mean() > 0.99
    uniform = sample_wrong_classes(torch.zeros(600, 3), torch.ones(600).long())
    assert (uniform == 2).sum() > 100  # half of them by chance
    assert sample_wrong_classes(scores[:0], classes[:0]).shape == (0,)
