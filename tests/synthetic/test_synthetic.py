"""The generator of drawn photos: form, geometry and honesty of its annotations."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic import generate_photo
from kgdet_d2.synthetic.annotate import annotate, draw_annotation
from kgdet_d2.synthetic.canvas import Canvas, Layer, random_camera, smooth_outline
from kgdet_d2.synthetic.figure import random_body
from kgdet_d2.synthetic.fit import fit
from kgdet_d2.synthetic.garments import Garment, pieces_of, random_design
from kgdet_d2.synthetic.render import paint_piece

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "deepfashion2_sample" / "validation" / "annos"
SIZE = 160
ITEM_KEYS = {
    *("segmentation", "scale", "viewpoint", "zoom_in", "landmarks", "style", "bounding_box"),
    *("category_id", "occlusion", "category_name"),
}


def items_of(annotation):
    return [value for key, value in annotation.items() if key.startswith("item")]


def marks_of(item):
    return np.array(item["landmarks"]).reshape(-1, 3)


@pytest.fixture(scope="module")
def photos():
    return [generate_photo(index, seed=11, size=SIZE) for index in range(96)]


@pytest.fixture(scope="module")
def pairs(photos):
    """Every (photo, item)."""
    return [(photo, item) for photo in photos for item in items_of(photo.annotation)]


def test_a_photo_depends_on_its_arguments_alone(photos):
    again = generate_photo(5, seed=11, size=SIZE)
    np.testing.assert_array_equal(again.image, photos[5].image)
    assert again.annotation == photos[5].annotation
    for other in ({"seed": 12}, {"split": "validation"}):
        changed = generate_photo(5, **{"seed": 11, "size": SIZE, **other})
        assert changed.annotation != photos[5].annotation


def test_photos_have_the_asked_for_size(photos):
    shapes = np.array([photo.image.shape for photo in photos])
    assert (shapes[:, :2].max(axis=1) == SIZE).all()
    assert (shapes[:, :2].min(axis=1) >= 0.75 * SIZE - 1).all()
    assert all(photo.image.dtype == np.uint8 for photo in photos)
    assert len(set(map(tuple, shapes))) > 5


def test_all_classes_occur_with_one_to_three_garments(photos, pairs):
    counts = np.bincount([item["category_id"] for _, item in pairs], minlength=14)
    assert counts[0] == 0 and (counts[1:] >= 4).all()
    assert {len(items_of(photo.annotation)) for photo in photos} == {1, 2, 3}


def test_annotation_has_deepfashion2s_form(photos, pairs):
    for photo in photos:
        count = len(items_of(photo.annotation))
        expected = {"source", "pair_id", *(f"item{number}" for number in range(1, count + 1))}
        assert set(photo.annotation) == expected
        assert photo.annotation["source"] in ("user", "shop")
        assert json.loads(json.dumps(photo.annotation)) == photo.annotation
    for _, item in pairs:
        category = item["category_id"] - 1
        assert set(item) == ITEM_KEYS
        assert item["category_name"] == DEEPFASHION2.class_names[category]
        assert len(item["landmarks"]) == 3 * DEEPFASHION2.num_class_keypoints(category)
        assert all(item[grade] in (1, 2, 3) for grade in ("scale", "occlusion", "zoom_in", "viewpoint"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the sample of real photos is not here")
def test_annotation_has_the_keys_and_types_of_a_real_one(photos):
    real = json.loads(sorted(REAL.glob("*.json"))[0].read_text())
    ours = photos[0].annotation
    assert {"source", "pair_id", "item1"} <= set(real) & set(ours)
    assert set(real["item1"]) == set(ours["item1"])
    for key, value in real["item1"].items():
        assert type(ours["item1"][key]) is type(value), key


def test_a_pair_of_photos_shares_its_article(photos):
    for index in range(0, len(photos), 2):
        pair = [photo.annotation for photo in photos[index : index + 2]]
        assert {annotation["pair_id"] for annotation in pair} == {index // 2 + 1}
        shared = [item["category_id"] for a in pair for item in items_of(a) if item["style"] == 1]
        assert len(shared) <= 2 and len(set(shared)) <= 1


def test_landmarks_lie_in_the_frame_or_are_zero(pairs):
    for photo, item in pairs:
        height, width = photo.image.shape[:2]
        x, y, v = marks_of(item).T
        assert set(v) <= {0.0, 1.0, 2.0}
        assert (x[v == 0] == 0).all() and (y[v == 0] == 0).all()
        assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()


def test_visible_covered_and_absent_landmarks_all_occur(pairs):
    v = np.concatenate([marks_of(item)[:, 2] for _, item in pairs])
    shares = [(v == value).mean() for value in (0, 1, 2)]
    assert shares[0] > 0.01 and 0.08 < shares[1] < 0.35 and shares[2] > 0.6


def test_boxes_hold_landmarks_and_visible_region(pairs):
    for photo, item in pairs:
        x1, y1, x2, y2 = item["bounding_box"]
        height, width = photo.image.shape[:2]
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        x, y, v = marks_of(item).T
        assert ((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2))[v > 0].all()
        region = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in item["segmentation"]])
        assert (region >= (x1, y1)).all() and (region <= (x2, y2)).all()


def test_polygons_are_polygons(pairs):
    for _, item in pairs:
        assert item["segmentation"]
        for polygon in item["segmentation"]:
            assert len(polygon) >= 6 and len(polygon) % 2 == 0


def test_visible_landmarks_lie_on_their_garments_visible_region(pairs):
    distances = []
    for _, item in pairs:
        polygons = [np.int32(polygon).reshape(-1, 1, 2) for polygon in item["segmentation"]]
        for x, y, v in marks_of(item):
            if v == 2:
                inside = [cv2.pointPolygonTest(polygon, (x, y), True) for polygon in polygons]
                distances.append(-max(inside))
    assert np.mean(np.array(distances) <= 2) > 0.99
    assert max(distances) < 5


def test_left_is_the_images_left_on_upright_frontal_photos(pairs):
    """Left x < right x for every mirrored pair of names, nearly always."""
    orders = {}
    for _, item in pairs:
        if item["viewpoint"] != 2:
            continue
        category = item["category_id"] - 1
        names, flip = DEEPFASHION2.keypoint_names[category], DEEPFASHION2.local_flip(category)
        marks = marks_of(item)
        for index, name in enumerate(names):
            if "left" in name and marks[index, 2] and marks[flip[index], 2]:
                orders.setdefault((category, name), []).append(marks[index, 0] < marks[flip[index], 0])
    assert len(orders) > 100
    assert all(np.mean(order) > 0.5 for order in orders.values())
    assert np.mean([value for order in orders.values() for value in order]) > 0.98


@pytest.mark.parametrize("category", range(13))
def test_fit_places_every_landmark_from_top_to_bottom(category):
    rng = np.random.default_rng(category)
    points = fit(random_design(rng, category), random_body(rng, flat=True, sideways=False))
    names = DEEPFASHION2.keypoint_names[category]
    assert set(names) <= set(points)
    for upper, lower in (
        ("neck_left", "armpit_left"),
        ("armpit_left", "hem_left"),
        ("waist_left", "hem_left"),
    ):
        if upper in points and lower in points:
            assert points[upper][1] < points[lower][1]
    for name in names:
        if "left" in name:  # laid flat, a garment is nearly symmetrical: opposite sides of the middle line
            assert points[name][0] < 0 < points[name.replace("left", "right")][0]


def test_sleeves_and_legs_tell_the_classes_apart():
    """Long sleeves end near the wrist and short ones above the elbow; shorts end above the knee."""
    for category, name in enumerate(DEEPFASHION2.class_names):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            body = random_body(rng, flat=False, sideways=False)
            points = fit(random_design(rng, category), body)
            if "cuff_outer_left" in points:
                joints = body.arms[0].joints
                cuff = 0.5 * (points["cuff_outer_left"] + points["cuff_inner_left"])[:2]
                nearer_wrist = np.linalg.norm(cuff - joints[2]) < np.linalg.norm(cuff - joints[0])
                assert nearer_wrist == name.startswith("long")
            if name in ("shorts", "trousers"):
                knee = body.legs[0].joints[1, 1]
                assert (points["hem_outer_left"][1] > knee) == (name == "trousers")


def _painted_trousers():
    rng = np.random.default_rng(0)
    body = random_body(rng, flat=True, sideways=False)
    design = random_design(rng, DEEPFASHION2.class_names.index("trousers"))
    garment = Garment(design, fit(design, body), style=0)
    stops = np.stack(list(garment.points.values()))
    camera = random_camera(rng, turn=0.0, flat=False).fit_to_box(stops, np.array([20.0, 20.0, 180.0, 180.0]))
    canvas = Canvas(np.zeros((200, 200, 3), dtype=np.uint8))
    garment.pieces[1] = pieces_of(design, body, layer=Layer.INNER)[0]
    paint_piece(canvas, camera, rng, garment, 1)
    return garment, canvas, camera


def test_what_is_painted_over_is_covered():
    garment, canvas, camera = _painted_trousers()
    free = annotate(garment, canvas, camera, viewpoint=1)
    assert (marks_of(free)[:, 2] == 2).all()
    assert (free["occlusion"], free["zoom_in"], free["viewpoint"]) == (1, 1, 1)
    canvas.fill(np.array([[0, 110], [200, 110], [200, 200], [0, 200.0]]), np.zeros(3))
    covered = annotate(garment, canvas, camera, viewpoint=1)
    y, v = marks_of(covered)[:, 1:].T
    assert (v[y < 106] == 2).all() and (v[y > 114] == 1).all()
    assert covered["occlusion"] > 1
    assert covered["bounding_box"] == free["bounding_box"]
    assert max(max(polygon[1::2]) for polygon in covered["segmentation"]) <= 111


def test_drawn_annotation_marks_visible_and_covered_landmarks():
    garment, canvas, camera = _painted_trousers()
    canvas.fill(np.array([[0, 110], [200, 110], [200, 200], [0, 200.0]]), np.zeros(3))
    item = annotate(garment, canvas, camera, viewpoint=1)
    page = draw_annotation(canvas.image[:, :150], {"source": "shop", "item1": item}, side=400)
    assert page.shape == (400, 400, 3)
    assert (page[:, 300:] == 255).all()  # paper beside the photo, which is enlarged to 300 x 400
    colours = {1: (40, 40, 230), 2: (255, 255, 255)}
    inside = [mark for mark in marks_of(item) if mark[0] < 145]
    assert {v for _, _, v in inside} == {1, 2}
    for x, y, v in inside:
        assert tuple(page[round(2 * y), round(2 * x)].tolist()) == colours[int(v)]


def test_smooth_outline_goes_through_its_points():
    points = np.random.default_rng(0).normal(size=(7, 2))
    corners = np.arange(7) % 3 == 0
    curve = smooth_outline(points, corners, samples=5)
    np.testing.assert_allclose(curve[::5], points)
    straight = smooth_outline(points, np.ones(7, dtype=bool), samples=2)
    np.testing.assert_allclose(straight[1::2], 0.5 * (points + np.roll(points, -1, axis=0)))


@pytest.mark.parametrize("bad", [{"index": -1}, {"seed": -1}, {"size": 0}, {"split": "test"}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        generate_photo(**{"index": 0, **bad})
