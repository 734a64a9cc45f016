import json

import benchmark_inference
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image

from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2

CONFIG, NAME = "configs/sample/kgdet_tiny.yaml", "test_benchmark_inference"
SPARSE = "MODEL.KGDET.SPARSE_CELLS"


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
            (found,) = model([mapper(record)])
            record["annotations"] = [garment(found["instances"], row) for row in range(3)]
    yield [*settings, "MODEL.WEIGHTS", str(path)]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)


def garment(instances, row):
    """One detection as an annotation."""
    label = instances.pred_classes[row].item()
    own = instances.pred_keypoints[row, DEEPFASHION2.slots[label]]
    own[:, 2] = 2
    box = instances.pred_boxes.tensor[row].tolist()
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "keypoints": own.tolist()}


def run(tmp_path, opts, *arguments):
    path = tmp_path / "report.json"
    arguments = ["--config-file", CONFIG, "--device", "cpu", *arguments, "--json", str(path), "--opts", *opts]
    assert benchmark_inference.main(arguments) == 0
    return json.loads(path.read_text())


def test_scores_and_times_of_all_variants(opts, records, tmp_path, capsys):
    variants = [
        ("dense",),
        ("all", SPARSE, "1000"),
        ("one", SPARSE, "1"),
        ("fused", "MODEL.INFERENCE.FUSE_BN", "True"),
    ]
    report = run(tmp_path, opts, *(word for variant in variants for word in ("--variant", *variant)))
    assert report["dataset"] == NAME and report.keys() >= {"commit", "hardware", "threads", "versions"}
    assert [(row["name"], *row["overrides"]) for row in report["results"]] == variants
    dense, every, one, fused = report["results"]
    assert dense["scores"] == pytest.approx(scores_by_hand(opts, records)) and dense["scores"]["box AP"] > 50
    for row in report["results"]:
        assert row["timed"] == 2 and row["ms"]["lower"] <= row["ms"]["median"] <= row["ms"]["upper"]
        assert row["ratio"] == pytest.approx(row["ms"]["median"] / dense["ms"]["median"])
        for name, value in row["changes"].items():
            assert value == pytest.approx(row["scores"][name] - dense["scores"][name])
    for row in (every, fused):
        assert row["changes"] == pytest.approx(dict.fromkeys(dense["scores"], 0.0), abs=1e-3)
    assert all(value < -10 for value in one["changes"].values())
    lines = capsys.readouterr().out.splitlines()
    assert "box AP" in lines[0] and "/ dense" in lines[0] and lines[2].startswith("| dense")
    assert f"{one['changes']['box AP']:+.2f}" in lines[4]


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


def test_fewer_photos_are_timed(opts, tmp_path):
    (row,) = run(tmp_path, opts, "--variant", "dense", "--max-images", "2")["results"]
    assert row["timed"] == 1


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (["other", "MODEL.WEIGHTS", "none.pth"], "'none.pth' does not exist"),
        (["other", "MODEL.WEIGHTS", CONFIG], "expected the same ones in all variants"),
        (["other", "DATASETS.TEST", "('synthfashion_val',)"], "expected the same ones in all variants"),
        (["other", SPARSE, "-1"], "SPARSE_CELLS: expected at least 0"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused(opts, variant, message, capsys):
    arguments = ["--config-file", CONFIG, "--device", "cpu", "--variant", "dense", "--variant", *variant]
    assert benchmark_inference.main([*arguments, "--opts", *opts]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--variant", "a", "--variant", "a"], ["--variant", "a", "--max-images", "1"], []]
)
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(SystemExit):
        benchmark_inference.parse_arguments(["--config-file", CONFIG, *arguments])
