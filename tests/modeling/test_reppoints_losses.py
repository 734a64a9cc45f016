"""RepPoints' criterion against plain loops, and the assignment of its stages."""

from dataclasses import replace

import pytest
import torch

from kgdet_d2.geometry.points import boxes_to_pixels, make_locations
from kgdet_d2.modeling.assigners import assign_by_center, assign_by_iou
from kgdet_d2.modeling.losses import RepPointsCriterion
from tests.helpers.losses import (
    SIZES,
    STRIDES,
    check_learns_around_regions,
    garments,
    losses_by_loops,
    make_criterion,
    random_stage,
    two_images,
)

PADDED = [(48, 40), (48, 32)]


def make_reppoints_criterion(**changes):
    others = {name: value for name, value in vars(make_criterion()).items() if name != "weights"}
    weights = {"cls_weight": 1.0, "box_weight": 3.0, "keypoint_weight": 0.7, "visibility_weight": 0.0}
    thresholds = {"background_iou": 0.2, "positive_iou": 0.3}
    return RepPointsCriterion(**(others | weights | thresholds | {"num_positives": 1} | changes))


def two_stages(generator, with_keypoints=True):
    """Random ones, with boxes of about the garments' size so that many overlap one."""
    stages = []
    for number in range(2):
        stage = replace(random_stage(generator), visibility=None)
        for level, stride in zip(stage.boxes, STRIDES, strict=True):
            around = torch.tensor([-1.0, -1, 1, 1])[:, None, None] * 12 / stride
            level.data = level.data.clamp(-1, 1) * 0.5 + around
        if number == 0:
            stage = replace(stage, logits=None)
        if not with_keypoints:
            stage = replace(stage, keypoints=None)
        stages.append(stage)
    return stages


def all_locations():
    return make_locations(SIZES, STRIDES, torch.device("cpu"))


def without_landmarks(gt):
    for instances in gt:
        instances.remove("gt_keypoints")
    return gt


@pytest.mark.parametrize("with_keypoints", [True, False], ids=["landmarks", "no landmarks"])
def test_against_plain_loops(with_keypoints):
    generator = torch.Generator().manual_seed(0)
    criterion, stages = make_reppoints_criterion(), two_stages(generator, with_keypoints)
    gt = two_images(generator)
    if not with_keypoints:
        without_landmarks(gt)
    arguments = (stages, *all_locations(), PADDED, gt)
    losses = criterion(*arguments)
    expected = losses_by_loops(criterion, *arguments)
    names = {"loss_box_1", "loss_cls_2", "loss_box_2"}
    names |= {"loss_keypoint_1", "loss_keypoint_2"} if with_keypoints else set()
    assert losses.keys() == expected.keys() == names
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-5), name


def test_the_first_stage_is_assigned_by_place_and_every_other_by_the_boxes_before_it():
    generator = torch.Generator().manual_seed(0)
    criterion = make_reppoints_criterion(stage_weights=[1.0] * 3)
    stages = [*two_stages(generator), two_stages(generator)[1]]
    gt, (locations, strides) = two_images(generator), all_locations()
    targets = criterion.stage_targets(stages, locations, strides, PADDED, gt)
    for image, (height, width) in enumerate(PADDED):
        boxes = gt[image].gt_boxes.tensor
        valid = (locations[:, 0] < width) & (locations[:, 1] < height)
        by_place = assign_by_center(boxes, locations, strides, valid, 1)
        assert torch.equal(targets[0].matched_idxs[image], by_place)
        for before, after in zip(stages, targets[1:], strict=False):
            maps = torch.cat([level[image].flatten(1).T for level in before.boxes])
            proposals = boxes_to_pixels(maps, locations, strides)
            expected = assign_by_iou(boxes, proposals, valid, background_iou=0.2, positive_iou=0.3)
            assert torch.equal(after.matched_idxs[image], expected)
            assert len(boxes) == 0 or {-1, -2, 0, 1} <= set(expected.tolist())
    for stage in targets:
        positives = (stage.matched_idxs >= 0).sum(dim=1)
        assert stage.normalizer == positives.clamp(min=1).sum()


@pytest.mark.parametrize("with_keypoints", [True, False], ids=["landmarks", "no landmarks"])
def test_batch_without_garments_trains_the_background_alone(with_keypoints):
    generator = torch.Generator().manual_seed(0)
    stages = two_stages(generator, with_keypoints)
    gt = [garments([], [], []), garments([], [], [])]
    if not with_keypoints:
        without_landmarks(gt)
    losses = make_reppoints_criterion()(stages, *all_locations(), PADDED, gt)
    sum(losses.values()).backward()
    assert losses.pop("loss_cls_2") > 0
    assert len(losses) == (4 if with_keypoints else 2) and all(loss == 0 for loss in losses.values())
    assert all((level.grad == 0).all() for stage in stages for level in stage.boxes)


def test_garments_that_no_box_overlaps_teach_the_first_stage_alone():
    generator = torch.Generator().manual_seed(0)
    stages = two_stages(generator)
    for level in stages[0].boxes:
        level.data += 1000
    gt = two_images(generator)
    losses = make_reppoints_criterion()(stages, *all_locations(), PADDED, gt)
    assert losses["loss_box_1"] > 0 and losses["loss_keypoint_1"] > 0
    assert losses["loss_box_2"] == 0 and losses["loss_keypoint_2"] == 0
    assert all(loss.isfinite() for loss in losses.values())


def test_landmarks_that_are_wanted_must_be_there():
    generator = torch.Generator().manual_seed(0)
    stages, gt = two_stages(generator), without_landmarks(two_images(generator))
    with pytest.raises(AttributeError, match="gt_keypoints"):
        make_reppoints_criterion()(stages, *all_locations(), PADDED, gt)


@pytest.mark.parametrize("with_keypoints", [True, False], ids=["landmarks", "no landmarks"])
def test_no_class_is_learnt_in_regions_to_ignore(with_keypoints):
    generator = torch.Generator().manual_seed(0)
    stages, gt = two_stages(generator, with_keypoints), two_images(generator)
    if not with_keypoints:
        without_landmarks(gt)
    check_learns_around_regions(make_reppoints_criterion(), stages, gt)
