"""Oracles by hand, and against plain loops over all K landmarks."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.oracle import (
    ORACLES,
    Oracle,
    apply_oracle,
    garments_of_detections,
    matched_summary,
    oracle_scores,
)
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures._columns import declared_columns
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import CLASSES, by_hand, columns
from tests.helpers.plain_matching import plain_match, plain_pairs

BOX = (100, 100, 200, 200)
NEAR = (100, 100, 200, 182)  # IoU 0.82 with BOX: seven of COCO's ten thresholds
FAR = (100, 100, 200, 162)  # 0.62: three
OUTSIDE = (100, 100, 200, 145)  # 0.45
AWAY = (0, 0, 50, 50)
AS_IT_IS, CLASS, BOXES, HALVED, QUARTERED, KEYPOINTS, CLASS_KEYPOINTS, EVERYTHING = ORACLES


def scores(case):
    """{oracle: (box AP, box AP50, landmark AP, landmark AP50)}"""
    return {
        name: (*row["bbox"].values(), *row["keypoints"].values())
        for name, row in oracle_scores(BoxMatcher(*case)).items()
    }


def approx(*values):
    return pytest.approx(values, abs=1e-9, nan_ok=True)


def class_of(case, name):
    return apply_oracle(BoxMatcher(*case), ORACLES[name]).category_id.tolist()


# --- by hand ---


def test_a_wrong_class(make_instances):
    """Detected landmarks lie in the middle of NEAR, nine pixels from the garment's, which matters to none."""
    found = scores(by_hand(make_instances, ([("skirt", BOX)], [("shorts", NEAR, 0.9)])))
    for name in (AS_IT_IS, BOXES, HALVED, QUARTERED, KEYPOINTS):
        assert found[name] == approx(0, 0, 0, 0)
    assert found[CLASS] == approx(70, 100, math.nan, math.nan)
    assert found[CLASS_KEYPOINTS] == approx(70, 100, 100, 100)
    assert found[EVERYTHING] == approx(100, 100, 100, 100)


def oks(distance, keypoint_slots, area):
    sigmas = np.array(DEEPFASHION2.sigmas)[list(keypoint_slots)]
    return np.exp(-(distance**2) / (2 * area * (2 * sigmas) ** 2)).mean()


def test_a_wrong_place(make_instances):
    """A box of IoU 0.88, of which eight thresholds are no more, with its middle 6 pixels from that of BOX."""
    found = scores(by_hand(make_instances, ([("skirt", BOX)], [("skirt", (100, 100, 200, 188), 0.9)])))
    slots = DEEPFASHION2.slots[CLASSES["skirt"]]
    thresholds = np.linspace(0.5, 0.95, 10)
    landmarks = {}
    for name, distance in {AS_IT_IS: 6, HALVED: 3, QUARTERED: 1.5, KEYPOINTS: 0}.items():
        reached = oks(distance, slots, 100 * 100) >= thresholds
        landmarks[name] = (100 * reached.mean(), 100 * reached[0])
    assert 0 < landmarks[AS_IT_IS][0] < landmarks[HALVED][0] < 100  # so that the test can fail
    for name, expected in landmarks.items():
        assert found[name] == approx(80, 100, *expected)
    assert found[BOXES] == approx(100, 100, *landmarks[AS_IT_IS])
    assert found[CLASS] == approx(80, 100, math.nan, math.nan)
    assert found[CLASS_KEYPOINTS] == approx(80, 100, 100, 100)
    assert found[EVERYTHING] == approx(100, 100, 100, 100)


def test_a_second_detection_of_the_right_class_is_a_false_positive(make_instances):
    """The wrong class has the higher score and the worse box: it takes the garment at three thresholds, and
    halves the precision at four more."""
    detections = [("shorts", FAR, 0.9), ("skirt", NEAR, 0.5)]
    case = by_hand(make_instances, ([("skirt", BOX)], detections))
    found = scores(case)
    assert found[AS_IT_IS][:2] == approx(70, 100)
    assert found[CLASS][:2] == approx(3 * 10 + 4 * 5, 100)
    assert found[EVERYTHING] == approx(100, 100, 100, 100)
    assert class_of(case, CLASS) == [CLASSES["skirt"]] * 2


def test_what_is_missed_stays_missed_and_what_is_false_stays_false(make_instances):
    """A recall of 0.5, that is 51 of 101 points, with a false detection before the right one or after it."""
    for score, precision in ((0.3, 1), (0.9, 0.5)):
        photo = ([("skirt", BOX)], [("skirt", BOX, 0.5), ("skirt", AWAY, score)])
        found = scores(by_hand(make_instances, photo, ([("skirt", BOX)], [])))
        expected = 100 * 51 / 101 * precision
        assert found[EVERYTHING] == approx(*[expected] * 4)
        assert found[CLASS][:2] == approx(expected, expected)


def test_an_iou_of_less_than_half_changes_nothing(make_instances):
    case = by_hand(make_instances, ([("skirt", BOX)], [("skirt", OUTSIDE, 0.9), ("shorts", OUTSIDE, 0.8)]))
    for oracle in ORACLES.values():
        changed = apply_oracle(BoxMatcher(*case), oracle)
        for name in ("category_id", "box", "score"):
            assert np.array_equal(getattr(changed, name), getattr(case[1], name))
    assert {row[:2] for row in scores(case).values()} == {(0, 0)}


def test_a_detection_with_a_garment_of_its_class_keeps_its_class(make_instances):
    """Even where it overlaps another more: FAR has IoU 0.62 with the skirt and 1 with the shorts."""
    garments = [("skirt", BOX), ("shorts", FAR)]
    case = by_hand(make_instances, (garments, [("skirt", FAR, 0.9), ("skirt", FAR, 0.8), ("vest", FAR, 0.7)]))
    assert class_of(case, CLASS) == [CLASSES[name] for name in ("skirt", "skirt", "shorts")]
    assert garments_of_detections(BoxMatcher(*case), any_class=False).tolist() == [0, 0, -1]


def test_two_garments_and_two_detections_that_overlap_the_same_one_more(make_instances):
    """COCO's matching gives each a garment, so that true boxes find both."""
    shifted = (110, 100, 210, 200)  # IoU 0.82 with BOX
    case = by_hand(
        make_instances,
        ([("skirt", BOX), ("skirt", shifted)], [("skirt", BOX, 0.9), ("skirt", (104, 100, 204, 200), 0.8)]),
    )
    assert garments_of_detections(BoxMatcher(*case), any_class=False).tolist() == [0, 1]
    assert scores(case)[BOXES][:2] == approx(100, 100)


def test_detections_on_a_crowd_stay(make_instances):
    garments = [("skirt", BOX, {"iscrowd": 1}), ("shorts", NEAR)]
    case = by_hand(make_instances, (garments, [("skirt", NEAR, 0.9), ("vest", NEAR, 0.8)]))
    assert class_of(case, CLASS) == [CLASSES["skirt"], CLASSES["shorts"]]
    assert garments_of_detections(BoxMatcher(*case), any_class=True).tolist() == [-1, 1]


def test_a_garment_without_landmarks_whose_detection_gets_its_class_is_ignored(make_instances):
    count = DEEPFASHION2.num_class_keypoints(CLASSES["skirt"])
    bare = ("skirt", BOX, {"keypoints": [0, 0, 0] * count})
    case = by_hand(
        make_instances,
        ([bare], [("shorts", NEAR, 0.9)]),
        ([("skirt", BOX)], [("skirt", BOX, 0.5)]),
    )
    assert len(case[1].wide_detection) == 0
    found = scores(case)
    assert found[CLASS_KEYPOINTS][2:] == approx(100, 100)
    assert apply_oracle(BoxMatcher(*case), ORACLES[CLASS_KEYPOINTS]).wide_detection.tolist() == [0]


def test_unlabelled_landmarks_stay_as_predicted(make_instances):
    slots = DEEPFASHION2.slots[CLASSES["skirt"]]
    keypoints = np.tile([150.0, 150.0, 2.0], (len(slots), 1))
    keypoints[1] = 0
    keypoints[2, 2] = 1  # occluded: labelled
    garment = ("skirt", BOX, {"keypoints": keypoints.ravel().tolist()})
    case = by_hand(make_instances, ([garment], [("skirt", NEAR, 0.9)]))
    changed = apply_oracle(BoxMatcher(*case), Oracle(keypoint_error=0.0)).keypoints
    expected = np.tile([150.0, 150.0], (len(slots), 1))
    expected[1, 1] = 141  # the middle of NEAR
    assert np.array_equal(changed, expected)


# --- against plain loops ---


def plain_garments(truth, predictions, any_class):
    matched = plain_match(truth, predictions, 0.5, True, -1)
    garments = []
    for row, pairs in plain_pairs(truth, predictions).items():
        garment = matched[row]
        near = {g: iou for g, iou in pairs.items() if iou >= 0.5 and not truth.iscrowd[g]}
        same = {g: iou for g, iou in near.items() if truth.category_id[g] == predictions.category_id[row]}
        if garment < 0 and same:
            garment = max(same, key=same.get)
        if garment < 0 and near and any_class:
            garment = max(near, key=near.get)
        garments.append(-1 if garment >= 0 and truth.iscrowd[garment] else garment)
    return garments


def plain_outputs(scene, truth, garments, oracle):
    """The scene's Instances with all K landmarks, changed one number at a time."""
    rows, outputs = iter(garments), []
    for output in scene.outputs:
        boxes, classes = output.pred_boxes.tensor.clone(), output.pred_classes.clone()
        keypoints = output.pred_keypoints.clone()
        for i in range(len(output)):
            garment = next(rows)
            if garment < 0:
                continue
            category, box = int(truth.category_id[garment]), truth.box[garment]
            if oracle.true_class and classes[i] != category:
                classes[i] = category
                keypoints[i, :, 0] = float((box[0] + box[2]) / 2)
                keypoints[i, :, 1] = float((box[1] + box[3]) / 2)
            if oracle.true_box:
                boxes[i] = torch.from_numpy(box)
            own = truth.keypoints[slice(*truth.keypoint_offsets[garment : garment + 2])].tolist()
            for slot, (x, y, v) in zip(scene.schema.slots[category], own, strict=True):
                if v and oracle.keypoint_error < 1:
                    for axis, true in enumerate((x, y)):
                        wrong = float(keypoints[i, slot, axis]) - true
                        keypoints[i, slot, axis] = true + oracle.keypoint_error * wrong
        changed = type(output)(output.image_size, **output.get_fields())
        changed.pred_boxes, changed.pred_classes, changed.pred_keypoints = Boxes(boxes), classes, keypoints
        outputs.append(changed)
    return outputs


def random_case(make_scene, seed):
    """Some garments bare, some crowds, and half of the found ones with a wrong class."""
    rng = np.random.default_rng(seed)
    schema = FLD if seed % 2 else DEEPFASHION2
    scene = make_scene(rng, schema, images=15, classes=[0, 1, 2], crowds=0.1)
    for output in scene.outputs:
        wrong = torch.from_numpy(rng.random(len(output)) < 0.5)
        output.pred_classes[wrong] = torch.from_numpy(rng.integers(0, 3, int(wrong.sum())))
    return scene, *columns(scene)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("oracle", [*ORACLES.values(), Oracle(true_class=True, true_box=True)], ids=str)
def test_against_plain_loops(make_scene, seed, oracle):
    scene, truth, predictions = random_case(make_scene, seed)
    matcher = BoxMatcher(truth, predictions)
    garments = plain_garments(truth, predictions, oracle.true_class)
    assert garments_of_detections(matcher, any_class=oracle.true_class).tolist() == garments
    found = apply_oracle(matcher, oracle)
    scene.outputs = plain_outputs(scene, truth, garments, oracle)
    _, expected = columns(scene)
    alone = oracle.true_class and oracle.keypoint_error > 0
    assert found.has_keypoints is not alone
    for name in declared_columns(Predictions):
        column = getattr(found, name)
        assert column.dtype == getattr(expected, name).dtype
        if alone and ("keypoints" in name or "wide" in name):
            assert len(column) == 0
        else:
            assert np.allclose(column, getattr(expected, name), rtol=1e-6, atol=0), name


@pytest.mark.parametrize("seed", range(4))
def test_the_table_is_the_evaluation_of_each_oracles_detections(make_scene, seed):
    _, truth, predictions = random_case(make_scene, seed)
    matcher = BoxMatcher(truth, predictions)
    table = oracle_scores(matcher)
    assert list(table) == list(ORACLES)
    for name, oracle in ORACLES.items():
        results = average_precisions(truth, apply_oracle(matcher, oracle))
        for task, row in table[name].items():
            summary = results[task][0].summary() if task in results else {}
            expected = {score: summary.get(score, math.nan) for score in ("AP", "AP50")}
            assert row == pytest.approx(expected, nan_ok=True)
    assert table[AS_IT_IS]["bbox"]["AP"] < table[CLASS]["bbox"]["AP"] < table[EVERYTHING]["bbox"]["AP"]
    landmarks = [table[name]["keypoints"]["AP"] for name in (AS_IT_IS, HALVED, QUARTERED, KEYPOINTS)]
    assert landmarks == sorted(landmarks) and landmarks[0] < landmarks[-1]


def test_the_predictions_given_are_not_modified(make_scene):
    _, truth, predictions = random_case(make_scene, 0)
    before = {name: getattr(predictions, name).copy() for name in declared_columns(Predictions)}
    oracle_scores(BoxMatcher(truth, predictions))
    for name, column in before.items():
        assert np.array_equal(getattr(predictions, name), column)


# --- with nothing there ---


def test_nothing_detected(make_scene):
    truth, _ = columns(make_scene(np.random.default_rng(0)))
    matcher = BoxMatcher(truth, Predictions.empty(DEEPFASHION2))
    for name, row in oracle_scores(matcher).items():
        assert set(row["bbox"].values()) == {0}
        landmarks = list(row["keypoints"].values())
        assert landmarks == approx(math.nan, math.nan) if name == CLASS else landmarks == [0, 0]
    summary = matched_summary(matcher)
    assert summary["garments"] == truth.num_garments > 0
    assert summary["found"] == summary["compared"] == 0
    assert all(math.isnan(summary[key]) for key in ("right_class", "median_IoU", "landmark_error"))


def test_no_garments(make_instances):
    case = by_hand(make_instances, ([], [("skirt", BOX, 0.9)]), ([], []))
    assert all(row == approx(*[math.nan] * 4) for row in scores(case).values())
    assert matched_summary(BoxMatcher(*case))["garments"] == 0


def test_boxes_alone(make_scene):
    scene, truth, predictions = random_case(make_scene, 0)
    expected = oracle_scores(BoxMatcher(truth, predictions))
    for output in scene.outputs:
        output.remove("pred_keypoints")
    matcher = BoxMatcher(*columns(scene))
    for name, row in oracle_scores(matcher).items():
        assert row["bbox"] == expected[name]["bbox"]
        assert all(map(math.isnan, row["keypoints"].values()))
    summary, whole = matched_summary(matcher), matched_summary(BoxMatcher(truth, predictions))
    assert summary["compared"] == 0 and math.isnan(summary["common_shift"])
    assert summary["right_class"] == whole["right_class"] and summary["median_IoU"] == whole["median_IoU"]


# --- how true detections are ---


def test_a_shift_and_a_spread(make_instances):
    """Boxes of 100 pixels; landmarks off by 10 all alike, then by 10 to the left and the right in turns."""
    case = by_hand(make_instances, *[([("trousers", BOX)], [("trousers", BOX, 0.9)])] * 2)
    keypoints = case[1].keypoints
    assert len(keypoints) == 28  # 14 of each photo
    keypoints[:14] += (6, 8)
    keypoints[14:, 0] += np.tile([10, -10], 7)
    summary = matched_summary(BoxMatcher(*case))
    assert summary["landmark_error"] == pytest.approx(0.1)
    assert summary["common_shift"] == pytest.approx((0.1 + 0) / 2)
    assert (summary["garments"], summary["found"], summary["compared"]) == (2, 2, 2)
    assert (summary["right_class"], summary["median_IoU"]) == (100, pytest.approx(1))


def test_class_and_box_are_those_of_the_best_score(make_instances):
    photos = [
        ([("skirt", BOX)], [("shorts", NEAR, 0.9), ("skirt", BOX, 0.8)]),
        ([("skirt", BOX)], [("skirt", FAR, 0.9)]),
        ([("skirt", BOX)], [("skirt", OUTSIDE, 0.9)]),
        ([("skirt", BOX, {"iscrowd": 1})], [("skirt", BOX, 0.9)]),
    ]
    summary = matched_summary(BoxMatcher(*by_hand(make_instances, *photos)))
    assert (summary["garments"], summary["found"], summary["compared"]) == (3, 2, 2)
    assert summary["right_class"] == 50
    assert summary["median_IoU"] == pytest.approx((0.82 + 0.62) / 2)
    # In the middle of the first photo's right class, 19 pixels off in the second.
    assert summary["landmark_error"] == summary["common_shift"] == pytest.approx(0.19 / 2)


@pytest.mark.parametrize("seed", range(4))
def test_the_summary_against_plain_loops(make_scene, seed):
    _, truth, predictions = random_case(make_scene, seed)
    pairs, any_class = plain_pairs(truth, predictions), plain_match(truth, predictions, 0.5, False, -1)
    found = [(row, g) for row, g in enumerate(any_class) if g >= 0 and not truth.iscrowd[g]]
    errors, shifts = [], []
    for row, garment in enumerate(plain_match(truth, predictions, 0.5, True, -1)):
        if garment < 0 or truth.iscrowd[garment]:
            continue
        x1, y1, x2, y2 = truth.box[garment].tolist()
        own = truth.keypoints[slice(*truth.keypoint_offsets[garment : garment + 2])].tolist()
        predicted = predictions.keypoints[slice(*predictions.keypoint_offsets[row : row + 2])].tolist()
        off = [(p[0] - x, p[1] - y) for p, (x, y, v) in zip(predicted, own, strict=True) if v > 0]
        if off:
            size = math.sqrt((x2 - x1) * (y2 - y1))
            errors.append(sum(math.hypot(*d) for d in off) / len(off) / size)
            shifts.append(math.hypot(sum(d[0] for d in off), sum(d[1] for d in off)) / len(off) / size)
    assert len(found) > 5 and len(errors) > 5
    assert matched_summary(BoxMatcher(truth, predictions)) == {
        "garments": np.count_nonzero(~truth.iscrowd),
        "found": len(found),
        "right_class": pytest.approx(
            100 * np.mean([truth.category_id[g] == predictions.category_id[row] for row, g in found])
        ),
        "median_IoU": pytest.approx(np.median([pairs[row][g] for row, g in found])),
        "compared": len(errors),
        "landmark_error": pytest.approx(sum(errors) / len(errors)),
        "common_shift": pytest.approx(sum(shifts) / len(shifts)),
    }
