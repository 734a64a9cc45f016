"""Scores that mean quality and GIoU boxes, by themselves and in the criterion, against plain arithmetic."""

import math

import pytest
import torch

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling.losses import quality_focal_loss
from tests.helpers.losses import CLASSES, SIZES, STRIDES, make_criterion, random_stage, two_images


@pytest.mark.parametrize("exponent", [1.5, 2.0])
def test_quality_focal_loss_of_single_scores(exponent):
    for logit in (-3.0, 0.0, 2.5):
        for quality in (0.0, 0.3, 1.0):
            p = 1 / (1 + math.exp(-logit))
            cross_entropy = -(quality * math.log(p) + (1 - quality) * math.log(1 - p))
            expected = abs(quality - p) ** exponent * cross_entropy
            loss = quality_focal_loss(torch.tensor([logit]), torch.tensor([quality]), exponent)
            assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_it_reduces_to_the_focal_loss_without_alpha():
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64)
    p = logits.sigmoid()
    expected = -((1 - p) ** 2) * p.log()
    torch.testing.assert_close(quality_focal_loss(logits, torch.ones_like(logits), 2.0), expected)


def overlap(a, b):
    """Return intersection and union of two boxes."""
    sides = [max(0.0, min(a[2 + i], b[2 + i]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return sides[0] * sides[1], sum(areas) - sides[0] * sides[1]


def test_criterion_against_plain_loops():
    generator = torch.Generator().manual_seed(0)
    criterion = make_criterion(stage_weights=[1.0], cls_loss="quality", box_loss="giou", focal_gamma=1.5)
    stage = random_stage(generator)
    for level in stage.boxes:  # proper boxes, 2 to 6 strides around the location
        level.data = level.data.abs().clamp(1, 3) * torch.tensor([-1.0, -1, 1, 1])[:, None, None]
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    gt = two_images(generator)
    arguments = ([stage], locations, strides, [(48, 40), (48, 32)], gt)
    losses = criterion(*arguments)
    (targets,) = criterion.stage_targets(*arguments)
    logits = [
        level[:, :, y, x]
        for level in stage.logits
        for y in range(level.shape[2])
        for x in range(level.shape[3])
    ]
    boxes = [
        level[:, :, y, x]
        for level in stage.boxes
        for y in range(level.shape[2])
        for x in range(level.shape[3])
    ]
    cls = giou = 0.0
    for image in range(2):
        for index in range(len(locations)):
            garment = int(targets.matched_idxs[image, index])
            if garment == -2:
                continue
            quality = [0.0] * CLASSES
            if garment >= 0:
                at, stride = locations[index].repeat(2), strides[index]
                box = (boxes[index][image] * stride + at).tolist()
                true_box = gt[image].gt_boxes.tensor[garment].tolist()
                inter, union = overlap(box, true_box)
                hull = [max(box[2 + i], true_box[2 + i]) - min(box[i], true_box[i]) for i in (0, 1)]
                giou += 1 - inter / union + (hull[0] * hull[1] - union) / (hull[0] * hull[1])
                quality[int(gt[image].gt_classes[garment])] = max(inter / union, 0.05)
            for c in range(CLASSES):
                p = 1 / (1 + math.exp(-logits[index][image, c].item()))
                cross_entropy = -(quality[c] * math.log(p) + (1 - quality[c]) * math.log(1 - p))
                cls += abs(quality[c] - p) ** 1.5 * cross_entropy
    assert losses["loss_cls_1"].item() == pytest.approx(cls / targets.normalizer, rel=1e-4)
    assert losses["loss_box_1"].item() == pytest.approx(3 * giou / targets.normalizer, rel=1e-4)


def test_images_without_garments():
    criterion = make_criterion(stage_weights=[1.0], cls_loss="quality", box_loss="giou")
    generator = torch.Generator().manual_seed(0)
    stage = random_stage(generator, num_images=1)
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    losses = criterion([stage], locations, strides, [(48, 40)], two_images(generator)[1:])
    assert losses["loss_box_1"] == 0 and losses["loss_cls_1"] > 0
    sum(losses.values()).backward()
    assert all(level.grad.isfinite().all() for level in (*stage.logits, *stage.boxes))


def test_a_box_that_is_not_a_number_makes_the_loss_one():
    """Training stops at such a loss, and names the photos; an assertion within would not."""
    criterion = make_criterion(stage_weights=[1.0], cls_loss="quality", box_loss="giou")
    generator = torch.Generator().manual_seed(0)
    stage = random_stage(generator)
    for level in stage.boxes:
        level.data.fill_(math.nan)
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    losses = criterion([stage], locations, strides, [(48, 40)] * 2, two_images(generator))
    assert losses["loss_box_1"].isnan()
