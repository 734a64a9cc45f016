"""COCO results of this project and of other tools as predictions, and what is wrong with a file."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.coco_results import load_coco_results
from tests.helpers.columns import columns

COLUMNS = "image_id detection_offsets category_id score keypoint_score keypoints".split()
COLUMNS += ["wide_detection", "wide_keypoints"]


@pytest.fixture(params=[DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def scene(request, make_scene):
    return make_scene(np.random.default_rng(0), request.param, images=12)


@pytest.fixture
def read(tmp_path):
    """Write results, read them; NaN is written, too."""

    def read(results, truth):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(results))
        return load_coco_results(path, truth)

    return read


def found_on(predictions):
    """The predictions without the photos that have no detection, which results do not tell of."""
    found = np.diff(predictions.detection_offsets) > 0
    offsets = np.concatenate([[0], predictions.detection_offsets[1:][found]])
    return replace(predictions, image_id=predictions.image_id[found], detection_offsets=offsets)


def assert_equal(found, expected):
    for name in COLUMNS:
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert np.array_equal(one, other), name
    # x2 is x + width, which may round.
    np.testing.assert_allclose(found.box, expected.box, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found.box_xywh, expected.box_xywh, rtol=1e-6, atol=1e-4)
    assert found.has_keypoints == expected.has_keypoints


def test_round_trip(scene, read):
    truth, predictions = columns(scene)
    assert len(predictions.wide_detection) > 0
    assert_equal(read(list(predictions.coco_results()), truth), found_on(predictions))


def test_landmarks_of_the_class_alone(scene, read):
    truth, predictions = columns(scene)
    results = [predictions.coco_result(row, all_slots=False) for row in range(predictions.num_detections)]
    counts = [3 * scene.schema.num_class_keypoints(index) for index in predictions.category_id]
    assert [len(result["keypoints"]) for result in results] == counts
    found = read(results, truth)
    for result, row in zip(results, range(found.num_detections), strict=True):
        own = found.keypoints[slice(*found.keypoint_offsets[row : row + 2])]
        assert np.array_equal(own, np.reshape(result["keypoints"], (-1, 3))[:, :2].astype(np.float32))
    same_slots = [len(result["keypoints"]) == 3 * scene.schema.num_keypoints for result in results]
    assert set(found.wide_detection.tolist()) <= set(np.flatnonzero(same_slots).tolist())


def test_boxes_alone(scene, read):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    truth, predictions = columns(scene)
    results = list(predictions.coco_results())
    assert_equal(read(results, truth), found_on(predictions))
    for result in results:
        result["keypoints"] = []
    assert_equal(read(results, truth), found_on(predictions))


def test_scores_of_landmarks(scene, read):
    truth, predictions = columns(scene)
    predictions = replace(predictions, keypoint_score=predictions.score / 3)
    found = read(list(predictions.coco_results()), truth)
    assert_equal(found, found_on(predictions))
    assert found.ranked_by_keypoints().score.tolist() == (predictions.score / 3).tolist()


def test_any_order_keeps_that_of_a_photos_results(scene, read):
    truth, predictions = columns(scene)
    results = list(predictions.coco_results())
    order = np.random.default_rng(1).permutation(len(results))
    found = read([results[index] for index in order], truth)
    expected = [
        (image, results[index]["category_id"], np.float32(results[index]["score"]))
        for image in truth.image_id.tolist()
        for index in order
        if results[index]["image_id"] == image
    ]
    images = found.image_id[found.detection_image].tolist()
    assert list(zip(images, (found.category_id + 1).tolist(), found.score, strict=True)) == expected


def test_no_result(scene, read):
    truth, _ = columns(scene)
    nothing = read([], truth)
    assert len(nothing) == nothing.num_detections == 0 and nothing.has_keypoints


SKIRT = DEEPFASHION2.class_names.index("skirt")


@pytest.fixture
def truth():
    """Two photos without garments."""
    records = [{"image_id": number, "width": 100, "height": 80} for number in (4, 7)]
    return AnnotationTable.from_dataset_dicts(records, DEEPFASHION2)


def result(**replaced):
    """A result on a skirt; ``...`` leaves a key out."""
    keypoints = [value for index in range(8) for value in (index, 2 * index, 1)]
    fields = {"image_id": 7, "category_id": SKIRT + 1, "bbox": [1, 2, 30.5, 40], "score": 0.5}
    fields |= {"keypoints": keypoints, "segmentation": {"size": [1, 2], "counts": "a"}} | replaced
    return {name: value for name, value in fields.items() if value is not ...}


def test_of_another_tool(truth, read):
    found = read([result(), result(category_id=2, keypoints=[3, 4, 0] * 294, score=1)], truth)
    assert found.image_id.tolist() == [7] and found.category_id.tolist() == [SKIRT, 1]
    assert found.box.tolist() == [[1, 2, 31.5, 42]] * 2
    assert found.keypoints[:8].tolist() == [[index, 2 * index] for index in range(8)]
    assert (found.keypoints[8:] == [3, 4]).all() and len(found.keypoints) == 8 + 33


def test_results_of_the_keypoint_task_have_no_box(truth, read, caplog):
    with caplog.at_level(logging.WARNING):
        found = read([result(bbox=...), result()], truth)
    assert found.box.tolist() == [[0, 0, 7, 14], [1, 2, 31.5, 42]]
    assert "1 results without bbox get the box around their landmarks" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_id": ...}, r"image_id is missing, got \['bbox', 'category_id'"),
        ({"image_id": "7"}, "image_id: expected an integer, got '7'"),
        ({"image_id": 7.0}, r"image_id: expected an integer, got 7\.0"),
        ({"image_id": True}, "image_id: expected an integer, got True"),
        ({"image_id": 5}, "image_id: expected that of a photo of the dataset, got 5"),
        ({"category_id": 0}, r"category_id: expected 1\.\.13, got 0"),
        ({"category_id": 14}, r"category_id: expected 1\.\.13, got 14"),
        ({"category_id": "skirt"}, "category_id: expected an integer, got 'skirt'"),
        ({"score": ...}, "score is missing"),
        ({"score": "0.5"}, "score: expected a finite number, got .*'0.5'"),
        ({"score": math.nan}, "score: expected a finite number, got .*nan"),
        ({"score": None}, "score: expected a finite number, got .*None"),
        ({"score": False}, "score: expected a finite number, got .*False"),
        ({"bbox": ..., "keypoints": ...}, "bbox is missing"),
        ({"bbox": [1, 2, 3]}, "bbox: expected x y width height, got 3 numbers"),
        ({"bbox": [1, 2, math.inf, 4]}, "bbox: expected a list of finite numbers, got .*inf"),
        ({"bbox": [1, 2, 1e39, 4]}, "bbox: expected a list of finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "bbox: expected a list of finite numbers"),
        ({"bbox": "1 2 3 4"}, "bbox: expected a list of finite numbers, got '1 2 3 4'"),
        ({"bbox": {"x": 1}}, r"bbox: expected a list of finite numbers, got \{'x': 1\}"),
        (
            {"keypoints": [1.0] * 25},
            r"keypoints: expected 24 numbers, .* 8 landmarks of 'skirt', or 882, .* 25",
        ),
        ({"keypoints": [[1, 2, 3]] * 8}, r"keypoints: expected a list of finite numbers, got \[\[1, 2, 3\]"),
        ({"keypoints": [*[1.0] * 23, math.nan]}, "keypoints: expected a list of finite numbers"),
        ({"keypoints": [*[1.0] * 23, None]}, "keypoints: expected a list of finite numbers"),
        ({"keypoint_score": "high"}, "keypoint_score: expected a finite number"),
    ],
)
def test_a_wrong_field(truth, read, fields, message):
    with pytest.raises(ValueError, match=rf"results\.json: \[2\]: {message}"):
        read([result(), result(), result(**fields), result()], truth)


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], math.nan])
def test_a_result_that_is_no_object(truth, read, value):
    with pytest.raises(ValueError, match=r"results\.json: \[1\]: expected an object, got "):
        read([result(), value], truth)


@pytest.mark.parametrize("name", ["keypoints", "keypoint_score"])
def test_what_only_some_have(truth, read, name):
    some, others = result(keypoint_score=0.5), result(**{"keypoint_score": 0.5, name: ...})
    message = rf"results\.json: \[2\]: {name}: expected in all results or in none"
    with pytest.raises(ValueError, match=f"{message}, but .0. has it and this has none"):
        read([some, some, others, some], truth)
    with pytest.raises(ValueError, match=f"{message}, but .0. has none and this has it"):
        read([others, others, some, others], truth)


def test_no_list_of_results(truth, read, tmp_path):
    with pytest.raises(ValueError, match=r"results\.json: expected a list, .* got '\{\"annotations\""):
        read({"annotations": [result()]}, truth)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_coco_results(tmp_path / "nowhere.json", truth)
