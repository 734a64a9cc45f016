"""KGDet's criterion against plain loops, and its losses where nothing is labelled."""

from dataclasses import replace

import pytest
import torch

from kgdet_d2.geometry.points import make_locations
from tests.helpers.losses import (
    LANDMARKS,
    SIZES,
    STRIDES,
    check_learns_around_regions,
    garments,
    losses_by_loops,
    make_criterion,
    random_stage,
    two_images,
)


@pytest.mark.parametrize("weighting", ["per_garment", "per_landmark"])
def test_against_plain_loops(weighting):
    generator = torch.Generator().manual_seed(0)
    criterion = make_criterion(keypoint_weighting=weighting)
    stages = [random_stage(generator), random_stage(generator)]
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    arguments = (stages, locations, strides, [(48, 40), (48, 32)], two_images(generator))
    losses = criterion(*arguments)
    expected = losses_by_loops(criterion, *arguments)
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-5), name


def test_targets_count_at_least_one_positive_an_image():
    criterion = make_criterion()
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    gt = two_images(torch.Generator().manual_seed(0))
    targets = criterion.targets(locations, strides, [(48, 40), (48, 32)], gt)
    positives = int((targets.matched_idxs >= 0).sum())
    assert targets.normalizer == positives + 1
    assert len(targets.classes) == len(targets.boxes) == len(targets.keypoints) == positives
    ignored = (targets.matched_idxs[1] == -2).tolist()
    assert ignored == (locations[:, 0] >= 32).tolist()


def test_batch_without_garments_trains_the_background_alone():
    generator = torch.Generator().manual_seed(0)
    criterion = make_criterion(stage_weights=[1.0])
    stage = random_stage(generator)
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    empty = garments([], [], [])
    losses = criterion([stage], locations, strides, [(48, 40)] * 2, [empty, empty])
    sum(losses.values()).backward()
    assert losses.pop("loss_cls_1") > 0
    assert len(losses) == 3 and all(loss == 0 for loss in losses.values())
    for maps in (stage.boxes, stage.keypoints, stage.visibility):
        assert all((level.grad == 0).all() for level in maps)


def test_garments_without_landmarks_teach_boxes_but_no_landmarks():
    generator = torch.Generator().manual_seed(0)
    criterion = make_criterion(stage_weights=[1.0])
    stage = random_stage(generator, num_images=1)
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    garment = garments([[2.0, 3, 30, 40]], [1], torch.zeros(1, LANDMARKS, 3))
    losses = criterion([stage], locations, strides, [(48, 40)], [garment])
    assert losses["loss_keypoint_1"] == 0 and losses["loss_visibility_1"] == 0 and losses["loss_box_1"] > 0
    assert all(loss.isfinite() for loss in losses.values())


def test_stages_without_visibility_have_no_loss_of_it():
    generator = torch.Generator().manual_seed(0)
    stage = replace(random_stage(generator), visibility=None)
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    criterion = make_criterion(stage_weights=[1.0])
    losses = criterion([stage], locations, strides, [(48, 40), (48, 32)], two_images(generator))
    assert set(losses) == {"loss_cls_1", "loss_box_1", "loss_keypoint_1"}


@pytest.mark.parametrize("cls_loss", ["focal", "quality"])
def test_no_class_is_learnt_in_regions_to_ignore(cls_loss):
    generator = torch.Generator().manual_seed(0)
    stages = [random_stage(generator), random_stage(generator)]
    check_learns_around_regions(make_criterion(cls_loss=cls_loss), stages, two_images(generator))
