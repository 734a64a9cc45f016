import json
import time
from pathlib import Path

import benchmark
import pytest
import torch
from benchmark_worker import Detector
from measuring import Clock

ROOT = Path(__file__).resolve().parents[1]
TINY = [f"configs/sample/{name}_tiny.yaml" for name in ("kgdet", "retinanet")]
QUICK = ["--repetitions", "1", "--threads", "1", "--device", "cpu"]
DETECTOR = {"device": "cpu", "precision": "float32", "threads": 1, "size": [64, 96], "subject": "detector"}
DETECTOR |= {"photos": 1, "channels_last": False, "candidates": 20, "variant": "", "opts": []}
PARTS = {"preprocess", "backbone", "neck", "head", "rest"}
FUSED = ["--variant", "fused", "MODEL.INFERENCE.FUSE_BN", "True"]
# In the place of the worker: a variant takes half the time.
STAND_IN = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    if "mode" not in request:
        first = request
        if "none" in request.get("config", ""):
            sys.exit("no such config")
        answer = {"package": os.environ["PYTHONPATH"].split(os.pathsep)[0] + "/kgdet_d2"}
    else:
        ms = 3.0 if first.get("variant") else 6.0
        answer = {"ms": {"all": ms, "rest": ms}, "detections": 1, "peak_mb": 5 if request["memory"] else None}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(STAND_IN)
    monkeypatch.setattr(benchmark, "WORKER", worker)


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


def test_with_a_detector(tmp_path, capsys):
    report = run(tmp_path, TINY[0], "--size", "64", "96", "--modes", "inference")
    assert report["settings"]["size"] == [64, 96] and report["versions"]["torch"] == torch.__version__
    detector, backbone = report["results"]
    assert (detector["name"], backbone["name"]) == ("kgdet_tiny", benchmark.BACKBONE)
    assert all(
        row["peak_mb"] >= 0 and row["ratios"].keys() == {benchmark.BACKBONE} for row in (detector, backbone)
    )
    printed = capsys.readouterr().out
    assert "inference, batch 1: ms" in printed and "/ backbone alone" in printed


def test_with_another_tree_s_aggregation(other_tree):
    request = {"device": "cpu", "precision": "float32", "threads": 1, "size": [3, 4]}
    request |= {"subject": "aggregation", "columns": [9], "batch": 2, "torchvision": False}
    with benchmark.Contestant("aggregation", other_tree, request) as contestant:
        for mode in benchmark.MODES:
            answer = contestant.ask({"mode": mode, "memory": mode == "training"})
            assert answer["ms"]["all"] > 0 and answer.get("peak_mb", 0) >= 0


@pytest.mark.parametrize("config", TINY)
def test_parts_of_a_detector(config):
    detector = Detector(DETECTOR | {"config": config})
    for mode, own in (("inference", {"postprocess"}), ("training", {"loss", "backward", "optimiser"})):
        answer = detector.run({"mode": mode, "batch": 1})
        whole = answer["ms"].pop("all")
        assert answer["ms"].keys() == PARTS | own
        assert sum(answer["ms"].values()) == pytest.approx(whole)
        assert mode == "training" or 0 < answer["detections"] <= 20
        alone = detector.run({"mode": f"backbone_{mode}", "batch": 1})
        assert alone["ms"]["backbone"] > 0


def test_parts_of_a_variant(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compiled = ["MODEL.INFERENCE.COMPILE", "True"]
    for opts, missing in ((FUSED[2:], set()), (compiled, {"neck"})):
        detector = Detector(DETECTOR | {"config": TINY[0], "variant": "fast", "opts": opts})
        answer = detector.run({"mode": "inference", "batch": 1})
        assert answer["ms"].keys() == (PARTS | {"postprocess", "all"}) - missing and answer["detections"] > 0
        assert detector.run({"mode": "backbone_inference", "batch": 1})["ms"]["backbone"] > 0


def test_contestants_and_ratios(tmp_path, stand_in, other_tree, capsys):
    (other_tree / "configs").mkdir()
    (other_tree / "configs" / "kgdet_tiny.yaml").touch()
    rows = run(tmp_path, *TINY, "--checkout", str(other_tree), *FUSED)["results"]
    found = {(row["name"], row["variant"], row["checkout"], row["mode"]) for row in rows}
    trees = [("kgdet_tiny", "here"), ("kgdet_tiny", str(other_tree)), ("retinanet_tiny", "here")]
    expected = {(name, "", tree, mode) for name, tree in trees for mode in benchmark.MODES}
    expected |= {(name, "fused", tree, "inference") for name, tree in trees}
    expected |= {(benchmark.BACKBONE, "", "here", mode) for mode in benchmark.MODES}
    expected |= {(benchmark.BACKBONE, "fused", "here", "inference")}
    assert found == expected and len(rows) == len(expected)
    for row in rows:
        ratio = 0.5 if row["variant"] else 1
        to_plain = {"plain": ratio} if row["variant"] else {}
        assert row["ratios"] == {"retinanet_tiny": 1, benchmark.BACKBONE: 1, **to_plain}
        assert row["ms"] == {"median": 6 * ratio, "lower": 6 * ratio, "upper": 6 * ratio}
        assert row["peak_mb"] == 5
    assert "| kgdet_tiny, fused" in capsys.readouterr().out


def test_aggregation_here_and_in_another_tree(tmp_path, stand_in, other_tree):
    rows = run(tmp_path, "--aggregation", "--checkout", str(other_tree), "--batch", "2")["results"]
    found = [(row["name"], row["checkout"], row["mode"], row["batch"]) for row in rows]
    contestants = [("torchvision", "here"), ("aggregation", "here"), ("aggregation", str(other_tree))]
    assert sorted(found) == sorted((*one, mode, 2) for one in contestants for mode in benchmark.MODES)
    assert all(row["ratios"].keys() == {"torchvision"} for row in rows)


def test_a_contestant_that_fails_is_named(tmp_path, stand_in, capfd):
    assert benchmark.main([str(tmp_path / "none.yaml"), *QUICK]) == 1
    errors = capfd.readouterr().err
    assert "no such config" in errors and "benchmark.py: none of" in errors


def test_a_checkout_without_the_package_is_refused(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "WORKER", tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere.py").write_text('input(); print(\'{"package": "/elsewhere/kgdet_d2"}\')')
    with pytest.raises(RuntimeError, match=f"expected the package in {tmp_path}, got /elsewhere/kgdet_d2"):
        benchmark.Contestant("aggregation", tmp_path, {"threads": 1})


def test_a_variant_of_nothing_is_refused(capsys):
    for arguments in (["--aggregation"], ["--modes", "training"]):
        with pytest.raises(SystemExit):
            benchmark.main([*arguments, *FUSED])
        assert "--variant is of a detector's inference" in capsys.readouterr().err


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
