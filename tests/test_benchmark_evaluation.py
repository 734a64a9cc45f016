import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "benchmark_evaluation", ROOT / "tools/benchmark_evaluation.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "in_own_process", lambda function, *arguments: function(*arguments))
    return module


def test_table_and_same_numbers_from_every_evaluator(benchmark, tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    benchmark.main(
        ["--images", "8", "9", "--detections", "20", *("--coco-evaluator-up-to", "8"), "--json", str(path)]
    )
    rows = json.loads(path.read_text())
    assert [row["photos"] for row in rows] == [8, 8, 8, 9, 9]
    assert {row["evaluator"] for row in rows[:3]} == set(benchmark.EVALUATORS)
    ours, plain, coco = rows[:3]
    for score in ("box AP", "landmark AP"):
        assert 1 < ours[score] < 90
        assert ours[score] == pytest.approx(plain[score], abs=1e-9)
        # COCOEvaluator's ground truth goes through a file, which rounds boxes and is read as float32.
        assert ours[score] == pytest.approx(coco[score], abs=0.5)
    table = capsys.readouterr().out
    assert all(f"| {row['evaluator']}" in table for row in rows)
