import json
import time
from pathlib import Path

import pytest
import torch

import benchmark
from benchmark_worker import Clock

ROOT = Path(__file__).resolve().parents[1]
TINY = [f"configs/sample/{name}_tiny.yaml" for name in ("kgdet", "retinanet")]
QUICK = ["--repetitions", "1", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def other_tree(tmp_path):
    """A second checkout with the same package, without configs."""
    tree = tmp_path / "other"
    tree.mkdir()
    (tree / "kgdet_d2").symlink_to(ROOT / "kgdet_d2")
    return tree


def run(tmp_path, *arguments):
    path = tmp_path / "speed.json"
    assert benchmark.main([*arguments, *QUICK, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_detectors(tmp_path, capsys):
    report = run(tmp_path, *TINY, "--size", "64", "96", "--candidates", "20")
    assert report["settings"]["size"] == [64, 96] and report["versions"]["torch"] == torch.__version__
    rows = {(row["name"], row["mode"]): row for row in report["results"]}
    names = ["kgdet_tiny", "retinanet_tiny", benchmark.BACKBONE]
    assert rows.keys() == {(name, mode) for name in names for mode in benchmark.MODES}
    shared = {"preprocess", "backbone", "neck", "head", "rest"}
    own = {"inference": {"postprocess"}, "training": {"loss", "backward", "optimiser"}}
    for (name, mode), row in rows.items():
        assert row["ms"]["lower"] <= row["ms"]["median"] <= row["ms"]["upper"] and row["peak_mb"] >= 0
        assert row["ratios"].keys() == {"retinanet_tiny", benchmark.BACKBONE}
        assert row["ratios"][name] == 1 if name in row["ratios"] else True
        if name == benchmark.BACKBONE:
            continue
        assert row["parts"].keys() == shared | own[mode]
        parts = sum(part["median"] for part in row["parts"].values())
        assert parts == pytest.approx(row["ms"]["median"])  # of one run
        assert mode == "training" or 0 < row["detections"] <= 20
    printed = capsys.readouterr().out
    assert "inference, batch 1: ms" in printed and "/ backbone alone" in printed


def test_aggregation_here_and_in_another_tree(tmp_path, other_tree):
    arguments = ["--aggregation", "--size", "3", "4", "--columns", "9", "--checkout", str(other_tree)]
    report = run(tmp_path, *arguments, "--batch", "2")
    found = [(row["name"], row["checkout"], row["mode"], row["batch"]) for row in report["results"]]
    contestants = [("torchvision", "here"), ("aggregation", "here"), ("aggregation", str(other_tree))]
    assert sorted(found) == sorted((*one, mode, 2) for one in contestants for mode in benchmark.MODES)
    assert all(row["ratios"].keys() == {"torchvision"} for row in report["results"])


def test_a_contestant_that_fails_is_named(tmp_path, capfd):
    assert benchmark.main([str(tmp_path / "none.yaml"), *QUICK]) == 1
    errors = capfd.readouterr().err
    assert "none.yaml' does not exist" in errors and "benchmark.py: none of" in errors


def test_a_checkout_without_the_package_is_refused(tmp_path, capfd):
    arguments = ["--aggregation", "--size", "3", "4", "--columns", "1", "--checkout", str(tmp_path)]
    assert benchmark.main([*arguments, *QUICK]) == 1
    assert f"expected the package in {tmp_path}, got" in capfd.readouterr().err


def test_spans_within_spans_are_counted_once():
    clock = Clock(torch.device("cpu"))
    inner = clock.span("inner", lambda: time.sleep(0.02))

    def two():
        inner()
        inner()
        time.sleep(0.01)

    clock.span("outer", two)()
    times = clock.read()
    assert times["inner"] >= 40 and 10 <= times["outer"] < times["inner"]
    assert times["all"] == pytest.approx(times["inner"] + times["outer"])
    clock.span("alone", lambda: None)()
    assert clock.read().keys() == {"all", "alone"}
