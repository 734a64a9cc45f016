"""Garments and landmarks of one's own through all systems and all commands, from COCO's JSON on."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2 import cli
from kgdet_d2.data import register
from kgdet_d2.data.register import register_all

ROOT = Path(__file__).parents[2]
SYSTEMS = [
    "kgdet_tiny",
    "kgdet_plus_tiny_scratch",
    "reppoints_tiny",
    "reppoints_kp_tiny",
    "retinanet_tiny",
    "fcos_tiny",
    "match_rcnn_tiny",
]
QUICK = [
    "SOLVER.IMS_PER_BATCH",
    "2",
    "SOLVER.STEPS",
    "()",
    "SOLVER.MAX_ITER",
    "2",
    "SEED",
    "1",
    "MODEL.WEIGHTS",
    "",
]
QUICK += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"]
OWN = ["DATASETS.TRAIN", "('wardrobe_train',)", "DATASETS.TEST", "('wardrobe_val',)"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The drawn example, in small; the photos of each pair of neighbours are of the same item."""
    script = importlib.util.spec_from_file_location("example", ROOT / "datasets/make_own_example.py")
    example = importlib.util.module_from_spec(script)
    script.loader.exec_module(example)
    folder = tmp_path_factory.mktemp("own") / "wardrobe"
    assert example.main(["--root", str(folder), "--train", "6", "--val", "4"]) == 0
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        for image in content["images"]:
            image["pair_id"] = (image["id"] + 1) // 2
            image["source"] = ["user", "shop"][image["id"] % 2]
        for annotation in content["annotations"]:
            annotation["style"] = 1
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def prepared(drawn, tmp_path, monkeypatch):
    """The example prepared and registered; what is registered is forgotten."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    words = ["--json", str(drawn / "train.json"), "--val-json", str(drawn / "val.json"), "--name", "wardrobe"]
    assert cli.main(["prepare", "coco", *words, "--images", str(drawn / "photos"), "--workers", "1"]) == 0
    register_all(tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path / "wardrobe")
    for name in ("wardrobe_train", "wardrobe_val"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        register._registered.discard(name)
    register_all("datasets")


def kgdet(*words):
    assert cli.main([str(word) for word in words]) == 0


def train(output, system, *opts):
    config = ["--config-file", f"configs/sample/{system}.yaml", "--num-gpus", "0"]
    kgdet("train", *config, *QUICK, *OWN, "OUTPUT_DIR", output, *opts)
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_and_is_evaluated(prepared, restored_loggers, tmp_path, system):
    metrics = train(tmp_path / "run", system)
    assert np.isfinite(metrics["total_loss"])
    assert {"bbox/AP", "bbox/AP-T-shirt", "bbox/AP-trousers"} <= metrics.keys()
    has_landmarks = system not in ("reppoints_tiny", "retinanet_tiny", "fcos_tiny")
    assert ("keypoints/AP-trousers" in metrics) == has_landmarks
    weights, found = tmp_path / "run/model_final.pth", tmp_path / "run/inference/wardrobe_val/predictions.npz"
    stored = ["--dataset", "wardrobe_val", "--predictions", found]
    kgdet("evaluate", *stored, "--output", tmp_path / "scores.json")
    kgdet("errors", *stored, "--oracle")
    kgdet("report", *stored, "--output", tmp_path / "report.html")
    kgdet("draw", "--weights", weights, "--output", tmp_path / "figures", "MODEL.DEVICE", "cpu")
    assert len(list((tmp_path / "figures").glob("*.jpg"))) == 5


@pytest.mark.slow
def test_a_model_predicts_by_its_checkpoint_alone(prepared, drawn, restored_loggers, tmp_path):
    """Where the data set is not registered."""
    train(tmp_path / "run", "kgdet_tiny", "MODEL.KGDET.SCORE_THRESH_TEST", "0.0")
    register_all("datasets")
    words = ["--weights", tmp_path / "run/model_final.pth", "--output", tmp_path / "found"]
    kgdet("predict", drawn / "new", *words, "--formats", "coco", "jsonl", "--score-threshold", "0.01")
    lines = [json.loads(line) for line in (tmp_path / "found/garments.jsonl").read_text().splitlines()]
    names = {garment["class"] for line in lines for garment in line.get("garments", [line])}
    assert names <= {"T-shirt", "trousers"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["image", "feature"])
def test_flip_fusion(prepared, restored_loggers, tmp_path, mode):
    fusion = "MODEL.KGDET.FLIP_FUSION."
    train(
        tmp_path / "run",
        "kgdet_tiny",
        f"{fusion}ENABLED",
        "True",
        f"{fusion}IN_TRAINING",
        "True",
        f"{fusion}MODE",
        mode,
    )


@pytest.mark.slow
def test_match_rcnn_matches_pairs_of_one_s_own(prepared, restored_loggers, tmp_path):
    metrics = train(tmp_path / "run", "match_rcnn_tiny_matching")
    assert any(name.startswith("retrieval_gt_boxes/") for name in metrics)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["coco", "cvat", "fiftyone", "labelstudio"])
def test_export_of_the_data_set(prepared, tmp_path, form):
    kgdet("export-dataset", "wardrobe_val", "--format", form, "--output", tmp_path / "exported")


MODULE = """
from detectron2.data import MetadataCatalog, DatasetCatalog
from detectron2.data.datasets import register_coco_instances

if "toes" not in DatasetCatalog:
    metadata = {"keypoint_names": ["left toe", "right toe"], "keypoint_flip_map": [("left toe", "right toe")]}
    register_coco_instances("toes", metadata, "toes.json", "photos")
"""


def test_register_coco_instances_with_names_of_keypoints(drawn, restored_loggers, tmp_path, monkeypatch):
    """A set that Detectron2's own call has registered, of a module that the config names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(drawn / "photos")
    (tmp_path / "my_toes.py").write_text(MODULE)
    content = json.loads((drawn / "train.json").read_text())
    content["categories"] = [{"id": 7, "name": "sock"}, {"id": 3, "name": "shoe"}]
    for annotation in content["annotations"]:
        annotation["keypoints"], annotation["num_keypoints"] = annotation["keypoints"][:6], 2
    del content["annotations"][0]["keypoints"]
    (tmp_path / "toes.json").write_text(json.dumps(content))
    names = ["DATASETS.IMPORT", "['my_toes']", "DATASETS.TRAIN", "('toes',)", "DATASETS.TEST", "('toes',)"]
    config = ["--config-file", "sample/kgdet_tiny.yaml", "--num-gpus", "0"]
    try:
        kgdet("train", *config, *QUICK, *names, "OUTPUT_DIR", tmp_path / "run")
        assert MetadataCatalog.get("toes").keypoint_schema.class_names == ("shoe", "sock")
        log = (tmp_path / "run/metrics.json").read_text()
        assert "keypoints/AP-shoe" in log
    finally:
        DatasetCatalog.remove("toes")
        MetadataCatalog.remove("toes")
