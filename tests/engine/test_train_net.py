"""``train_net.py`` and ``kgdet train``, on a handful of drawn photos."""

import copy
import itertools
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kgdet_d2 import cli
from kgdet_d2.checkpoint.checkpointer import config_of
from kgdet_d2.config import load_config
from kgdet_d2.data.register import register_all
from kgdet_d2.engine import MatchingTrainer, Trainer, main, trainer
from kgdet_d2.modeling.losses import KGDetCriterion
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.predictions import Predictions

CONFIG = "configs/sample/kgdet_tiny.yaml"
QUICK = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"]
QUICK += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]


def run(*arguments, root=None):
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | ({"DETECTRON2_DATASETS": str(root)} if root else {}),
        capture_output=True,
        text=True,
    )


def options(*arguments, num_gpus=0):
    return ["--config-file", CONFIG, "--num-gpus", str(num_gpus), *arguments, *QUICK]


@pytest.fixture(scope="module")
def datasets_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    sample = str(root / "synthfashion")
    photos = ("--train", "4", "--validation", "3", "--size", "96")
    done = run("datasets/make_synthetic.py", "--root", sample, *photos)
    assert done.returncode == 0, done.stderr
    assert cli.main(["prepare", "deepfashion2", "--root", sample, "--workers", "1"]) == 0
    return root


def test_a_config_that_comes_with_the_package_is_found_by_name(datasets_root, tmp_path, monkeypatch):
    """From any folder, as the README has it."""
    monkeypatch.chdir(tmp_path)
    parser = trainer.make_parser()
    arguments = ["--config-file", "sample/kgdet_tiny.yaml", "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path)]
    cfg = trainer.setup(parser.parse_args(arguments))
    assert cfg.MODEL.META_ARCHITECTURE == "KGDet" and (tmp_path / "config.yaml").is_file()


@pytest.fixture(scope="module")
def trained(datasets_root, tmp_path_factory):
    """A training of two iterations by train_net.py, in a process of its own: the witness of the script."""
    output = tmp_path_factory.mktemp("output")
    arguments = options("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "2")
    done = run("train_net.py", *arguments, root=datasets_root)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(output=output, log=done.stdout)


@pytest.fixture
def here(datasets_root, restored_loggers):
    """Register the datasets for runs in this process."""
    register_all(datasets_root)


def train(*arguments):
    """Train or evaluate in this process; the results."""
    return main(trainer.make_parser().parse_args(options(*arguments)))


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def all_metrics(output):
    return {name: value for line in metrics(output) for name, value in line.items()}


def test_training_leaves_checkpoint_log_and_metrics(trained):
    assert (trained.output / "model_final.pth").is_file() and (trained.output / "log.txt").is_file()
    written = all_metrics(trained.output)
    assert {"total_loss", "loss_cls_1", "loss_box_2", "loss_keypoint_3", "lr"} <= written.keys()
    assert {"bbox/AP", "bbox/AP50", "keypoints/AP", "keypoints/AP75"} <= written.keys()


def test_a_final_table_is_printed(trained):
    assert "box AP50" in trained.log and "landmark AP50" in trained.log


def test_checkpoint_holds_optimizer_and_schedule(trained):
    state = torch.load(trained.output / "model_final.pth", weights_only=True)
    trainer = state["trainer"]
    assert state["iteration"] == trainer["iteration"] == 1
    assert trainer["_trainer"]["optimizer"]["state"] and trainer["hooks"]["LRScheduler"]["last_epoch"] == 2


def test_a_checkpoint_says_what_model_it_is_of(trained):
    weights = str(trained.output / "model_final.pth")
    cfg = load_config(str(trained.output / "config.yaml"), ["MODEL.WEIGHTS", weights])
    assert config_of(weights, []).dump() == cfg.dump()


def test_detectron2s_evaluator_by_key(trained, here, tmp_path):
    weights = [
        "MODEL.WEIGHTS",
        str(trained.output / "model_final.pth"),
        "MODEL.KGDET.SCORE_THRESH_TEST",
        "0.0",
    ]
    opts = ["--eval-only", *weights, "OUTPUT_DIR", str(tmp_path)]
    ours, theirs = train(*opts), train(*opts, "TEST.EVALUATOR", "coco")
    for task, scores in theirs.items():
        assert {name: ours[task][name] for name in scores} == pytest.approx(scores, abs=1e-6, nan_ok=True)
    assert theirs.keys() == {"bbox", "keypoints"}


def test_weights_of_another_model_are_not_evaluated(here, tmp_path, capfd):
    torch.save({"model": {"net.conv1.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    opts = [
        "--eval-only",
        "MODEL.WEIGHTS",
        str(tmp_path / "other.pth"),
        "OUTPUT_DIR",
        str(tmp_path / "output"),
    ]
    assert cli.main(["train", *options(*opts)]) == 1
    assert "other.pth: expected the weights of this model, found 0 of " in capfd.readouterr().err


def test_resume_goes_on_where_it_stopped(trained, here):
    train("--resume", "OUTPUT_DIR", str(trained.output), "SOLVER.MAX_ITER", "3")
    assert "Starting training from iteration 2" in (trained.output / "log.txt").read_text()
    assert [line["iteration"] for line in metrics(trained.output)] == [1, 2, 3]


def test_eval_only(trained, here, tmp_path):
    weights = str(trained.output / "model_final.pth")
    fast = ["MODEL.INFERENCE.FUSE_BN", "True", "MODEL.INFERENCE.PRECISION", "bfloat16"]
    results = train("--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path), *fast)
    assert {"bbox", "keypoints"} <= results.keys()
    log = (tmp_path / "log.txt").read_text()
    assert "box AP50" in log and "Starting training" not in log


def test_a_split_without_annotations_is_predicted_and_not_scored(trained, datasets_root, here, tmp_path):
    shutil.copytree(
        datasets_root / "synthfashion/validation/image", datasets_root / "deepfashion2/test/image"
    )
    root = ["--root", str(datasets_root / "deepfashion2"), "--workers", "1"]
    assert cli.main(["prepare", "deepfashion2", *root]) == 0
    opts = ["--eval-only", "MODEL.WEIGHTS", str(trained.output / "model_final.pth")]
    opts += ["OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", "('deepfashion2_test',)"]
    assert train(*opts) == {}
    assert "nothing to score" in (tmp_path / "log.txt").read_text()
    file = tmp_path / "inference/deepfashion2_test/predictions.npz"
    assert len(Predictions.load(file, DEEPFASHION2)) == 3


def test_every_part_of_the_recipe_at_once(here, tmp_path):
    """The scores after training are those that --eval-only finds for the last checkpoint, bit for bit."""
    opts = ["SOLVER.EMA.ENABLED", "True", "SOLVER.BACKBONE_LR_FACTOR", "0.5", "SOLVER.MAX_ITER", "2"]
    opts += ["INPUT.COLOR.BRIGHTNESS", "0.3", "INPUT.COLOR.CONTRAST", "0.3", "INPUT.COLOR.SATURATION", "0.3"]
    opts += ["INPUT.SCALE_JITTER", "(0.5,1.5)", "MODEL.KGDET.SCORE_THRESH_TEST", "0.0"]
    train("OUTPUT_DIR", str(tmp_path / "run"), *opts)
    weights = str(tmp_path / "run" / "model_final.pth")
    train("--eval-only", "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "again"), *opts)
    found = "inference/synthfashion_val/predictions.npz"
    first, second = (np.load(tmp_path / name / found) for name in ("run", "again"))
    assert len(first["score"]) > 0
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS: 'nowhere.pth' does not exist"),
        (["--eval-only"], "MODEL.WEIGHTS: expected the path of a checkpoint, got none"),
        (["MODEL.KGDET.NO_SUCH_KEY", "1"], "MODEL.KGDET.NO_SUCH_KEY"),
        (["DATASETS.TRAIN", "('deepfashion2_train',)"], "prepare_deepfashion2.py"),
        (["DATASETS.TEST", "('deepfashion2_vel',)"], "dataset 'deepfashion2_vel' is not registered"),
        (["--config-file", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
    ],
    ids=["weights", "no weights", "key", "dataset", "unknown dataset", "config"],
)
def test_one_clear_error(arguments, error, here, tmp_path, capfd):
    opts = ["OUTPUT_DIR", str(tmp_path / "output")]
    flags = [argument for argument in arguments if argument.startswith("--")]
    if flags:
        command = [*options()[:4], *arguments, *opts, *QUICK]
    else:
        command = options(*arguments, *opts)
    assert cli.main(["train", *command]) == 1
    (last,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error in last


def test_a_loss_that_is_not_finite_stops_the_training(here, tmp_path, monkeypatch):
    """Iteration, photos and the last good checkpoint are named, and the bad weights are not saved."""
    monkeypatch.setattr(KGDetCriterion, "_keypoint_loss", nan_from_the_third_call_on())
    opts = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), "SOLVER.CHECKPOINT_PERIOD", "2"]
    trainer = Trainer(load_config(CONFIG, [*QUICK, *opts]))
    with pytest.raises(
        FloatingPointError, match=r"at iteration 2: .*loss_keypoint_1.*train/image/.*model_0000001"
    ):
        trainer.train()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_0000001.pth"]


def nan_from_the_third_call_on():
    original, calls = KGDetCriterion._keypoint_loss, itertools.count()

    def keypoint_loss(self, *arguments):
        iteration = next(calls) // 3  # one call a stage
        return original(self, *arguments) * (torch.nan if iteration == 2 else 1)

    return keypoint_loss


def matching_config(output, *opts):
    quick = [*QUICK, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(output)]
    return load_config("configs/sample/match_rcnn_tiny_matching.yaml", [*quick, *opts])


def test_the_matching_network_learns_from_pairs_and_is_tested_on_retrieval(here, tmp_path):
    trainer = MatchingTrainer(matching_config(tmp_path, "SOLVER.MAX_ITER", "2"))
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    changed = [name for name, value in trainer.model.state_dict().items() if not value.equal(before[name])]
    assert changed and all(name.startswith("roi_heads.matching_head.") for name in changed)
    written = all_metrics(tmp_path)
    assert {"total_loss", "bbox/AP", "keypoints/AP", "retrieval/top1"} <= written.keys()
    # Two photos with one item in common: among so few it is found, where the garments' places are told.
    assert written["retrieval_gt_boxes/top20"] == 100 and written["retrieval_gt_boxes/missed"] == 0


def test_pairs_come_from_one_dataset(tmp_path):
    cfg = matching_config(tmp_path, "DATASETS.TRAIN", "('synthfashion_train', 'synthfashion_val')")
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN: expected one dataset, .*synthfashion_val"):
        MatchingTrainer.build_train_loader(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine without CUDA says")
def test_gpus_asked_for_where_there_are_none(here, tmp_path, capsys):
    command = options("OUTPUT_DIR", str(tmp_path), num_gpus=1)
    assert cli.main(["train", *command]) == 1
    assert "train on the CPU with --num-gpus 0" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_the_full_neck(datasets_root, tmp_path):
    """Data-parallel training must not wait for parameters that never get a gradient; weights are averaged."""
    arguments = options(
        *("MODEL.DEVICE", "cpu", "MODEL.FPN.FULL", "True", "SOLVER.MAX_ITER", "3"),
        *("SOLVER.EMA.ENABLED", "True"),
        *("MODEL.FPN.NORM", "GN"),  # BatchNorm cannot train on p7's one cell
        *("OUTPUT_DIR", str(tmp_path)),
        num_gpus=2,
    )
    done = run("train_net.py", *arguments, root=datasets_root)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path)[-1]["bbox/AP"] >= 0
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert state["model"].keys() == state["trainer"]["hooks"]["EMAHook"]["model"].keys()


@pytest.mark.slow
def test_a_training_again_gives_the_same_weights_and_scores(datasets_root, tmp_path):
    """With all of the demo's parts, a worker that reads photos among them."""
    weights, scores = [], []
    for output in (tmp_path / "first", tmp_path / "second"):
        config = ["--config-file", "configs/sample/kgdet_plus_tiny_scratch.yaml", "--num-gpus", "0"]
        opts = [*QUICK, "SOLVER.MAX_ITER", "3", "DATALOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(output)]
        done = run("train_net.py", *config, *opts, root=datasets_root)
        assert done.returncode == 0, done.stderr
        weights.append(torch.load(output / "model_final.pth", weights_only=True)["model"])
        timeless = {"time", "data_time", "eta_seconds", "rank_data_time"}
        scores.append({key: value for key, value in all_metrics(output).items() if key not in timeless})
    first, second = weights
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    np.testing.assert_equal(scores[0], scores[1])  # where there is no score there is nan


def test_a_bad_photo_loses_neither_training_nor_evaluation(datasets_root, here, tmp_path, monkeypatch):
    """It is reported, and its garments count as missed."""
    root = tmp_path / "datasets"
    shutil.copytree(datasets_root / "synthfashion", root / "synthfashion")
    (root / "synthfashion/train/image/000002.jpg").write_bytes(b"no photo")
    (root / "synthfashion/validation/image/000001.jpg").unlink()
    register_all(root)
    output = tmp_path / "run"
    train("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "4", "DATALOADER.MAX_BAD_SHARE", "0.3")
    log = (output / "log.txt").read_text()
    assert "000002.jpg: cannot read the image" in log and "another photo takes its place" in log
    assert "validation/image/000001.jpg: cannot read the image" in log
    assert "1 of 3 photos were not predicted" in log
    assert "bbox/AP" in (output / "metrics.json").read_text()
    register_all(datasets_root)


def test_scores_are_there_where_predictions_cannot_be_written(trained, here, tmp_path, monkeypatch, caplog):
    def full(self, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Predictions, "save", full)
    opts = ["--eval-only", "MODEL.WEIGHTS", str(trained.output / "model_final.pth")]
    results = train(*opts, "OUTPUT_DIR", str(tmp_path))
    assert "bbox" in results
    assert "the predictions could not be written: [Errno 28]" in (tmp_path / "log.txt").read_text()
