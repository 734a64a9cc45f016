"""FLD from a synthetic tree's text lists to detections."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper, register_all
from kgdet_d2.data.convert.fld import BOXES, LANDMARKS, PARTITION, SPLITS
from kgdet_d2.engine.trainer import Trainer
from kgdet_d2.schema import DEEPFASHION2, FLD

ROOT = Path(__file__).parents[2]


def script(name):
    """A script of datasets/, which no package may import."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "datasets" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """A root whose ``fld`` was made out of drawn photos, prepared."""
    root = tmp_path_factory.mktemp("datasets")
    drawn, fld = str(root / "drawn"), str(root / "fld")
    counts = ["--train", "12", "--validation", "6", "--size", "96"]
    assert script("make_synthetic").main(["--root", drawn, *counts]) == 0
    assert script("make_synthetic_fld").main(["--source", drawn, "--root", fld]) == 0
    assert script("prepare_fld").main(["--root", fld, "--workers", "1"]) == 0
    return root


@pytest.fixture
def registered(synthetic, monkeypatch):
    """The catalogues with ``fld_...`` of the synthetic tree."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    register_all(synthetic)
    return {split: list(DatasetCatalog.get(f"fld_{split}")) for split in SPLITS}


def test_the_registered_splits_are_the_lists_read_line_by_line(synthetic, registered):
    rows = {
        file: [line.split() for line in (synthetic / "fld" / file).read_text().splitlines()[2:]]
        for file in (BOXES, LANDMARKS, PARTITION)
    }
    compared = 0
    for (name, split), (_, *box), (_, kind, variation, *marks) in zip(
        rows[PARTITION], rows[BOXES], rows[LANDMARKS], strict=True
    ):
        (record,) = (record for record in registered[split] if record["file_name"].endswith(name))
        assert record["file_name"] == str(synthetic / "fld" / name)
        assert Image.open(record["file_name"]).size == (record["width"], record["height"])
        (annotation,) = record["annotations"]
        assert annotation["category_id"] + 1 == int(kind)
        assert annotation["variation_type"] == int(variation)
        assert annotation["bbox"] == [int(x) for x in box]
        expected = []
        for v, x, y in zip(marks[::3], marks[1::3], marks[2::3], strict=True):
            expected += {"0": [int(x), int(y), 2], "1": [int(x), int(y), 1], "2": [0, 0, 0]}[v]
        assert annotation["keypoints"].tolist() == expected
        compared += 1
    assert compared == 18 == sum(map(len, registered.values()))
    assert [len(registered[split]) for split in SPLITS] == [12, 3, 3]
    assert {row[1] for row in rows[LANDMARKS]} == {"1", "2", "3"}


def test_no_photo_is_in_two_splits(registered):
    ids = [record["image_id"] for records in registered.values() for record in records]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("category", "kind", "indices"),
    [
        ("short sleeve top", "upper", [1, 5, 8, 22, 14, 16]),
        ("vest", "upper", [1, 5, 6, 14, 9, 11]),
        ("trousers", "lower", [0, 2, 5, 11]),
        ("skirt", "lower", [0, 2, 4, 6]),
        ("vest dress", "full", [1, 5, 6, 18, 9, 15, 11, 13]),
    ],
)
def test_the_synthetic_tree_s_landmarks(category, kind, indices):
    """Indices into DeepFashion2's landmarks from 0, counted by hand along the contour."""
    module, index = script("make_synthetic_fld"), DEEPFASHION2.class_names.index(category)
    points = np.arange(3.0 * DEEPFASHION2.num_class_keypoints(index)).reshape(-1, 3)
    points[:, 2] = np.arange(len(points)) % 3
    assert FLD.class_names[module.fld_class(index)] == kind
    converted = module.fld_landmarks(points, index)
    assert converted.tolist() == [[2 - i % 3, 3 * i, 3 * i + 1] for i in indices]


def test_a_synthetic_tree_does_not_replace_another(synthetic, capsys):
    arguments = ["--source", str(synthetic / "drawn"), "--root", str(synthetic / "fld")]
    assert script("make_synthetic_fld").main(arguments) == 1
    assert "fld: expected a new or empty folder" in capsys.readouterr().err


def test_the_mapper_swaps_left_and_right_in_the_shared_slots(registered):
    plain, mirrored = (
        FashionDatasetMapper(
            is_train=True, schema=FLD, augmentations=augmentations, image_format="RGB", use_keypoint=True
        )
        for augmentations in ([], [T.RandomFlip(prob=1.0)])
    )
    for record in registered["train"]:
        one, other = (mapper(record)["instances"].gt_keypoints.tensor for mapper in (plain, mirrored))
        assert one.shape == other.shape == (1, 8, 3)
        expected = one.clone()
        expected[..., 0] = record["width"] - one[..., 0]
        expected[one[..., 2] == 0] = 0
        torch.testing.assert_close(other, expected[:, [1, 0, 3, 2, 5, 4, 7, 6]])


def test_a_small_model_trains_and_detects(registered, tmp_path):
    opts = {
        "MODEL.KGDET.SCHEMA": "fld",
        "MODEL.KGDET.FLIP_FUSION.ENABLED": True,
        "MODEL.KGDET.SCORE_THRESH_TEST": 0.0,
        "MODEL.DEVICE": "cpu",
        "DATASETS.TRAIN": "('fld_train',)",
        "DATASETS.TEST": "('fld_test',)",
        "SOLVER.IMS_PER_BATCH": 4,
        "OUTPUT_DIR": str(tmp_path),
    }
    torch.manual_seed(0)
    pairs = [part for pair in opts.items() for part in pair]
    cfg = load_config(str(ROOT / "configs/sample/kgdet_tiny.yaml"), pairs)
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    batch = next(iter(Trainer.build_train_loader(cfg)))
    losses = sum(model(batch).values())
    losses.backward()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer.step()
    assert torch.isfinite(losses) and any(
        (value != before[name]).any() for name, value in model.named_parameters()
    )

    model.eval()
    for batch in Trainer.build_test_loader(cfg, "fld_test"):
        with torch.no_grad():
            instances = model(batch)[0]["instances"]
        assert len(instances) and instances.pred_keypoints.shape == (len(instances), 8, 3)
        assert instances.pred_classes.max() < 3
    scores = Trainer.test(cfg, model)
    assert {"bbox", "keypoints"} <= scores.keys() and scores["bbox"]["AP"] >= 0
