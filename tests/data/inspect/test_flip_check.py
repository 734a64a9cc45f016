"""The flip-map check on drawn garments' landmarks, without photos."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2.data.inspect.flip_check import (
    AGREES,
    CONTRADICTED,
    MIN_GARMENTS,
    OPEN,
    TOO_CLOSE,
    TOO_FEW,
    _best_map,
    check_flip_map,
)
from kgdet_d2.schema import DEEPFASHION2 as SCHEMA
from kgdet_d2.schema import FLD
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo
from kgdet_d2.synthetic.canvas import random_camera
from kgdet_d2.synthetic.figure import random_body
from kgdet_d2.synthetic.fit import fit
from kgdet_d2.synthetic.garments import Garment as DrawnGarment
from kgdet_d2.synthetic.garments import random_design

COUNT = 150  # garments of each class
CLASSES = range(SCHEMA.num_classes)
TOPS = [index for index in CLASSES if {"shoulder_left", "hem_centre"} <= {*SCHEMA.keypoint_names[index]}]
SKIRT = SCHEMA.class_names.index("skirt")
RIGHT = [SCHEMA.local_flip(index) for index in CLASSES]


def drawn_garment(rng: np.random.Generator, category_id: int, viewpoint: int = 2) -> Garment:
    body, design = random_body(rng, flat=False, sideways=False), random_design(rng, category_id)
    camera = random_camera(rng, turn=body.turn, flat=False)
    xy = 500 + 100 * DrawnGarment(design, fit(design, body), style=0).keypoints(camera)
    keypoints = np.column_stack([xy, rng.choice(3, len(xy), p=[0.1, 0.3, 0.6])]).astype(np.float32)
    box = np.concatenate([xy.min(axis=0), xy.max(axis=0)]).astype(np.float32)
    return Garment(category_id, box, keypoints, attributes={"viewpoint": viewpoint})


def in_one_photo(garments, schema=SCHEMA) -> AnnotationTable:
    return AnnotationTable.from_photos([Photo("1.jpg", 1, 1600, 1600, garments)], schema)


@pytest.fixture(scope="module")
def garments():
    """Of each class."""
    rng = np.random.default_rng(7)
    return [[drawn_garment(rng, index) for _ in range(COUNT)] for index in CLASSES]


@pytest.fixture(scope="module")
def annotations(garments):
    return in_one_photo(list(itertools.chain.from_iterable(garments)))


def changed(index, partners):
    """The right maps but for one class, where landmarks (from 0) get the partners of a dict."""
    maps = [flip.copy() for flip in RIGHT]
    maps[index][list(partners)] = list(partners.values())
    assert (maps[index][maps[index]] == np.arange(len(maps[index]))).all()
    return maps


def verdicts(annotations, maps=None):
    return [np.array(check.verdict) for check in check_flip_map(annotations, maps)]


def test_the_right_map_agrees(annotations):
    for check in check_flip_map(annotations):
        assert set(check.verdict) == {AGREES}, SCHEMA.class_names[check.category_id]
        np.testing.assert_array_equal(check.suggested_partner, RIGHT[check.category_id])
        pairs = check.partner != np.arange(len(check.partner))
        assert (check.partner_distance < check.own_distance)[pairs].all()


def test_the_table_that_circulates_is_found(annotations):
    """It has 2-26 and 4-6 (from 1) in short sleeve outwear."""
    checks = check_flip_map(annotations, changed(2, {1: 25, 25: 1, 3: 5, 5: 3}))
    for check in checks:
        wrong = [1, 3, 5, 25] if check.category_id == 2 else []
        assert np.flatnonzero(np.array(check.verdict) == CONTRADICTED).tolist() == wrong
        np.testing.assert_array_equal(check.suggested_partner, RIGHT[check.category_id])


@pytest.mark.parametrize("index", CLASSES)
def test_wrong_maps_are_found_and_named(garments, index):
    annotations = in_one_photo(garments[index])
    place = check_flip_map(annotations)[index].median_xy
    for partners in wrong_partners(np.random.default_rng(index), index):
        check = check_flip_map(annotations, changed(index, partners))[index]
        verdict, moved = np.array(check.verdict), np.array(list(partners))
        away = place[check.partner[moved]] - place[RIGHT[index][moved]]
        if np.sqrt((away**2).sum(axis=1).mean()) > 0.05:  # in the box; nearer, landmarks are all but one
            assert (verdict[moved] == CONTRADICTED).all()
            np.testing.assert_array_equal(check.suggested_partner, RIGHT[index])
        else:
            assert np.isin(verdict[moved], (CONTRADICTED, TOO_CLOSE)).all()
        assert (np.delete(verdict, moved) == AGREES).all()


def wrong_partners(rng, index):
    """Two pairs that exchange partners or sides, a pair that is none, a centre that is one's partner."""
    flip = RIGHT[index]
    pairs = [(i, int(j)) for i, j in enumerate(flip) if i < j]
    centres = np.flatnonzero(flip == np.arange(len(flip)))
    for _ in range(4):
        (a, b), (c, d) = rng.permutation(pairs)[:2].tolist()
        yield {a: d, d: a, b: c, c: b}
        yield {a: c, c: a, b: d, d: b}
        yield {a: a, b: b}
        if len(centres):
            centre = int(rng.choice(centres))
            yield {a: centre, centre: a, b: b}


@pytest.mark.parametrize("index", TOPS)
def test_a_contour_that_is_off_by_one_is_found(garments, index):
    """No exchange of two partners mends it."""
    start, last = SCHEMA.keypoint_names[index].index("shoulder_left"), len(RIGHT[index]) - 1
    partners = {landmark: start + last - 1 - landmark for landmark in range(start, last)} | {last: last}
    check = check_flip_map(in_one_photo(garments[index]), changed(index, partners))[index]
    assert (np.array(check.verdict)[start:] == CONTRADICTED).all()
    np.testing.assert_array_equal(check.suggested_partner, RIGHT[index])


def test_garments_cut_off_at_one_side_are_no_contradiction(annotations):
    """Their box ends where the photo ends, so that the mirror is not in the box's middle."""
    keypoints, box = annotations.keypoints.copy(), annotations.box.copy()
    rng = np.random.default_rng(0)
    for garment in range(0, len(box), 2):
        rows = slice(*annotations.keypoint_offsets[garment : garment + 2])
        edge = box[garment, 0] + rng.uniform(0.55, 0.9) * (box[garment, 2] - box[garment, 0])
        keypoints[rows][keypoints[rows][:, 0] > edge, 2] = 0
        box[garment, 2] = edge
    for verdict in verdicts(replace(annotations, keypoints=keypoints, box=box)):
        assert CONTRADICTED not in verdict and (verdict == AGREES).mean() > 0.8


@pytest.mark.parametrize("pixels", [8, 20])
def test_landmarks_in_the_same_pixels_are_no_contradiction(annotations, pixels):
    side = np.repeat(
        annotations.box[:, 2:] - annotations.box[:, :2], np.diff(annotations.keypoint_offsets), 0
    )
    low = np.repeat(annotations.box[:, :2], np.diff(annotations.keypoint_offsets), 0)
    keypoints = annotations.keypoints.copy()
    keypoints[:, :2] = np.round(pixels * (keypoints[:, :2] - low) / side)
    box = np.tile(np.float32([0, 0, pixels, pixels]), (len(annotations.box), 1))
    assert all(CONTRADICTED not in v for v in verdicts(replace(annotations, keypoints=keypoints, box=box)))


def test_careless_clicks_are_no_contradiction(annotations):
    rng = np.random.default_rng(2)
    width = np.repeat(np.ptp(annotations.box[:, ::2], axis=1), np.diff(annotations.keypoint_offsets))
    keypoints = annotations.keypoints.copy()
    keypoints[:, :2] += rng.normal(0, 0.1, (len(keypoints), 2)) * width[:, None]
    assert all(CONTRADICTED not in verdict for verdict in verdicts(replace(annotations, keypoints=keypoints)))


def test_few_garments_and_none_tell_nothing(annotations):
    rng = np.random.default_rng(3)
    few = in_one_photo([drawn_garment(rng, 8) for _ in range(20)])
    for nothing in (few, in_one_photo([]), AnnotationTable.from_photos([], SCHEMA)):
        for check in check_flip_map(nothing, changed(8, {0: 0, 2: 2})):
            assert set(check.verdict) == {TOO_FEW}
            np.testing.assert_array_equal(check.suggested_partner, check.partner)
    assert np.isnan(check.median_xy).all() and np.isnan(check.partner_distance).all()


def test_a_landmark_that_is_never_labelled_is_left_out(annotations):
    keypoints = annotations.keypoints.copy()
    skirts = annotations.keypoint_offsets[:-1][annotations.category_id == 8]
    keypoints[skirts + 4] = 0  # hem_left
    check = check_flip_map(replace(annotations, keypoints=keypoints))[8]
    assert [check.verdict.index(TOO_FEW), check.verdict.count(TOO_FEW)] == [4, 2]
    assert check.verdict[6] == TOO_FEW and check.garments[4] == 0 and np.isnan(check.median_xy[4]).all()
    assert [verdict for i, verdict in enumerate(check.verdict) if i not in (4, 6)] == [AGREES] * 6


def test_only_frontal_garments_count():
    """Garments from behind have left and right exchanged here; frontal ones tell how it should be."""
    rng = np.random.default_rng(4)
    frontal = [drawn_garment(rng, 8) for _ in range(60)]
    others = [drawn_garment(rng, 8, viewpoint) for viewpoint in (1, 3) for _ in range(60)]
    others = [replace(each, keypoints=each.keypoints[[0, 2, 1, 3, 4, 5, 6, 7]]) for each in others]
    everyone = [replace(each, attributes={}) for each in others]
    assert set(verdicts(in_one_photo(frontal + others))[8]) == {AGREES}
    assert CONTRADICTED in verdicts(in_one_photo(everyone))[8]


def test_boxes_without_area_are_left_out(annotations):
    box = annotations.box.copy()
    box[: COUNT - 10, 2] = box[: COUNT - 10, 0]
    checks = check_flip_map(replace(annotations, box=box))
    assert set(checks[0].verdict) == {TOO_FEW} and set(checks[1].verdict) == {AGREES}


def test_classes_that_share_slots_and_have_no_attributes():
    """FLD's: six, four and eight landmarks, collar to hem in pairs."""
    rng = np.random.default_rng(5)
    garments = []
    for index in range(FLD.num_classes):
        y = np.repeat(np.linspace(10, 90, FLD.num_class_keypoints(index) // 2), 2)
        x = np.tile([20, 80], FLD.num_class_keypoints(index) // 2) + rng.normal(0, 3, (40, len(y)))
        for row in x:
            keypoints = np.column_stack([row, y, np.full(len(y), 2)]).astype(np.float32)
            garments.append(Garment(index, np.float32([0, 0, 100, 100]), keypoints))
    annotations = in_one_photo(garments, FLD)
    assert all(set(check.verdict) == {AGREES} for check in check_flip_map(annotations))
    crossed = [FLD.local_flip(0), np.array([3, 2, 1, 0]), FLD.local_flip(2)]
    found = [set(check.verdict) for check in check_flip_map(annotations, crossed)]
    assert found == [{AGREES}, {CONTRADICTED}, {AGREES}]


def test_the_best_map_is_the_best_of_all():
    """Against every involution of six landmarks, and squared distances of the mirrored ones."""
    rng = np.random.default_rng(6)
    maps = [np.array(p) for p in itertools.permutations(range(6)) if all(p[p[i]] == i for i in range(6))]
    assert len(maps) == 76
    for _ in range(20):
        place = rng.normal(size=(6, 2))
        difference = place[:, None] - place[None]
        mirrored = place * [-1, 1] + [2 * rng.normal(), 0]  # wherever the mirror stands
        best = min(maps, key=lambda flip: ((mirrored - place[flip]) ** 2).sum())
        gain = difference[..., 0] ** 2 - difference[..., 1] ** 2
        np.testing.assert_array_equal(_best_map(gain, np.arange(6)), best)


def test_a_class_that_the_schema_leaves_open_gets_its_pairs_suggested(garments):
    pairs = list(SCHEMA.flip_pairs)
    pairs[SKIRT] = None
    schema = replace(SCHEMA, flip_pairs=tuple(pairs))
    for count, verdict in ((COUNT, OPEN), (MIN_GARMENTS - 1, TOO_FEW)):
        chosen = [*garments[SKIRT][:count], *garments[0]]
        checks = check_flip_map(in_one_photo(chosen, schema))
        open_one = checks[SKIRT]
        assert set(open_one.verdict) == {verdict}
        assert open_one.partner.tolist() == list(range(8))
        expected = RIGHT[SKIRT] if verdict == OPEN else open_one.partner
        assert open_one.suggested_partner.tolist() == expected.tolist()
        assert set(checks[0].verdict) == {AGREES}
