"""Criteria on two small levels, random stages and images for them, and their losses by plain loops."""

import math

import torch
from detectron2.structures import Boxes, Instances, Keypoints

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.losses import KGDetCriterion
from tests.helpers.regions import lies_in, with_regions

CLASSES, LANDMARKS, SIZES, STRIDES = 3, 4, [(6, 5), (3, 3)], [8, 16]


def make_criterion(**changes):
    arguments = {
        "num_positives": 4,
        "stage_weights": [0.5, 2.0],
        "cls_weight": 1.0,
        "box_weight": 3.0,
        "keypoint_weight": 0.7,
        "keypoint_weighting": "per_garment",
        "visibility_weight": 0.4,
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "smooth_l1_beta": 1 / 9,
    }
    return KGDetCriterion(**(arguments | changes))


def random_stage(generator, num_images=2):
    def maps(channels):
        return [
            torch.randn(num_images, channels, *size, generator=generator).requires_grad_() for size in SIZES
        ]

    return StageOutput(maps(CLASSES), maps(2 * LANDMARKS), maps(2), maps(4), maps(LANDMARKS))


def garments(boxes, classes, keypoints):
    instances = Instances((48, 40))
    instances.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_keypoints = Keypoints(torch.as_tensor(keypoints).view(-1, LANDMARKS, 3))
    return instances


def two_images(generator):
    keypoints = torch.rand(3, LANDMARKS, 3, generator=generator) * 40
    keypoints[..., 2] = torch.tensor([[2.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    with_garments = garments([[2.0, 3, 30, 40], [10.0, 5, 38, 20], [24.0, 20, 39, 47]], [2, 0, 1], keypoints)
    return [with_garments, garments([], [], [])]


def losses_by_loops(criterion, stages, locations, strides, padded_sizes, gt):
    """Every term read out of the maps cell by cell, in double precision."""
    all_targets = criterion.stage_targets(stages, locations, strides, padded_sizes, gt)
    places = [(level, y, x) for level, (h, w) in enumerate(SIZES) for y in range(h) for x in range(w)]

    def focal(logit, positive):
        p = 1 / (1 + math.exp(-logit))
        return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)

    def smooth_l1(difference):
        difference, beta = abs(difference), criterion.smooth_l1_beta
        return 0.5 * difference**2 / beta if difference < beta else difference - 0.5 * beta

    totals = {}
    for number, (stage, targets) in enumerate(zip(stages, all_targets, strict=True), start=1):
        cls = box = keypoint = visibility = 0.0
        numbers = []  # of labelled landmarks, at positive locations of garments that have any
        for image in range(len(gt)):
            for index, (level, y, x) in enumerate(places):
                garment = int(targets.matched_idxs[image, index])
                if garment == -2:
                    continue
                stride, unit = STRIDES[level], 4 * STRIDES[level]
                for c in range(CLASSES) if stage.logits else []:
                    positive = garment >= 0 and int(gt[image].gt_classes[garment]) == c
                    cls += focal(stage.logits[level][image, c, y, x].item(), positive)
                if garment < 0:
                    continue
                for side in range(4):
                    at = (x, y)[side % 2] * stride
                    predicted = stage.boxes[level][image, side, y, x].item() * stride + at
                    box += smooth_l1((predicted - gt[image].gt_boxes.tensor[garment, side].item()) / unit)
                if not stage.keypoints:
                    continue
                keypoints = gt[image].gt_keypoints.tensor[garment]
                labelled = [k for k in range(LANDMARKS) if keypoints[k, 2] > 0]
                for k in labelled:
                    for axis in range(2):
                        offset = stage.keypoints[level][image, 2 * k + 1 - axis, y, x].item()
                        predicted = (offset + (x, y)[axis]) * stride
                        per_garment = criterion.keypoint_weighting == "per_garment"
                        weight = 4 / (2 * len(labelled)) if per_garment else 1
                        keypoint += weight * smooth_l1((predicted - keypoints[k, axis].item()) / unit)
                for k in range(LANDMARKS) if labelled and stage.visibility else []:
                    logit = stage.visibility[level][image, k, y, x].item()
                    visibility += focal(logit, k in labelled)
                numbers += [len(labelled)] if labelled else []
        factor = criterion.stage_weights[number - 1] / targets.normalizer
        visibility /= sum(numbers) / max(len(numbers), 1) or 1
        terms = {"box": (box, stage.boxes), "cls": (cls, stage.logits)}
        terms |= {"keypoint": (keypoint, stage.keypoints), "visibility": (visibility, stage.visibility)}
        for name, (value, told) in terms.items():
            if told is None:
                continue
            totals[f"loss_{name}_{number}"] = value * factor * criterion.weights[name]
    return totals


def gradients_by_location(losses, stages):
    """Gradients of the sum of losses by what each stage predicts, (N, L, channels), where there are any."""
    maps = [{name: levels for name, levels in vars(stage).items() if levels is not None} for stage in stages]
    flat = [level for stage in maps for levels in stage.values() for level in levels]
    found = iter(torch.autograd.grad(sum(losses.values()), flat, materialize_grads=True))
    return [
        {
            name: torch.cat([gradient.flatten(2).mT for _, gradient in zip(levels, found, strict=False)], 1)
            for name, levels in stage.items()
        }
        for stage in maps
    ]


def check_learns_around_regions(criterion, stages, gt):
    """Check the gradients of two images: none of classes in regions but at positives, elsewhere the same."""
    locations, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    regions = [[[0.0, 0, 16, 24], [20, 15, 40, 40]], [[8.0, 8, 24, 48]]]
    mixed = [with_regions(gt[0], regions[0], order=[3, 0, 4, 1, 2]), with_regions(gt[1], regions[1])]
    padded_sizes = [(48, 40), (48, 32)]
    targets = criterion.stage_targets(stages, locations, strides, padded_sizes, gt)
    plain, around = (
        gradients_by_location(criterion(stages, locations, strides, padded_sizes, annotations), stages)
        for annotations in (gt, mixed)
    )
    kinds = set()
    for stage in range(len(stages)):
        for image, image_regions in enumerate(regions):
            for index, location in enumerate(locations.tolist()):
                inside = lies_in(location, image_regions)
                positive = bool(targets[stage].matched_idxs[image, index] >= 0)
                kinds.add((inside, positive))
                for name, gradient in plain[stage].items():
                    found = around[stage][name][image, index]
                    if name == "logits" and inside and not positive:
                        assert not found.any()
                    else:
                        assert torch.equal(found, gradient[image, index])
        assert plain[stage]["boxes"].any()
    assert len(kinds) == 4
