"""The benchmark of trained weights: time against AP."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image

from benchmarks import model as benchmark
from benchmarks.__main__ import main
from benchmarks._worker import Detector
from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.in_process import InProcess

CONFIG, NAME = str(Path(__file__).parents[2] / "configs/sample/kgdet_tiny.yaml"), "test_benchmark_scores"
SPARSE = "MODEL.KGDET.SPARSE_CELLS"


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr(benchmark, "new_process", InProcess)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Three photos of noise."""
    folder = tmp_path_factory.mktemp("photos")
    records = []
    for index in range(3):
        pixels = torch.randint(256, (96, 64, 3), generator=torch.Generator().manual_seed(index))
        path = folder / f"{index}.png"
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)
        records.append({"file_name": str(path), "image_id": index, "height": 96, "width": 64})
    return records


@pytest.fixture(scope="module")
def opts(records, tmp_path_factory):
    """Overrides that name the weights of a random model, and a dataset whose garments it detects."""
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(keypoint_schema=DEEPFASHION2)
    settings = ["DATASETS.TEST", f"('{NAME}',)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_config(CONFIG, [*settings, "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for stage in model.head.stages:
        for parameter in stage.parameters():
            torch.nn.init.normal_(parameter, std=0.05 if parameter.dim() > 1 else 0.5)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    mapper = FashionDatasetMapper(cfg, is_train=False)
    with torch.no_grad():
        for record in records:
            (output,) = model([mapper(record)])
            record["annotations"] = [garment(output["instances"], row) for row in range(3)]
    yield [*settings, "MODEL.WEIGHTS", str(path)]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)


def garment(instances, row):
    """One detection as an annotation."""
    label = instances.pred_classes[row].item()
    keypoints = instances.pred_keypoints[row, DEEPFASHION2.slots[label]]
    keypoints[:, 2] = 2
    box = instances.pred_boxes.tensor[row].tolist()
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "keypoints": keypoints.tolist()}


def run(opts, *arguments):
    quick = ["--scores", "--device", "cpu", "--threads", "1", "--repetitions", "2"]
    return main(["model", CONFIG, *quick, *arguments, "--opts", *opts])


def test_scores_and_times_of_all_variants(opts, records, tmp_path, capsys):
    path = tmp_path / "report.json"
    variants = [("all", SPARSE, "1000"), ("few", SPARSE, "1"), ("fused", "MODEL.INFERENCE.FUSE_BN", "True")]
    options = [word for variant in variants for word in ("--variant", *variant)]
    assert run(opts, *options, "--json", str(path)) == 0
    report = json.loads(path.read_text())
    assert report.keys() >= {"commit", "hardware", "threads", "versions"}
    assert report["settings"]["variants"] == [list(variant) for variant in variants]
    detectors = [row for row in report["results"] if row["name"] == "kgdet_tiny"]
    assert [row["variant"] for row in detectors] == ["", "all", "few", "fused"]
    assert {row["mode"] for row in report["results"]} == {"inference"}
    plain, every, few, fused = detectors
    assert plain["scores"] == pytest.approx(scores_by_hand(opts, records)) and plain["scores"]["box AP"] > 50
    for row in detectors:
        assert row["ms"]["lower"] <= row["ms"]["median"] <= row["ms"]["upper"]
        assert row["ratios"]["plain"] == pytest.approx(row["ms"]["median"] / plain["ms"]["median"])
        for name, value in row["changes"].items():
            assert value == pytest.approx(row["scores"][name] - plain["scores"][name])
    for row in (every, fused):
        assert row["changes"] == pytest.approx(dict.fromkeys(plain["scores"], 0.0), abs=1e-3)
    assert all(value < -10 for value in few["changes"].values())
    assert all(not row["scores"] for row in report["results"] if row["name"] == benchmark.BACKBONE)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert "box AP" in lines[0] and "/ plain" in lines[0] and lines[2].startswith("| kgdet_tiny")
    assert f"{few['changes']['box AP']:+.2f}" in lines[4]


def scores_by_hand(opts, records):
    cfg = load_config(CONFIG, [*opts, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(cfg.MODEL.WEIGHTS)["model"])
    mapper, evaluator = FashionDatasetMapper(cfg, is_train=False), FashionEvaluator(NAME)
    with torch.no_grad():
        for record in records:
            evaluator.process([record], model([mapper(record)]))
    results = evaluator.evaluate()
    scores = {"box AP": results["bbox"]["AP"], "AP50": results["bbox"]["AP50"]}
    return scores | {"landmark AP": results["keypoints"]["AP"]}


def test_images_are_timed_one_after_the_other(opts):
    request = {"variant": "", "images": None, "size": [64, 64], "candidates": 9, "precision": "float32"}
    request |= {"device": "cpu", "channels_last": False, "own_size": False}
    detector = Detector(config=CONFIG, opts=opts, **request)
    detector.inference = lambda images: [image["image_id"] for image in images]
    assert [detector.prepare("inference", repetition)() for repetition in range(4)] == [[0], [1], [2], [0]]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (["other", "MODEL.WEIGHTS", "none.pth"], "'none.pth' does not exist"),
        (["other", "MODEL.WEIGHTS", "{copy}"], "expected the same ones for all"),
        (["other", "DATASETS.TEST", "('test_benchmark_scores_2',)"], "expected the same ones for all"),
        (["other", SPARSE, "-1"], "SPARSE_CELLS: expected at least 0"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(
    opts, records, variant, message, tmp_path, capsys, monkeypatch
):
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    DatasetCatalog.register(f"{NAME}_2", lambda: records)
    MetadataCatalog.get(f"{NAME}_2").set(keypoint_schema=DEEPFASHION2)
    weights = Path(opts[opts.index("MODEL.WEIGHTS") + 1])
    (tmp_path / "copy.pth").write_bytes(weights.read_bytes())
    assert run(opts, "--variant", *(word.format(copy=tmp_path / "copy.pth") for word in variant)) == 1
    assert message in capsys.readouterr().err
