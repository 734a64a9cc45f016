"""Assignment by centre and by IoU against plain loops, and at its edges."""

import math

import pytest
import torch

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling.assigners import BACKGROUND, IGNORED, assign_by_center, assign_by_iou


def assign_by_loops(boxes, locations, strides, valid, num_positives):
    """The rule read out: garment by garment, cell by cell."""
    levels = sorted({int(math.log2(stride)) for stride in strides})
    owner = [BACKGROUND if ok else IGNORED for ok in valid]
    owner_distance = [math.inf] * len(locations)
    for garment, (x1, y1, x2, y2) in enumerate(boxes):
        width, height = max(x2 - x1, 1e-6), max(y2 - y1, 1e-6)
        level = int((math.log2(width / 4) + math.log2(height / 4)) / 2)
        level = min(max(level, levels[0]), levels[-1])
        candidates = []
        for i, (x, y) in enumerate(locations):
            if valid[i] and strides[i] == 2**level:
                distance = math.hypot((x - (x1 + x2) / 2) / width, (y - (y1 + y2) / 2) / height)
                candidates.append((distance, i))
        for distance, i in sorted(candidates)[:num_positives]:
            if distance < owner_distance[i]:
                owner[i], owner_distance[i] = garment, distance
    return owner


@pytest.mark.parametrize("seed", range(20))
def test_against_plain_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    locations, strides = make_locations([(8, 10), (4, 5), (2, 3)], [32, 64, 128], torch.device("cpu"))
    valid = (locations[:, 0] < 290) & (locations[:, 1] < 256)
    corner = torch.rand(6, 2, generator=generator) * 250
    boxes = torch.cat([corner, corner + 5 + torch.rand(6, 2, generator=generator) ** 2 * 600], dim=1)
    for num_positives in (1, 9, 25):
        ours = assign_by_center(boxes, locations, strides, valid, num_positives).tolist()
        rows = [t.double().tolist() for t in (boxes, locations, strides)]
        assert ours == assign_by_loops(*rows, valid.tolist(), num_positives)


def make_level(height, width, stride=32):
    locations, strides = make_locations([(height, width)], [stride], torch.device("cpu"))
    return locations, strides, torch.ones(len(locations), dtype=torch.bool)


def test_no_garments_is_all_background():
    locations, strides, valid = make_level(3, 3)
    valid[-1] = False
    matched = assign_by_center(torch.zeros(0, 4), locations, strides, valid, 25)
    assert matched.tolist() == [BACKGROUND] * 8 + [IGNORED]


def test_fewer_cells_than_k_are_all_taken():
    locations, strides, valid = make_level(2, 2)
    assert (
        assign_by_center(torch.tensor([[0.0, 0, 60, 60]]), locations, strides, valid, 25).tolist() == [0] * 4
    )
    locations, strides, valid = make_level(1, 1)
    assert assign_by_center(torch.tensor([[0.0, 0, 9, 9]]), locations, strides, valid, 9).tolist() == [0]


def test_equal_distance_goes_to_the_first_garment():
    locations, strides, valid = make_level(4, 4)
    box = torch.tensor([[10.0, 10, 90, 90]])
    assert set(assign_by_center(box.repeat(3, 1), locations, strides, valid, 9).tolist()) == {BACKGROUND, 0}


def test_boxes_without_area_still_get_cells():
    locations, strides, valid = make_level(4, 4)
    matched = assign_by_center(torch.tensor([[50.0, 50, 50, 90]]), locations, strides, valid, 4)
    assert (matched == 0).sum() == 4


def test_cells_in_the_batch_s_padding_are_never_positive():
    locations, strides, valid = make_level(4, 4)
    valid = locations[:, 0] < 64
    matched = assign_by_center(torch.tensor([[0.0, 0, 128, 128]]), locations, strides, valid, 16)
    assert (matched[~valid] == IGNORED).all() and (matched[valid] == 0).all()


def iou(a, b):
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    overlap = sides[0] * sides[1]
    return overlap / (sum(areas) - overlap) if overlap else 0.0


def assign_proposals_by_loops(boxes, proposals, valid, background_iou, positive_iou):
    """The rule read out: every cell by itself, then every garment in turn takes what is closest to it."""
    owner = []
    for proposal, ok in zip(proposals, valid, strict=True):
        ious = [iou(box, proposal) for box in boxes]
        if not ok or (background_iou <= max(ious) < positive_iou):
            owner.append(IGNORED)
        else:
            owner.append(ious.index(max(ious)) if max(ious) >= positive_iou else BACKGROUND)
    for garment, box in enumerate(boxes):
        ious = [iou(box, proposal) if ok else 0.0 for proposal, ok in zip(proposals, valid, strict=True)]
        for cell, value in enumerate(ious):
            if value == max(ious) > 0:
                owner[cell] = garment
    return owner


def by_proposals(boxes, proposals, valid):
    return assign_by_iou(boxes, proposals, valid, background_iou=0.4, positive_iou=0.5)


@pytest.mark.parametrize("seed", range(20))
def test_proposals_against_plain_loops(seed):
    """Whole numbers, so that equal IoUs are equal; some proposals coincide, some garments no one overlaps."""
    generator = torch.Generator().manual_seed(seed)

    def random_boxes(number):
        corner = torch.randint(0, 40, (number, 2), generator=generator)
        sides = torch.randint(1, 25, (number, 2), generator=generator)
        return torch.cat([corner, corner + sides], dim=1).double()

    boxes, proposals = random_boxes(6), random_boxes(60)
    proposals[50:] = proposals[:10]
    proposals[20:25] = boxes[:5]
    boxes[5] += 1000 * (seed % 2)
    valid = torch.rand(60, generator=generator) < 0.9
    expected = assign_proposals_by_loops(boxes.tolist(), proposals.tolist(), valid.tolist(), 0.4, 0.5)
    assert by_proposals(boxes, proposals, valid).tolist() == expected
    assert {BACKGROUND, IGNORED} < set(expected)


def test_proposals_without_garments_are_all_background():
    valid = torch.tensor([True, False])
    assert by_proposals(torch.zeros(0, 4), torch.ones(2, 4), valid).tolist() == [BACKGROUND, IGNORED]


def test_a_garment_has_the_proposal_closest_to_it_however_little_it_overlaps():
    box = torch.tensor([[0.0, 0, 100, 100]])
    proposals = torch.tensor([[0.0, 0, 10, 10], [0, 0, 12, 10], [200, 200, 210, 210]])
    valid = torch.ones(3, dtype=torch.bool)
    assert by_proposals(box, proposals, valid).tolist() == [BACKGROUND, 0, BACKGROUND]
    assert by_proposals(box, proposals[2:], valid[2:]).tolist() == [BACKGROUND]  # which does not overlap it
    assert by_proposals(box, proposals, torch.tensor([True, False, True])).tolist() == [
        0,
        IGNORED,
        BACKGROUND,
    ]


def test_of_two_garments_that_claim_a_proposal_the_later_has_it():
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 50, 50]])
    proposals = torch.tensor([[0.0, 0, 90, 90]])
    valid = torch.ones(1, dtype=torch.bool)
    assert by_proposals(boxes, proposals, valid).tolist() == [1]
    assert by_proposals(boxes.flip(0), proposals, valid).tolist() == [1]


@pytest.mark.parametrize("proposal", [[5.0, 5, 5, 5], [torch.nan] * 4], ids=["without area", "nan"])
def test_proposals_that_are_no_boxes_are_background(proposal):
    boxes, valid = torch.tensor([[0.0, 0, 10, 10]]), torch.ones(2, dtype=torch.bool)
    proposals = torch.tensor([proposal, [0.0, 0, 10, 9]])
    assert by_proposals(boxes, proposals, valid).tolist()[0] == BACKGROUND
