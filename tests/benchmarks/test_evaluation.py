"""The benchmark of evaluators."""

import json

import pytest

from benchmarks import evaluation
from benchmarks.__main__ import main
from tests.helpers.in_process import InProcess


def test_table_and_same_numbers_from_every_evaluator(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluation, "new_process", InProcess)
    path = tmp_path / "benchmark.json"
    options = ["--images", "8", "9", "--detections", "20", "--coco-evaluator-up-to", "8", "--json", str(path)]
    assert main(["evaluation", *options]) == 0
    rows = json.loads(path.read_text())["results"]
    assert [row["images"] for row in rows] == [8, 8, 8, 9, 9]
    assert {row["evaluator"] for row in rows[:3]} == set(evaluation.EVALUATORS)
    ours, plain, coco = rows[:3]
    for score in ("box AP", "landmark AP"):
        assert 1 < ours[score] < 90
        assert ours[score] == pytest.approx(plain[score], abs=1e-9)
        # COCOEvaluator's ground truth goes through a file, which rounds boxes and is read as float32.
        assert ours[score] == pytest.approx(coco[score], abs=0.5)
    for row in rows:
        assert row["process s"] > 0 and row["evaluate s"] > 0 and row["CPU s"] > 0 and row["peak MB"] > 100
    table = capsys.readouterr().out
    assert all(f"| {row['evaluator']}" in table for row in rows)
