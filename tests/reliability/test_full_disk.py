"""A full disk under each writer: one line, no file that is not whole, and what was there is as it was."""

import numpy as np
import pytest
from PIL import Image

from kgdet_d2.data.register import register_all
from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.columns import columns
from tests.helpers.full_disk import KB, assert_told_and_nothing_lost
from tests.helpers.own_coco import OwnCoco
from tests.helpers.registered import NAME, random_case
from tests.helpers.trainings import arguments


@pytest.mark.reliability
def test_prepare_on_a_full_disk(disk, native_tree, tmp_path, campaign):
    own = OwnCoco(tmp_path / "own")
    own.write()
    splits = ["validation.npz", "validation_report.tsv", "validation_coco_all.json"]
    native = ["prepare", "deepfashion2", "--root", native_tree, "--workers", 1, "--official-coco", "--output"]
    coco = ["prepare", "coco", "--json", own.root / "train.json", "--images", own.root / "photos"]
    coco += ["--name", "mine", "--workers", 1, "--output"]
    written = ["schema.yaml", "dataset.yaml", "annotations/train.npz", "annotations/train_report.tsv"]
    cases = {
        "deepfashion2": (splits, lambda folder: [*native, folder]),
        "coco": (written, lambda folder: [*coco, folder, "--overwrite-schema"]),
    }
    full = {
        f"{name}, {left} bytes left": lambda case=case, left=left: assert_told_and_nothing_lost(
            disk, *case, left=left
        )
        for name, case in cases.items()
        for left in (0, 4 * KB)
    }
    campaign.each("full disk: prepare", full)


@pytest.mark.reliability
def test_reports_on_a_full_disk(disk, catalog, tmp_path, campaign):
    scene = random_case(DEEPFASHION2)
    catalog(scene.records, scene.schema)
    stored = tmp_path / "predictions.npz"
    columns(scene)[1].save(stored)
    of = ["--dataset", NAME, "--predictions", stored]
    export = ["export-dataset", NAME, "--predictions", stored, "--format"]
    tables = ["evaluation.md", "evaluation.json"]
    cases = {
        "evaluate": (tables, lambda folder: ["evaluate", *of, "--output", folder]),
        "evaluate, COCO": (["o.json"], lambda folder: ["evaluate", *of, "--export-coco", folder / "o.json"]),
        "report": (["page.html"], lambda folder: ["report", *of, "--output", folder / "page.html"]),
        "coco": (["annotations.json", "results.json"], lambda folder: [*export, "coco", "--output", folder]),
        "cvat": (["ground_truth.zip"], lambda folder: [*export, "cvat", "--output", folder]),
        "fiftyone": (["samples.json"], lambda folder: [*export, "fiftyone", "--output", folder]),
        "labelstudio": (["tasks.json"], lambda folder: [*export, "labelstudio", "--output", folder]),
    }
    full = {
        name: lambda case=case: assert_told_and_nothing_lost(disk, *case, left=0)
        for name, case in cases.items()
    }
    campaign.each("full disk: evaluate, report, export-dataset", full)


@pytest.mark.reliability
def test_models_on_a_full_disk(disk, weights, datasets_root, restored_loggers, tmp_path, campaign):
    register_all(datasets_root)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo)
    on_cpu = ["--device", "cpu", "--score-threshold", 0]
    train = ["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1"]
    checkpoints = ["model_0000000.pth", "model_final.pth", "last_checkpoint"]

    def training(folder):
        return ["train", *arguments("kgdet_tiny", folder, "--overwrite", *train)]

    def evaluation(folder):
        opts = ["--eval-only", "MODEL.WEIGHTS", str(weights), "DATASETS.TEST", "('synthfashion_train',)"]
        opts += ["MODEL.KGDET.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "100"]
        return ["train", *arguments("kgdet_tiny", folder, *opts)]

    def predict(folder):
        return ["predict", photo, "--weights", weights, "--output", folder / "found", *on_cpu]

    def draw(folder):
        return ["draw", "--weights", weights, "--output", folder, "--max-images", 1, "MODEL.DEVICE", "cpu"]

    def export(folder):
        return ["export", "--weights", weights, "--format", "onnx", "--output", folder / "model.onnx"]

    stored = "inference/synthfashion_train/predictions.npz"
    cases = {
        "training": lambda: assert_told_and_nothing_lost(
            disk, checkpoints, training, size=1024, left=512 * KB
        ),
        "evaluation": lambda: assert_told_and_nothing_lost(
            disk, [stored], evaluation, size=160, left=100 * KB, expected_status=0
        ),
        "predict": lambda: assert_told_and_nothing_lost(disk, [], predict, left=8 * KB),
        "draw": lambda: assert_told_and_nothing_lost(disk, ["page.jpg"], draw),
        "export": lambda: assert_told_and_nothing_lost(disk, ["model.onnx"], export),
    }
    for name in ("model.pth", "model.safetensors"):
        cases[f"convert, {name}"] = lambda name=name: assert_told_and_nothing_lost(
            disk, [name], lambda folder: ["convert", weights, folder / name]
        )
    campaign.each("full disk: train, predict, draw, export, convert", cases)
