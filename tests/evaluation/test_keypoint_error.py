"""Landmark errors against plain loops."""

import math

import numpy as np
import pytest

from kgdet_d2.evaluation.keypoint_error import THRESHOLDS, keypoint_errors
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import by_hand, columns
from tests.helpers.plain_matching import plain_match


def plain_errors(truth, predictions, visible_only):
    """For each landmark that counts: class, local index, garment, (NE, NE_box, share of the side) or None."""
    matched = plain_match(truth, predictions, 0.5, True, -1)
    rows = []
    for garment, category in enumerate(truth.category_id.tolist()):
        x1, y1, x2, y2 = truth.box[garment].tolist()
        photo = truth.garment_image[garment]
        if truth.iscrowd[garment]:
            continue
        for local in range(truth.schema.num_class_keypoints(category)):
            x, y, v = truth.keypoints[truth.keypoint_offsets[garment] + local].tolist()
            if v < (2 if visible_only else 1):
                continue
            errors = None
            if garment in matched:
                found = predictions.keypoints[
                    predictions.keypoint_offsets[matched.index(garment)] + local
                ].astype(float)
                dx, dy = found[0] - x, found[1] - y
                errors = (
                    math.hypot(dx / truth.width[photo], dy / truth.height[photo]),
                    math.hypot(dx / (x2 - x1), dy / (y2 - y1)),
                    math.hypot(dx, dy) / max(x2 - x1, y2 - y1),
                )
            rows.append((category, local, garment, errors))
    return rows


def plain_scores(rows):
    found = [errors for *_, errors in rows if errors]
    scores = {
        "garments": len({garment for _, _, garment, _ in rows}),
        "garments_found": len({garment for _, _, garment, errors in rows if errors}),
        "landmarks": len(rows),
        "landmarks_found": len(found),
        "NE": sum(errors[0] for errors in found) / len(found) if found else math.nan,
        "NE_box": sum(errors[1] for errors in found) / len(found) if found else math.nan,
    }
    for t in THRESHOLDS:
        correct = sum(errors[2] <= t for errors in found)
        scores[f"PCK@{t:g}"] = 100 * correct / len(found) if found else math.nan
        scores[f"PCK_all@{t:g}"] = 100 * correct / len(rows) if rows else math.nan
    return scores


@pytest.mark.parametrize("visible_only", [True, False])
@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)
@pytest.mark.parametrize("seed", range(3))
def test_against_plain_loops(make_scene, schema, seed, visible_only):
    scene = make_scene(np.random.default_rng(seed), schema, images=15, classes=[0, 1, 2], crowds=0.1)
    truth, predictions = columns(scene)
    rows = plain_errors(truth, predictions, visible_only)
    errors = keypoint_errors(BoxMatcher(truth, predictions), visible_only=visible_only)
    assert errors.overall()["all"] == pytest.approx(plain_scores(rows))
    for index, scores in enumerate(errors.by_class().values()):
        expected = plain_scores([row for row in rows if row[0] == index])
        assert scores == pytest.approx(expected, nan_ok=True)
    means = []
    for slot, scores in enumerate(errors.by_keypoint().values()):
        expected = plain_scores([row for row in rows if schema.slots[row[0]][row[1]] == slot])
        assert scores == pytest.approx(expected, nan_ok=True)
        means.append(expected)
    mean = errors.overall()["mean of landmarks"]
    for name in ("NE", "NE_box", "PCK@0.1", "PCK_all@0.1"):
        known = [row[name] for row in means if not math.isnan(row[name])]
        assert mean[name] == pytest.approx(sum(known) / len(known))
    assert 0 < mean["garments_found"] < mean["garments"]


def test_by_hand(make_instances):
    """A box of 100 x 50 in a photo of 320 x 240, landmarks 6 right of and 4 below where they belong."""
    skirt, lost = ("skirt", (100, 100, 200, 150)), ("skirt", (0, 0, 40, 40))
    found = ("skirt", (106, 104, 206, 154), 0.4)
    better_but_elsewhere = ("skirt", (130, 104, 230, 154), 0.9)
    errors = keypoint_errors(
        BoxMatcher(*by_hand(make_instances, ([skirt, lost], [better_but_elsewhere, found]))),
        visible_only=True,
    )
    scores = errors.overall()["all"]
    assert scores["NE"] == pytest.approx(math.hypot(6 / 320, 4 / 240))
    assert scores["NE_box"] == pytest.approx(math.hypot(6 / 100, 4 / 50))
    distance = math.hypot(6, 4) / 100  # 0.072
    assert [scores[f"PCK@{t}"] for t in THRESHOLDS] == [100 * (t > distance) for t in THRESHOLDS]
    assert [scores[f"PCK_all@{t}"] for t in THRESHOLDS] == [50 * (t > distance) for t in THRESHOLDS]
    assert (scores["landmarks"], scores["landmarks_found"]) == (16, 8)
    assert errors.by_class()["skirt"] == scores
    assert math.isnan(errors.by_class()["vest"]["NE"])


def test_the_best_score_on_the_garment_speaks(make_instances):
    garment = ("skirt", (100, 100, 200, 200))
    detections = [("skirt", garment[1], 0.5), ("skirt", (110, 100, 210, 200), 0.6), ("vest", garment[1], 0.7)]
    errors = keypoint_errors(BoxMatcher(*by_hand(make_instances, ([garment], detections))), visible_only=True)
    assert errors.image_error == pytest.approx([10 / 320] * 8)


def test_names_of_shared_slots(make_scene):
    truth, predictions = columns(make_scene(np.random.default_rng(0), FLD))
    names = list(keypoint_errors(BoxMatcher(truth, predictions), visible_only=True).by_keypoint())
    assert names == [
        f"{part}_{side}" for part in ("collar", "sleeve", "waistline", "hem") for side in ("left", "right")
    ]
    truth, predictions = columns(make_scene(np.random.default_rng(0)))
    names = list(keypoint_errors(BoxMatcher(truth, predictions), visible_only=True).by_keypoint())
    assert names == list(DEEPFASHION2.slot_names)


@pytest.mark.parametrize("detections", [[], [("skirt", (0, 0, 9, 9), 0.5)]])
@pytest.mark.parametrize("garments", [[], [("skirt", (100, 100, 200, 200))]])
def test_nothing_found(make_instances, garments, detections):
    case = by_hand(make_instances, (garments, detections))
    scores = keypoint_errors(BoxMatcher(*case), visible_only=True).overall()
    for row in scores.values():
        assert math.isnan(row["NE"]) and math.isnan(row["PCK@0.1"])
        assert row["landmarks"] == 8 * len(garments) and row["garments_found"] == 0
        assert row["PCK_all@0.1"] == 0 if garments else math.isnan(row["PCK_all@0.1"])


def test_no_photos_and_boxes_without_size(make_instances):
    truth = AnnotationTable.from_dataset_dicts([], DEEPFASHION2)
    errors = keypoint_errors(BoxMatcher(truth, Predictions.empty(DEEPFASHION2)), visible_only=True)
    assert errors.overall()["all"]["garments"] == 0
    flat = ("skirt", (100, 100, 200, 100))
    case = by_hand(make_instances, ([flat], [(*flat, 0.5)]))
    assert keypoint_errors(BoxMatcher(*case), visible_only=True).overall()["all"]["garments_found"] == 0
