"""``kgdet errors`` on random data sets."""

import json

import numpy as np
import pytest

from kgdet_d2 import cli
from kgdet_d2.engine import errors, evaluate
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.oracle import ORACLES, matched_summary, oracle_scores
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import columns
from tests.helpers.registered import NAME, random_case


def run(command, path, *options):
    arguments = ["--predictions", str(path), "--dataset", NAME, *map(str, options)]
    command.run(command.make_parser().parse_args(arguments))


def test_the_analysis_is_that_of_evaluate(stored, tmp_path, capsys):
    options = ["--score-threshold", 0.5, "--output"]
    run(evaluate, stored, "--errors", *options, tmp_path / "evaluate")
    sections = capsys.readouterr().out.strip().split("\n\n## ")
    run(errors, stored, *options, tmp_path / "errors")
    printed = capsys.readouterr().out.strip()
    without = [section for section in sections if not section.startswith("Average precision")]
    assert printed.split("\n\n## ") == without and len(without) > 6
    assert (tmp_path / "errors" / "errors.md").read_text().strip() == printed
    expected = json.loads((tmp_path / "evaluate" / "evaluation.json").read_text())
    del expected["scores"]
    assert json.loads((tmp_path / "errors" / "errors.json").read_text()) == expected
    names = {path.name for path in (tmp_path / "errors").iterdir()}
    assert names == {"errors.md", "errors.json", *"errors.csv errors.png confusion.png".split()} | {
        "landmark_error.png"
    }
    for name in ("errors.csv", "errors.png", "confusion.png", "landmark_error.png"):
        written = [(tmp_path / folder / name).read_bytes() for folder in ("evaluate", "errors")]
        assert written[0] == written[1]


def cells(printed, title):
    """The cells of the table below a title that begins so, without the header."""
    (table,) = [part for part in printed.split("\n## ") if part.startswith(title)]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_oracle(scene, stored, tmp_path, capsys):
    run(errors, stored, "--oracle", "--output", tmp_path)
    matcher = BoxMatcher(*columns(scene))
    expected, matched = oracle_scores(matcher), matched_summary(matcher)
    printed = capsys.readouterr().out
    table = cells(printed, "Average precision by oracles")
    assert [row[0] for row in table] == list(ORACLES)
    for (_, *row), scores in zip(table, expected.values(), strict=True):
        values = [*scores["bbox"].values(), *scores["keypoints"].values()]
        assert row == ["-" if np.isnan(value) else f"{value:.2f}" for value in values]
    assert [row[3:] for row in table if row[0] == "class from the truth"] == [["-", "-"]]
    (row,) = cells(printed, "Detections matched with garments")
    assert [float(cell) for cell in row] == pytest.approx(list(matched.values()), abs=0.005)
    report = json.loads((tmp_path / "errors.json").read_text())
    assert report["oracles"]["class from the truth"]["keypoints"] == {"AP": None, "AP50": None}
    for name, scores in expected.items():
        assert report["oracles"][name]["bbox"] == scores["bbox"]
    assert report["matched"] == matched


def test_boxes_alone(scene, tmp_path, capsys):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    columns(scene)[1].save(tmp_path / "boxes.npz")
    run(errors, tmp_path / "boxes.npz", "--oracle")
    printed = capsys.readouterr().out
    assert "Landmark error" not in printed and "nan" not in printed
    assert all(row[3:] == ["-", "-"] for row in cells(printed, "Average precision by oracles"))


def test_nothing_predicted(scene, tmp_path, capsys):
    Predictions.empty(scene.schema).save(tmp_path / "none.npz")
    run(errors, tmp_path / "none.npz", "--oracle", "--output", tmp_path)
    printed = capsys.readouterr().out
    assert all(row[1] == "0.00" for row in cells(printed, "Average precision by oracles"))
    (row,) = cells(printed, "Detections matched with garments")
    garments = sum(len(record["annotations"]) for record in scene.records)
    assert row == [str(garments), "0", "-", "-", "0", "-", "-"]


def test_nothing_to_find(catalog, tmp_path, capsys):
    scene = random_case(DEEPFASHION2, most_garments=0)
    catalog(scene.records, DEEPFASHION2)
    columns(scene)[1].save(tmp_path / "predictions.npz")
    run(errors, tmp_path / "predictions.npz", "--oracle", "--output", tmp_path)
    assert "nan" not in capsys.readouterr().out
    report = json.loads((tmp_path / "errors.json").read_text())
    assert all(row["bbox"]["AP"] is None for row in report["oracles"].values())


def test_unusable_input_is_told_in_a_line(scene, stored, tmp_path, capsys):
    def failure(path):
        assert cli.main(["errors", "--dataset", NAME, "--predictions", str(path), "--oracle"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "nowhere.npz" in failure(tmp_path / "nowhere.npz")
    with np.load(stored) as archive:
        arrays = dict(archive)
    arrays["score"][0] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    assert "nan.npz" in failure(tmp_path / "nan.npz")
    lost = scene.records.pop()["image_id"]
    assert f"1 of other photos, such as image {lost}" in failure(stored)
