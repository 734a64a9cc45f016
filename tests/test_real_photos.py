"""The whole way on real photos: prepare, load, map, forward, loss, inference, evaluate, draw."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

PHOTOS = Path(__file__).parents[2] / "shared" / "deepfashion2_sample" / "validation"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")

CONFIG = "configs/sample/kgdet_tiny.yaml"
OPTIONS = """
MODEL.DEVICE cpu DATASETS.TRAIN ('deepfashion2_val',) DATASETS.TEST ('deepfashion2_val',)
INPUT.MIN_SIZE_TRAIN (128,) INPUT.MIN_SIZE_TEST 128 MODEL.KGDET.SCORE_THRESH_TEST 0.0
""".split()
TWO_ITERATIONS = "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.STEPS () DATALOADER.NUM_WORKERS 0".split()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    (root / "deepfashion2").mkdir()
    (root / "deepfashion2" / "validation").symlink_to(PHOTOS)
    done = run(root, "datasets/prepare_deepfashion2.py", "--root", str(root / "deepfashion2"))
    assert "24 photos, 42 garments" in done.stdout
    return root


def run(root, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_train_evaluate_and_draw(root, tmp_path):
    train = ["train_net.py", "--config-file", CONFIG, "--num-gpus", "0"]
    run(root, *train, *OPTIONS, *TWO_ITERATIONS, "OUTPUT_DIR", str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert all(np.isfinite(line["total_loss"]) for line in lines if "total_loss" in line)
    assert {"bbox/AP", "keypoints/AP"} <= lines[-1].keys() | lines[-2].keys()
    figures = tmp_path / "figures"
    draw = [
        "tools/draw_predictions.py",
        "--config-file",
        CONFIG,
        "--output",
        str(figures),
        "--max-images",
        "3",
    ]
    run(root, *draw, *OPTIONS, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    assert len(list(figures.glob("*.jpg"))) == 4
    assert cv2.imread(str(figures / "page.jpg")).std() > 10
