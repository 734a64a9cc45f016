"""``kgdet evaluate`` and ``kgdet errors`` on COCO results."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2 import cli
from kgdet_d2.engine import errors, evaluate
from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.garments import Garments
from tests.helpers.coco_files import official_truth, pycocotools_scores
from tests.helpers.columns import columns
from tests.helpers.registered import NAME
from tests.helpers.scenes import HEIGHT, WIDTH

TASKS = ("bbox", "keypoints", "keypoints_visible")


def scores_of(path):
    found = average_precisions(*evaluate.load(NAME, path))
    return {task: whole.summary() for task, (whole,) in found.items()}


def write(path, results):
    path.write_text(json.dumps(list(results)))
    return path


def test_the_commands_print_what_they_print_of_the_predictions(scene, stored, tmp_path, capsys):
    results = tmp_path / "results.json"

    def printed(command, path, *options):
        arguments = ["--predictions", str(path), "--dataset", NAME, *options]
        command.run(command.make_parser().parse_args(arguments))
        return capsys.readouterr().out.split("\n## ")[1:]

    expected = printed(evaluate, stored, "--errors", "--subsets", "--export-coco", str(results))
    assert printed(evaluate, results, "--errors", "--subsets") == expected and len(expected) > 6
    assert printed(errors, results, "--oracle") == printed(errors, stored, "--oracle")


def test_landmarks_are_ranked_by_scores_of_their_own(scene, tmp_path):
    _, predictions = columns(scene)
    own = np.random.default_rng(0).random(predictions.num_detections, np.float32)
    predictions = replace(predictions, keypoint_score=own)
    predictions.save(tmp_path / "predictions.npz")
    expected, results = scores_of(tmp_path / "predictions.npz"), list(predictions.coco_results())
    found = scores_of(write(tmp_path / "results.json", results))
    for task in TASKS:
        assert found[task] == pytest.approx(expected[task], abs=1e-9, nan_ok=True)
    for result in results:
        del result["keypoint_score"]
    without = scores_of(write(tmp_path / "results.json", results))
    assert without["bbox"]["AP"] == found["bbox"]["AP"]
    assert without["keypoints"]["AP"] != found["keypoints"]["AP"]


def test_what_predict_writes_has_pycocotools_scores(scene, tmp_path):
    """It has no landmarks of other classes, though the ground truth has garments that ask for them."""
    _, predictions = columns(scene)
    assert len(predictions.wide_detection) > 0
    results = []
    for record, output in zip(scene.records, scene.outputs, strict=True):
        results += Garments.from_instances(output, scene.schema).to_coco(record["image_id"])
    scores = scores_of(write(tmp_path / "coco_results.json", results))
    for task in TASKS:
        truth = official_truth(scene, task == "keypoints_visible")
        expected = pycocotools_scores(truth, results, task, scene.schema.sigmas)
        assert [scores[task][name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-9)


def test_boxes_alone(scene, tmp_path):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    _, predictions = columns(scene)
    predictions.save(tmp_path / "boxes.npz")
    expected = scores_of(tmp_path / "boxes.npz")
    found = scores_of(write(tmp_path / "boxes.json", predictions.coco_results()))
    assert found.keys() == {"bbox"}
    assert found["bbox"] == pytest.approx(expected["bbox"], abs=1e-9, nan_ok=True)


def test_boxes_of_another_form_are_refused_by_their_entry(scene, tmp_path):
    _, predictions = columns(scene)
    results = list(predictions.coco_results())
    for result, box in zip(results, predictions.box.tolist(), strict=True):
        result["bbox"] = box
    order = np.random.default_rng(0).permutation(len(results))
    results = [results[index] for index in order]
    path = write(tmp_path / "results.JSON", results)
    with pytest.raises(
        ValueError, match=r"results.JSON: \[(\d+)\]: bbox: expected x y width height"
    ) as raised:
        evaluate.load(NAME, path)
    found = results[int(re.search(r"\[(\d+)\]", str(raised.value))[1])]
    assert str(found["bbox"][:2])[:-1] in str(raised.value)
    x1, y1, x2, y2 = found["bbox"]
    assert x1 + x2 > 1.1 * WIDTH or y1 + y2 > 1.1 * HEIGHT


def test_boxes_that_are_not_in_order(scene, tmp_path):
    _, predictions = columns(scene)
    results = list(predictions.coco_results())
    results[3]["bbox"][2] = -4
    with pytest.raises(ValueError, match=r"results.json: \[3\]: bbox: .* no negative side, got \[.*, -4, "):
        evaluate.load(NAME, write(tmp_path / "results.json", results))
    predictions.save(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "predictions.npz", **arrays | {"box": predictions.box_xywh})
    first = int(np.argmax((predictions.box_xywh[:, :2] > predictions.box_xywh[:, 2:]).any(axis=1)))
    image = predictions.image_id[predictions.detection_image[first]]
    message = (
        rf"predictions\.npz: .* detection {first}, of image {image}: box: expected x1 y1 x2 y2 with x1 <= x2"
    )
    with pytest.raises(ValueError, match=message):
        evaluate.load(NAME, tmp_path / "predictions.npz")


def test_a_wrong_file_is_told_in_a_line(scene, tmp_path, capsys):
    path = tmp_path / "results.json"

    def failure(content):
        path.write_text(content)
        for command in ("evaluate", "errors"):
            assert cli.main([command, "--dataset", NAME, "--predictions", str(path)]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and len(set(lines)) == 1
        return lines[0]

    image_id = scene.records[0]["image_id"]
    result = {"image_id": image_id, "category_id": 99, "bbox": [1, 2, 3, 4], "score": 0.5}
    last = scene.schema.num_classes
    assert failure(json.dumps([result])) == f"error: {path}: [0]: category_id: expected 1..{last}, got 99"
    assert failure("{}") == f"error: {path}: expected a list, [...] in JSON, got '{{}}'"
    path.unlink()
    assert cli.main(["evaluate", "--dataset", NAME, "--predictions", str(path)]) == 1
    assert "results.json" in capsys.readouterr().err
