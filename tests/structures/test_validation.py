"""The validator against a slow check of one garment after another."""

import math

import numpy as np
import pytest

from kgdet_d2.schema import FLD
from kgdet_d2.structures.annotations import columns_of_photos
from kgdet_d2.structures.photos import Garment, Photo
from kgdet_d2.structures.validation import find_faults, repeated

WIDTH, HEIGHT = 100, 50
LOWER = FLD.class_names.index("lower")
KEYPOINTS = [[20, 10, 2], [30, 10, 1], [20, 40, 0], [30, 40, 2]]
POLYGON = [[1, 2], [3, 4], [5, 6.5]]


def garment(**replaced):
    values = {"category_id": LOWER, "box": [10, 5, 40, 45], "keypoints": KEYPOINTS, "polygons": [POLYGON]}
    values |= replaced
    return Garment(
        category_id=values["category_id"],
        box=np.array(values["box"], np.float32),
        keypoints=np.array(values["keypoints"], np.float32).reshape(-1, 3),
        polygons=[np.array(polygon, np.float32).reshape(-1, 2) for polygon in values["polygons"]],
    )


def photo(image_id, *garments, width=WIDTH, height=HEIGHT):
    return Photo(f"{image_id}.jpg", image_id, width, height, garments)


def faults_of(*photos):
    return list(find_faults(columns_of_photos(photos), FLD))


def with_landmark(row, *values):
    keypoints = [list(each) for each in KEYPOINTS]
    keypoints[row] = values
    return {"keypoints": keypoints}


UNUSABLE = {
    "class below": ({"category_id": -1}, "category_id", "class", "expected 0..2, got -1"),
    "class above": ({"category_id": 3}, "category_id", "class", "expected 0..2, got 3"),
    "NaN in the box": ({"box": [10, math.nan, 40, 45]}, "bbox", "number", "expected finite numbers below"),
    "large box": ({"box": [-(2**24), 5, 40, 45]}, "bbox", "number", "got [-16777216.0, 5.0, 40.0, 45.0]"),
    "no width": ({"box": [10, 5, 10, 45]}, "bbox", "box without area", "got [10.0, 5.0, 10.0, 45.0]"),
    "turned over": ({"box": [10, 45, 40, 5]}, "bbox", "box without area", "expected x1 < x2 and y1 < y2"),
    "right of it": ({"box": [100, 5, 140, 45]}, "bbox", "box outside", "in the photo of 100 x 50 pixels"),
    "above it": ({"box": [10, -9, 40, 0]}, "bbox", "box outside", "got [10.0, -9.0, 40.0, 0.0]"),
    "too few": (
        {"keypoints": KEYPOINTS[:3]},
        *("keypoints", "landmark count", "12 numbers, x y v of 4 landmarks of class 'lower', got 9"),
    ),
    "none": ({"keypoints": []}, "keypoints", "landmark count", "got 0"),
    "infinite": (with_landmark(1, math.inf, 2, 0), "keypoints", "number", "expected finite numbers"),
    "NaN for v": (with_landmark(1, 1, 2, math.nan), "keypoints", "number", "expected finite numbers"),
    "v 3": (with_landmark(2, 1, 2, 3), "keypoints", "visibility", "expected visibility 0, 1 or 2, got 3.0"),
    "v 0.9": (with_landmark(0, 1, 2, 0.9), "keypoints", "visibility", "got 0.9"),
    "v -1": (with_landmark(0, 1, 2, -1), "keypoints", "visibility", "got -1.0"),
}


@pytest.mark.parametrize(("replaced", "name", "kind", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_garment_that_cannot_be_used_is_named(replaced, name, kind, reason):
    (fault,) = faults_of(photo(4), photo(7, garment(), garment(**replaced), garment()), photo(5, garment()))
    assert (fault.image, fault.image_id, fault.garment, fault.part) == (1, 7, 1, "garment")
    assert fault.field == name and fault.kind.startswith(kind) and reason in fault.reason
    assert str(fault) == f"image 7 (7.jpg), garment 2: {name}: {fault.reason}"


@pytest.mark.parametrize("box", [[0, 0, 100, 50], [-50, -50, 1, 1], [99, 49, 500, 500], [-9, -9, 200, 200]])
def test_boxes_that_meet_the_photo(box):
    assert faults_of(photo(1, garment(box=box))) == []


def test_several_faults_of_a_garment():
    wrong = garment(category_id=9, box=[1, 1, 1, 1], **with_landmark(0, math.nan, 1, 5))
    assert [fault.field for fault in faults_of(photo(1, wrong))] == ["category_id", "bbox", "keypoints"]


FAR = [(-10.5, 0), (110.5, 0), (0, -10.5), (0, 60.5), (5000, 5000)]
NEAR = [(-10, -10), (110, 60), (50, 25)]


def test_landmarks_far_outside():
    """A photo of 100 x 50 pixels allows 10 pixels, one of 50 x 200 allows 20."""
    places = NEAR + FAR
    photos = [photo(row, garment(), garment(**with_landmark(1, *xy, 1))) for row, xy in enumerate(places)]
    found = faults_of(*photos)
    assert [fault.image_id for fault in found] == [3, 4, 5, 6, 7]
    assert {(fault.garment, fault.index, fault.part) for fault in found} == {(1, 1, "landmark")}
    assert found[0].reason == (
        "landmark 2: expected at most 10 pixels outside the photo of 100 x 50 pixels, got [-10.5, 0.0]"
    )
    assert faults_of(photo(1, garment(**with_landmark(1, 5000, -5000, 0)))) == []  # not labelled
    assert faults_of(photo(1, garment(**with_landmark(1, -15, 215, 2)), width=50, height=200)) == []


def test_polygons_that_are_none():
    polygons = [POLYGON, [], POLYGON[:2], [*POLYGON, [math.nan, 3]], [[1e30, 2], *POLYGON]]
    found = faults_of(photo(1, garment(), garment(polygons=polygons)))
    assert [(fault.garment, fault.index, fault.part, fault.field) for fault in found] == [
        (1, index, "polygon", "segmentation") for index in (1, 2, 3, 4)
    ]
    assert found[1].reason == "polygon 3: expected 3 points or more, got 2"
    assert found[2].reason.startswith("polygon 4: expected finite numbers below 16777216, got [1.0, 2.0")


def test_parts_of_a_garment_with_another_fault_are_not_looked_at():
    wrong = garment(box=[1, 1, 1, 1], polygons=[[]], **with_landmark(0, 5000, 1, 1))
    assert [fault.kind for fault in faults_of(photo(1, wrong))] == ["box without area"]


def test_photos():
    found = faults_of(photo(5), photo(3, garment()), photo(5), photo(4, width=0), photo(5, height=2**30))
    assert [(fault.image, fault.image_id, fault.field, fault.garment) for fault in found] == [
        (2, 5, "image_id", -1),
        (4, 5, "image_id", -1),
        (3, 4, "size", -1),
        (4, 5, "size", -1),
    ]
    assert {fault.part for fault in found} == {"photo"}
    assert str(found[0]) == "image 5 (5.jpg): image_id: it occurs twice"


@pytest.mark.parametrize("photos", [[], [photo(1)], [photo(1), photo(2, garment(polygons=[]))]])
def test_nothing_is_wrong_with_nothing(photos):
    assert faults_of(*photos) == []


def test_values_that_have_occurred_before():
    assert repeated(np.array([3, 1, 3, 3, 2, 1])).tolist() == [False, False, True, True, False, True]
    assert repeated(np.array([], str)).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_any_mixture_is_judged_garment_by_garment(seed):
    """Each garment's faults are those that it has in a photo of its own."""
    rng = np.random.default_rng(seed)
    kinds = [{}, *(replaced for replaced, *_ in UNUSABLE.values()), {"polygons": [[], POLYGON]}]
    kinds += [with_landmark(row, *xy, 2) for row, xy in enumerate(FAR[:4])]
    photos = [
        photo(image_id, *(garment(**kinds[kind]) for kind in rng.integers(len(kinds), size=rng.integers(4))))
        for image_id in range(30)
    ]
    found = faults_of(*photos)
    for row, each in enumerate(photos):
        for place, alone in enumerate(each.garments):
            expected = [(fault.kind, fault.reason, fault.index) for fault in faults_of(photo(1, alone))]
            mine = [fault for fault in found if (fault.image, fault.garment) == (row, place)]
            assert [(fault.kind, fault.reason, fault.index) for fault in mine] == expected
    assert len(found) > 20
