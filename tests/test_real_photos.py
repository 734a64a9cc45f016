"""The whole way on real photos: prepare, load, map, forward, loss, inference, evaluate, draw."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from kgdet_d2 import cli
from kgdet_d2.data.register import register_all

PHOTOS = Path(__file__).parents[2] / "shared" / "deepfashion2_sample" / "validation"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")

CONFIG = "configs/sample/kgdet_tiny.yaml"
OPTIONS = """
MODEL.DEVICE cpu DATASETS.TRAIN ('deepfashion2_val',) DATASETS.TEST ('deepfashion2_val',)
INPUT.MIN_SIZE_TRAIN (128,) INPUT.MIN_SIZE_TEST 128 MODEL.KGDET.SCORE_THRESH_TEST 0.0
""".split()
TWO_ITERATIONS = "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.STEPS () DATALOADER.NUM_WORKERS 0".split()


def run(*arguments):
    assert cli.main(arguments) == 0


@pytest.fixture
def datasets(tmp_path, restored_loggers, capsys):
    root = tmp_path / "datasets"
    (root / "deepfashion2").mkdir(parents=True)
    (root / "deepfashion2" / "validation").symlink_to(PHOTOS)
    run("prepare", "deepfashion2", "--root", str(root / "deepfashion2"))
    assert "24 photos, 42 garments" in capsys.readouterr().out
    register_all(root)


def test_train_evaluate_and_draw(datasets, tmp_path):
    options = ["OUTPUT_DIR", str(tmp_path), *OPTIONS]
    run("train", "--config-file", CONFIG, "--num-gpus", "0", *options, *TWO_ITERATIONS)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert all(np.isfinite(line["total_loss"]) for line in lines if "total_loss" in line)
    assert {"bbox/AP", "keypoints/AP"} <= lines[-1].keys() | lines[-2].keys()
    figures = tmp_path / "figures"
    draw = ["draw", "--config-file", CONFIG, "--output", str(figures), "--max-images", "3"]
    run(*draw, *OPTIONS, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    assert len(list(figures.glob("*.jpg"))) == 4
    assert cv2.imread(str(figures / "page.jpg")).std() > 10
