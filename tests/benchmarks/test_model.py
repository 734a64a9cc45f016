"""The benchmark of whole detectors and of the aggregation."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import _worker, model
from benchmarks.__main__ import main
from benchmarks._worker import Aggregation, Detector, find
from tests.helpers.in_process import InProcess

ROOT = Path(__file__).resolve().parents[2]
TINY = [str(ROOT / f"configs/sample/{name}_tiny.yaml") for name in ("kgdet", "retinanet")]
QUICK = ["--repetitions", "1", "--threads", "1", "--device", "cpu"]
DETECTOR = {"device": "cpu", "precision": "float32", "size": [64, 96], "images": 1, "channels_last": False}
DETECTOR |= {"own_size": False, "candidates": 20, "variant": "", "opts": []}
AGGREGATION = {"device": "cpu", "precision": "float32", "size": [3, 4], "columns": [9], "batch": 2}
PARTS = {"preprocess", "backbone", "neck", "head", "rest"}
FUSED = ["--variant", "fused", "MODEL.INFERENCE.FUSE_BN", "True"]


class StandIn:
    """A detector or an aggregation of which a variant takes half the time."""

    device = torch.device("cpu")

    def __init__(self, **request):
        if "none" in request.get("config", ""):
            raise FileNotFoundError("no such config")
        self.ms, self.clock = 3.0 if request.get("variant") else 6.0, self

    def prepare(self, method, repetition):
        return lambda: 1

    def read(self):
        return {"all": self.ms, "rest": self.ms}


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(model, "new_process", InProcess)
    for name in ("Detector", "Aggregation"):
        monkeypatch.setattr(_worker, name, StandIn)
    monkeypatch.setattr(_worker, "peak_megabytes", lambda device, function: (5.0, function()))


@pytest.fixture
def other_tree(tmp_path):
    """A second checkout with the same package, without configs."""
    tree = tmp_path / "other"
    tree.mkdir()
    (tree / "kgdet_d2").symlink_to(ROOT / "kgdet_d2")
    return tree


def run(tmp_path, *arguments):
    path = tmp_path / "speed.json"
    assert main(["model", *arguments, *QUICK, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_with_a_detector_in_a_process(tmp_path, capsys):
    report = run(tmp_path, TINY[0], "--size", "64", "96", "--modes", "inference", "head")
    assert report["settings"]["size"] == [64, 96] and report["versions"]["torch"] == torch.__version__
    detector, head, backbone = report["results"]
    assert [row["mode"] for row in report["results"]] == ["inference", "head", "inference"]
    assert (detector["name"], backbone["name"]) == ("kgdet_tiny", model.BACKBONE)
    assert all(row["peak_mb"] >= 0 for row in report["results"])
    assert detector["ratios"].keys() == backbone["ratios"].keys() == {model.BACKBONE}
    assert head["detections"] == detector["detections"] > 0 and head["parts"].keys() < PARTS | {"postprocess"}
    printed = capsys.readouterr().out
    assert "inference, batch 1: ms" in printed and "/ backbone alone" in printed


def test_the_size_that_a_config_gives_a_photo():
    image = Detector(config=TINY[0], **DETECTOR | {"size": [800, 1333], "own_size": True}).batches[0][0]
    assert image["image"].shape == (3, 96, 160) == (3, image["height"], image["width"])


def test_the_refiner_is_a_part():
    opts = ["MODEL.FPN.FINE_LEVEL", "p3", "MODEL.KGDET.REFINER.ENABLED", True]
    detector = Detector(config=TINY[0], **DETECTOR | {"opts": opts})
    for mode, others in (("inference", {"postprocess"}), ("training", {"loss", "backward", "optimiser"})):
        detector.prepare(mode, 0)()
        assert detector.clock.read().keys() == PARTS | {"refiner", "all"} | others


def test_both_aggregations_do_the_same_work():
    ours, theirs = (Aggregation(**AGGREGATION, torchvision=torchvision) for torchvision in (False, True))
    for mine, other in zip(ours.forward(), theirs.forward(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
    for subject in (ours, theirs):
        for mode in model.MODES[:2]:
            subject.prepare(mode, 0)()
            assert subject.clock.read()["all"] > 0


@pytest.mark.parametrize("config", TINY)
def test_parts_of_a_detector(config):
    detector = Detector(**DETECTOR, config=config)
    for mode, others in (("inference", {"postprocess"}), ("training", {"loss", "backward", "optimiser"})):
        detections = detector.prepare(mode, 0)()
        times = detector.clock.read()
        whole = times.pop("all")
        assert times.keys() == PARTS | others
        assert sum(times.values()) == pytest.approx(whole)
        assert detections is None if mode == "training" else 0 < detections <= 20
        detector.prepare(f"backbone_{mode}", 0)()
        assert detector.clock.read()["backbone"] > 0
    detections = detector.prepare("inference", 0)()
    detector.clock.read()
    for repetition in range(2):
        assert detector.prepare("head", repetition)() == detections
        assert detector.clock.read().keys() == {"all", "head", "postprocess", "rest"}


def test_parts_of_a_variant(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compiled = ["MODEL.INFERENCE.COMPILE", "True"]
    for opts, missing in ((FUSED[2:], set()), (compiled, {"neck"})):
        detector = Detector(**DETECTOR | {"config": TINY[0], "variant": "fast", "opts": opts})
        assert detector.prepare("inference", 0)() > 0
        assert detector.clock.read().keys() == (PARTS | {"postprocess", "all"}) - missing
        detector.prepare("backbone_inference", 0)()
        assert detector.clock.read()["backbone"] > 0


def test_names_of_other_checkouts_are_found():
    assert find("kgdet_d2.nowhere:a", "kgdet_d2.schema:b", "kgdet_d2:__name__") == "kgdet_d2"
    with pytest.raises(ImportError, match="expected one of kgdet_d2:nothing, found none"):
        find("kgdet_d2:nothing")


def test_names_are_not_found_in_another_checkout(tmp_path, monkeypatch):
    """Python finds modules that a checkout lacks in an editable installation of another."""
    monkeypatch.setattr(_worker, "kgdet_d2", SimpleNamespace(__path__=[str(tmp_path)]))
    with pytest.raises(ImportError, match=f"{tmp_path}: expected one of kgdet_d2.schema:DEEPFASHION2"):
        find("kgdet_d2.schema:DEEPFASHION2")


def test_workers_and_ratios(tmp_path, stand_in, other_tree, capsys):
    (other_tree / "configs/sample").mkdir(parents=True)
    (other_tree / "configs/sample/kgdet_tiny.yaml").touch()
    rows = run(tmp_path, *TINY, "--checkout", str(other_tree), *FUSED)["results"]
    keys = {(row["name"], row["variant"], row["checkout"], row["mode"]) for row in rows}
    trees = [("kgdet_tiny", "here"), ("kgdet_tiny", str(other_tree)), ("retinanet_tiny", "here")]
    modes = ["inference", "training"]
    expected = {(name, "", tree, mode) for name, tree in trees for mode in modes}
    expected |= {(name, "fused", tree, "inference") for name, tree in trees}
    expected |= {(model.BACKBONE, "", "here", mode) for mode in modes}
    expected |= {(model.BACKBONE, "fused", "here", "inference")}
    assert keys == expected and len(rows) == len(expected)
    for row in rows:
        ratio = 0.5 if row["variant"] else 1
        assert row["ratios"] == {"retinanet_tiny": 1, model.BACKBONE: 1, "plain": ratio, "here": 1}
        assert row["ms"] == {"median": 6 * ratio, "lower": 6 * ratio, "upper": 6 * ratio}
        assert row["peak_mb"] == 5
    assert "| kgdet_tiny, fused" in capsys.readouterr().out


def test_a_checkout_has_its_own_configs(other_tree, tmp_path):
    assert model.config_in(other_tree, Path(TINY[0])) == other_tree / "configs/sample/kgdet_tiny.yaml"
    assert model.config_in(ROOT, Path(TINY[0])) == Path(TINY[0])
    assert model.config_in(other_tree, tmp_path / "mine.yaml") == tmp_path / "mine.yaml"


def test_aggregation_here_and_in_another_tree(tmp_path, stand_in, other_tree):
    rows = run(tmp_path, "--aggregation", "--checkout", str(other_tree), "--batch", "2")["results"]
    keys = [(row["name"], row["checkout"], row["mode"], row["batch"]) for row in rows]
    workers = [("torchvision", "here"), ("aggregation", "here"), ("aggregation", str(other_tree))]
    assert sorted(keys) == sorted((*worker, mode, 2) for worker in workers for mode in model.MODES[:2])
    ratios = [set(row["ratios"]) for row in rows if row["name"] == "aggregation"]
    assert ratios == [{"torchvision", "here"}] * 4


def test_a_worker_that_fails_is_named(tmp_path, stand_in, capsys):
    assert main(["model", str(tmp_path / "none.yaml"), *QUICK]) == 1
    assert capsys.readouterr().err == f"benchmarks model: none of {ROOT}: no such config\n"


def test_a_checkout_without_the_package_is_refused(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "new_process", lambda checkout, threads: InProcess("/elsewhere"))
    worker = model.Worker("aggregation", tmp_path, {"subject": "aggregation", "threads": 1})
    with pytest.raises(RuntimeError, match=f"expected the package in {tmp_path}, got /elsewhere/kgdet_d2"):
        worker.start()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aggregation", *FUSED], "--variant: expected different names, for inference of detectors"),
        (["--modes", "training", *FUSED], "--variant: expected different names, for inference of detectors"),
        ([*FUSED, *FUSED], r"got \['fused', 'fused'\]"),
        (["--aggregation", "--scores"], "--aggregation: has neither scores nor a mode 'head'"),
        (["--aggregation", "--modes", "head"], "--aggregation: has neither scores nor a mode 'head'"),
        (["--scores", "--modes", "training"], "--scores: expected no training and batches of 1"),
        (["--scores", "--batch", "1", "2"], "--scores: expected no training and batches of 1"),
    ],
)
def test_options_that_contradict_one_another(arguments, message, capsys):
    assert main(["model", *arguments]) == 1
    assert message.replace("\\", "") in capsys.readouterr().err
