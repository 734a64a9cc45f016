"""Suspicions on garments, against plain loops over random garments, and garments with one fault each."""

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from kgdet_d2.data.inspect import suspicions
from kgdet_d2.data.inspect.flip_check import check_flip_map
from kgdet_d2.data.inspect.suspicions import (
    AT_ORIGIN,
    BEYOND,
    COINCIDENT,
    NO_AREA,
    ODD_BOX,
    ONE_POINT,
    OUT_OF_BOX,
    SIDES,
    TINY_BOX,
    TWICE,
    find_suspicions,
)
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo

SKIRT = DEEPFASHION2.class_names.index("skirt")
# waist left, centre, right; side and hem left; hem centre; hem and side right: in a box of 0..1
SKIRT_PLACES = [(0.2, 0), (0.5, 0.05), (0.8, 0), (0.05, 0.5), (0, 0.9), (0.5, 1), (1, 0.9), (0.95, 0.5)]


def random_photos(seed):
    """Garments of whole coordinates in small photos, so that all but the rarest things happen by chance."""
    rng = np.random.default_rng(seed)
    photos = []
    for number in range(150):
        width, height = rng.integers(20, 90, 2).tolist()
        garments = []
        for _ in range(rng.integers(0, 4)):
            class_index = int(rng.integers(FLD.num_classes))
            count = FLD.num_class_keypoints(class_index)
            low = rng.integers(-4, 15, 2)
            box = np.concatenate([low, low + rng.integers(0, 60, 2) * rng.choice([0, 0.05, 1, 1, 1], 2)])
            box += 4 * (box[2:] <= 0).any()  # no box outside the photo
            points = rng.integers(0, np.minimum(50, (width, height)), (count, 2))
            keypoints = np.column_stack([points, rng.integers(0, 3, count)])
            if rng.random() < 0.2:
                keypoints[:, :2] = keypoints[0, :2]
            if rng.random() < 0.2:
                keypoints[-1, :2] = keypoints[0, :2] + 0.5
            if rng.random() < 0.2:
                keypoints[-1] = 0, 0, rng.integers(0, 3)
            garment = Garment(
                class_index, np.float32(box), np.float32(keypoints), iscrowd=bool(rng.random() < 0.2)
            )
            garments += [garment] * (2 if rng.random() < 0.2 else 1)
        photos.append(Photo(f"{number}.jpg", number, width, height, garments))
    return photos


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    both = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return common / (both - common)


def expected_suspicions(photos, scale):
    """(kind, photo, garments in the order of all) by one look at each garment after the other."""
    forms = {}
    for garment in (garment for photo in photos for garment in photo.garments):
        x1, y1, x2, y2 = garment.box.tolist()
        if x2 > x1 and y2 > y1 and not garment.iscrowd:
            forms.setdefault(garment.category_id, []).append(math.log((x2 - x1) / (y2 - y1)))
    row = -1
    for number, photo in enumerate(photos):
        areas = {}
        for garment in photo.garments:
            row += 1
            if garment.iscrowd:
                continue
            x1, y1, x2, y2 = garment.box.tolist()
            width, height, side = x2 - x1, y2 - y1, max(x2 - x1, y2 - y1)
            points = [(x, y) for x, y, v in garment.keypoints.tolist() if v > 0]
            if width > 0 and height > 0:
                areas[row] = garment
                if max(-x1, -y1, x2 - photo.width, y2 - photo.height) > 0.1 * side:
                    yield BEYOND, number, (row,)
                if scale**2 * width * height < 256:
                    yield TINY_BOX, number, (row,)
                ratio = width / height / math.exp(np.median(forms[garment.category_id]))
                if max(ratio, 1 / ratio) > 4 or max(width / height, height / width) > 10:
                    yield ODD_BOX, number, (row,)
                if any(max(x1 - x, y1 - y, x - x2, y - y2) > 0.1 * side for x, y in points):
                    yield OUT_OF_BOX, number, (row,)
            else:
                yield NO_AREA, number, (row,)
            if (0, 0) in points:
                yield AT_ORIGIN, number, (row,)
            near = [
                max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= 0.5
                for a, b in combinations(points, 2)
            ]  # fmt: skip
            if any(near):
                yield ONE_POINT if all(near) else COINCIDENT, number, (row,)
        for one, other in combinations(areas, 2):
            same_class = areas[one].category_id == areas[other].category_id
            if same_class and iou(areas[one].box.tolist(), areas[other].box.tolist()) > 0.9:
                yield TWICE, number, (one, other)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cells", [None, 100], ids=["at once", "in chunks"])
def test_against_plain_loops(monkeypatch, seed, cells):
    if cells is not None:
        monkeypatch.setattr(suspicions, "_MAX_CELLS", cells)
    photos = random_photos(seed)
    table = AnnotationTable.from_photos(photos, FLD)
    found = find_suspicions(table, 2 * table.box, check_flip_map(table))
    expected = Counter(expected_suspicions(photos, scale=2))
    assert Counter((each.kind, each.photo, each.garments) for each in found) == expected
    assert len({kind for kind, _, _ in expected}) == len(suspicions.KINDS) - 1  # all but SIDES
    assert all(math.isfinite(each.severity) and each.reason for each in found)


def skirts(count, seed=0):
    """Of the right form: landmarks (count, 8, 3) in boxes of 40 x 60 at (10, 20)."""
    rng = np.random.default_rng(seed)
    places = np.array(SKIRT_PLACES) + rng.normal(0, 0.05, (count, 8, 2))
    return np.concatenate([[10, 20] + [40, 60] * places, np.full((count, 8, 1), 2)], axis=2)


def table_of_skirts(keypoints, **options):
    box = np.float32([10, 20, 50, 80])
    garments = [Garment(SKIRT, box, each.astype(np.float32), **options) for each in keypoints]
    return AnnotationTable.from_photos([Photo("1.jpg", 1, 64, 96, garments)], DEEPFASHION2)


def exchanged_in(table):
    found = find_suspicions(table, table.box, check_flip_map(table))
    return [each.garments[0] for each in found if each.kind is SIDES]


def test_exchanged_sides_are_found_and_nothing_else():
    keypoints = skirts(100)
    assert exchanged_in(table_of_skirts(keypoints)) == []
    flip = DEEPFASHION2.local_flip(SKIRT)
    wrong = [3, 40, 99]
    keypoints[wrong] = keypoints[wrong][:, flip]
    keypoints[50, :, :2] = [60, 100] - keypoints[50, :, :2]  # upside down
    keypoints[60, :, 0] = 30  # from the side
    keypoints[40, [0, 2, 3, 7], 2] = 0  # one pair is left to go by: too few
    assert exchanged_in(table_of_skirts(keypoints)) == [3, 99]
    for table in (
        table_of_skirts(keypoints[:29]),  # too few
        table_of_skirts(keypoints, attributes={"viewpoint": 3}),  # from behind
        table_of_skirts(keypoints, iscrowd=True),
    ):
        assert exchanged_in(table) == []


def test_the_severest_exchange_is_the_one_that_is_further_off():
    keypoints = skirts(100)
    flip = DEEPFASHION2.local_flip(SKIRT)
    keypoints[[3, 4]] = keypoints[[3, 4]][:, flip]
    keypoints[3, :, 0] = 30 + 0.8 * (keypoints[3, :, 0] - 30)  # narrower
    found = find_suspicions(table := table_of_skirts(keypoints), table.box, check_flip_map(table))
    severity = {each.garments[0]: each.severity for each in found if each.kind is SIDES}
    assert severity[3] < severity[4]


@pytest.mark.parametrize(
    "photos",
    [[], [Photo("1.jpg", 1, 9, 9, [])], [Photo("1.jpg", 1, 99, 99, [Garment(
        0, np.float32([5, 5, 60, 70]), np.zeros((25, 3), np.float32)
    )])]],
    ids=["nothing", "no garment", "no landmark"],
)  # fmt: skip
def test_nothing_to_suspect(photos):
    table = AnnotationTable.from_photos(photos, DEEPFASHION2)
    assert find_suspicions(table, table.box, check_flip_map(table)) == []


def test_crowds_are_no_garments():
    """Not in the medians of the flip map either."""
    photos = random_photos(0)
    table = AnnotationTable.from_photos(photos, FLD)
    crowds = replace(table, iscrowd=np.ones(table.num_garments, bool))
    assert find_suspicions(crowds, crowds.box, check_flip_map(crowds)) == []
    assert not any(check.garments.any() for check in check_flip_map(crowds))
