"""``kgdet cross-validate`` with a stand-in for training, and once for real."""

import json
import runpy

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.cli import main
from kgdet_d2.config import load_config
from kgdet_d2.data.register import register_all
from kgdet_d2.engine import cross_validate
from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import columns
from tests.helpers.registered import NAME, random_case
from tests.helpers.scenes import Scene

CONFIG = "configs/sample/kgdet_tiny.yaml"


def start(output, *arguments, dataset=NAME, opts=()):
    words = ["--config-file", CONFIG, "--dataset", dataset, "--num-gpus", "0", "--output", str(output)]
    return main(["cross-validate", *words, *arguments, *opts])


@pytest.fixture
def scene(catalog):
    scene = random_case(DEEPFASHION2)
    catalog(scene.records, scene.schema)
    return scene


def part_of(scene, image_ids):
    """The scene of some of its photos."""
    rows = [row for row, record in enumerate(scene.records) if record["image_id"] in image_ids]
    return Scene(scene.schema, *([values[row] for row in rows] for values in (scene.records, scene.outputs)))


@pytest.fixture
def stand_in(scene, monkeypatch):
    """A training that leaves the scene's predictions of the fold's datasets."""

    def train(fold, args):
        fold.register()
        for name in (fold.left_out, fold.learnt):
            ids = {record["image_id"] for record in DatasetCatalog.get(name)}
            columns(part_of(scene, ids))[1].save(fold.folder / "inference" / name / "predictions.npz")
        fold.unregister()

    monkeypatch.setattr(cross_validate, "_train_in_process", train)


def test_each_photo_is_left_out_once(tmp_path):
    folds = cross_validate.deal("any", 26, 4, 7, tmp_path)
    assert sorted(row for fold in folds for row in fold.rows) == list(range(26))
    assert [len(fold.rows) for fold in folds] == [7, 7, 6, 6]
    assert [fold.rows for fold in folds] == [
        fold.rows for fold in cross_validate.deal("any", 26, 4, 7, tmp_path)
    ]
    assert folds[0].rows != cross_validate.deal("any", 26, 4, 8, tmp_path)[0].rows


def test_a_fold_and_what_is_learnt_share_no_photo(scene, tmp_path):
    fold = cross_validate.Fold(NAME, 2, (1, 4), tmp_path)
    fold.register()
    left_out, learnt = (
        [record["image_id"] for record in DatasetCatalog.get(name)] for name in (fold.left_out, fold.learnt)
    )
    assert left_out == [scene.records[1]["image_id"], scene.records[4]["image_id"]]
    assert sorted(left_out + learnt) == sorted(record["image_id"] for record in scene.records)
    assert MetadataCatalog.get(fold.learnt).keypoint_schema == scene.schema
    fold.unregister()
    assert fold.left_out not in DatasetCatalog and fold.learnt not in MetadataCatalog


def test_scores_of_folds_and_of_all_photos(scene, stand_in, tmp_path, capsys):
    output = tmp_path / "folds"
    assert start(output, "--folds", "3") == 0
    report = json.loads((output / "cross_validation.json").read_text())
    truth, predictions = columns(scene)
    for task, (whole,) in average_precisions(truth, predictions).items():
        assert report["left_out"][task]["AP"] == pytest.approx(whole.summary()["AP"], abs=1e-9)
    for fold in report["folds"]:
        ids = {record["image_id"] for record in scene.records} - set(fold["photos"])
        learnt = average_precisions(*columns(part_of(scene, ids)))
        assert fold["learnt"]["bbox"]["AP50"] == pytest.approx(learnt["bbox"][0].summary()["AP50"], abs=1e-9)
    together = Predictions.load(output / "predictions.npz", scene.schema)
    assert sorted(together.image_id) == sorted(predictions.image_id)
    printed = capsys.readouterr().out
    assert printed.count("fold ") == 3 and "all 15" in printed
    assert f"{report['left_out']['bbox']['AP']:.2f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--folds", "16"), f"--folds: expected at most 15, the photos of {NAME}, got 16"),
        (("MODEL.WEIGHTS", "missing.pth"), "MODEL.WEIGHTS: 'missing.pth' does not exist"),
        (("MODEL.KGDET.SCHEMA", "fld"), f"expected the landmarks of MODEL.KGDET.SCHEMA = '{FLD.name}'"),
    ],
)
def test_settings_that_cannot_be(scene, stand_in, tmp_path, capsys, arguments, message):
    assert start(tmp_path / "folds", *arguments) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "folds").exists()


def test_a_folder_that_is_there_is_kept(scene, stand_in, tmp_path, capsys):
    assert start(tmp_path) == 1
    assert f"--output: {tmp_path} is there already" in capsys.readouterr().err


@pytest.fixture
def drawn_photos(tmp_path, monkeypatch):
    root = tmp_path / "data"
    sample = ["--root", str(root / "synthfashion"), "--workers", "1"]
    make_synthetic = runpy.run_path("datasets/make_synthetic.py")["main"]
    assert make_synthetic([*sample, "--train", "5", "--validation", "1", "--size", "96"]) == 0
    assert main(["prepare", "deepfashion2", *sample]) == 0
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    register_all(root)


QUICK = ("SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)")


@pytest.mark.slow
def test_folds_for_real(drawn_photos, tmp_path, capsys):
    output = tmp_path / "folds"
    assert start(output, "--folds", "2", dataset="synthfashion_train", opts=QUICK) == 0
    for number in (1, 2):
        cfg = load_config(str(output / f"fold{number}" / "config.yaml"), [])
        assert cfg.DATASETS.TRAIN == (f"synthfashion_train_fold{number}_learnt",)
        assert (output / f"fold{number}" / "model_final.pth").is_file()
    truth = DatasetCatalog.get("synthfashion_train").annotations
    together = Predictions.load(output / "predictions.npz", truth.schema)
    assert np.array_equal(np.sort(together.image_id), np.sort(truth.image_id))
    assert isinstance(truth, AnnotationTable) and "fold 2: 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_fails_is_named(drawn_photos, tmp_path, capfd):
    output = tmp_path / "folds"
    opts = (*QUICK, "DATALOADER.SAMPLER_TRAIN", "NoSuchSampler")
    assert start(output, "--folds", "2", dataset="synthfashion_train", opts=opts) == 1
    assert f"error: fold 1: training ended with 1, see {output / 'fold1'}" in capfd.readouterr().err
