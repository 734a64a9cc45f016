"""``kgdet evaluate`` on random data sets."""

import csv
import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from kgdet_d2 import cli
from kgdet_d2.engine import evaluate
from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.coco_files import official_truth, pycocotools_scores
from tests.helpers.columns import columns
from tests.helpers.registered import NAME, random_case

TASKS = ("bbox", "keypoints", "keypoints_visible")


def run(path, *options):
    arguments = ["--predictions", str(path), "--dataset", NAME, *map(str, options)]
    evaluate.run(evaluate.make_parser().parse_args(arguments))


def test_the_evaluators_predictions_give_its_numbers_again(scene, tmp_path):
    evaluator = FashionEvaluator(NAME, distributed=False, output_dir=str(tmp_path))
    evaluator.process(scene.records, [{"instances": output} for output in scene.outputs])
    expected = evaluator.evaluate()
    run(tmp_path / "predictions.npz", "--output", tmp_path / "again")
    scores = json.loads((tmp_path / "again" / "evaluation.json").read_text())["scores"]
    for task in TASKS:
        for name, score in expected[task].items():
            found = scores[task][name]
            assert np.isnan(score) if found is None else found == pytest.approx(score, abs=1e-9)


def test_boxes_alone(scene, tmp_path):
    evaluator = FashionEvaluator(NAME, distributed=False, output_dir=str(tmp_path))
    for output in scene.outputs:
        output.remove("pred_keypoints")
    evaluator.process(scene.records, [{"instances": output} for output in scene.outputs])
    evaluator.evaluate()
    run(tmp_path / "predictions.npz", "--output", tmp_path / "again", "--subsets", "--errors")
    report = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert report["scores"].keys() == {"bbox"} and "landmark_error" not in report
    assert all("keypoints" not in row for row in report["subsets"])
    assert not (tmp_path / "again" / "landmark_error.png").exists()


def test_everything(scene, stored, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    run(stored, "--subsets", "--errors", "--score-threshold", "0.5", "--output", folder)
    printed = capsys.readouterr().out
    assert (folder / "evaluation.md").read_text().strip() == printed.strip()
    for title in (
        "by class",
        "Landmark error",
        "worst landmarks",
        "by attribute",
        "dAP by class",
        "taken for",
    ):
        assert title in printed
    files = "evaluation.md evaluation.json errors.csv confusion.png errors.png precision_recall.png "
    files += "landmark_error.png"
    assert {path.name for path in folder.iterdir()} == set(files.split())
    report = json.loads((folder / "evaluation.json").read_text())
    assert report["photos"] == report["photos_predicted"] == len(scene.records)
    assert report["detections"] == sum(map(len, scene.outputs))
    assert sum(report["garments"].values()) == sum(len(record["annotations"]) for record in scene.records)
    assert {row["attribute"] for row in report["subsets"]} == {"scale", "source"}
    assert report["errors"]["score_threshold"] == 0.5
    assert report["errors"]["AP50"] == pytest.approx(report["scores"]["bbox"]["AP50"])
    with open(folder / "errors.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 10 and all(float(row["score"]) >= 0.5 for row in rows if row["kind"] != "Miss")


def test_only_what_is_asked_for(stored, tmp_path, capsys):
    run(stored, "--subsets", "scale", "--output", tmp_path / "evaluation")
    report = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert {row["attribute"] for row in report["subsets"]} == {"scale"} and "errors" not in report
    names = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert not names & {"errors.csv", "errors.png", "confusion.png"}
    assert "source" not in capsys.readouterr().out


def test_the_export_gives_the_numbers_back_exactly(scene, stored, tmp_path):
    run(stored, "--export-coco", tmp_path / "results.json")
    predictions = Predictions.load(stored, scene.schema)
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == predictions.num_detections > 50
    assert [result["image_id"] for result in results] == predictions.image_id[
        predictions.detection_image
    ].tolist()
    assert [result["category_id"] - 1 for result in results] == predictions.category_id.tolist()
    assert np.array_equal(np.array([r["score"] for r in results], np.float32), predictions.score)
    assert np.array_equal(np.array([r["bbox"] for r in results], np.float32), predictions.box_xywh)
    for row, result in enumerate(results):
        keypoints = np.array(result["keypoints"], np.float32).reshape(-1, 3)
        assert keypoints.shape == (scene.schema.num_keypoints, 3)
        own = scene.schema.gather(keypoints, predictions.category_id[row])
        start, end = predictions.keypoint_offsets[row : row + 2]
        assert np.array_equal(own[:, :2], predictions.keypoints[start:end])
        assert (own[:, 2] == predictions.score[row]).all()


def test_pycocotools_on_the_export_gives_the_same_scores(scene, stored, tmp_path):
    run(stored, "--export-coco", tmp_path / "results.json", "--output", tmp_path)
    report = json.loads((tmp_path / "evaluation.json").read_text())
    for task in TASKS:
        truth = official_truth(scene, task == "keypoints_visible")
        expected = pycocotools_scores(truth, str(tmp_path / "results.json"), task, scene.schema.sigmas)
        scores = report["scores"][task]
        assert 0 < scores["AP"] < 100
        assert [scores[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-9)


def test_nothing_predicted(scene, tmp_path):
    Predictions.empty(scene.schema).save(tmp_path / "none.npz")
    outputs = ["--output", tmp_path / "evaluation", "--export-coco", tmp_path / "none.json"]
    run(tmp_path / "none.npz", "--subsets", "--errors", *outputs)
    report = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert report["photos_predicted"] == report["scores"]["bbox"]["AP"] == 0
    garments = sum(report["garments"].values())
    assert report["errors"]["kinds"]["Miss"]["count"] == garments > 0
    assert report["landmark_error"]["visible"]["overall"]["all"]["NE"] is None
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_nothing_to_find(catalog, tmp_path, capsys):
    scene = random_case(DEEPFASHION2, most_garments=0)
    catalog(scene.records, DEEPFASHION2)
    columns(scene)[1].save(tmp_path / "predictions.npz")
    run(tmp_path / "predictions.npz", "--subsets", "--errors", "--output", tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text())["scores"]["bbox"]["AP"] is None
    assert "nan" not in capsys.readouterr().out


def test_unusable_input(scene, stored, catalog, tmp_path):
    other = FLD if scene.schema is DEEPFASHION2 else DEEPFASHION2
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        run(tmp_path / "nowhere.npz")
    Predictions.empty(other).save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=rf"other\.npz.*schema: expected '{scene.schema.name}'"):
        run(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"dataset 'deepfashion2_vel' is not registered.*deepfashion2_val"):
        run(stored, "--dataset", "deepfashion2_vel")
    with pytest.raises(ValueError, match=r"attribute 'colour': expected one of \['scale', 'source'\]"):
        run(stored, "--subsets", "colour")
    lost = scene.records.pop()["image_id"]
    with pytest.raises(
        ValueError, match=rf"predictions\.npz.*{NAME}.* 1 of other photos, such as image {lost}"
    ):
        run(stored)
    MetadataCatalog.remove(NAME)
    with pytest.raises(
        ValueError, match=f"dataset '{NAME}': expected the names of its landmarks in its metadata"
    ):
        run(stored)


def test_an_interrupted_export_leaves_no_half_file(scene, stored, tmp_path, monkeypatch):
    def interrupted(self):
        yield {"image_id": 1}
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictions, "coco_results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stored, "--export-coco", tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert "--export-coco" in capsys.readouterr().out


def test_the_command_tells_in_a_line_what_is_missing(scene, tmp_path, capsys):
    arguments = ["evaluate", "--dataset", NAME, "--predictions", str(tmp_path / "nowhere.npz")]
    assert cli.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "nowhere.npz" in line
