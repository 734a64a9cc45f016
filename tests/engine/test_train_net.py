"""train_net.py as a user runs it, on a handful of drawn photos."""

import copy
import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from kgdet_d2.config import load_config
from kgdet_d2.data.register import register_all
from kgdet_d2.modeling.losses import KGDetCriterion
from train_net import MatchingTrainer, Trainer

CONFIG = "configs/sample/kgdet_tiny.yaml"
QUICK = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"]
QUICK += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]


def run(*arguments, root=None):
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | ({"DETECTRON2_DATASETS": str(root)} if root else {}),
        capture_output=True,
        text=True,
    )


def train_net(*arguments, root, num_gpus=0):
    return run(
        "train_net.py", "--config-file", CONFIG, "--num-gpus", str(num_gpus), *arguments, *QUICK, root=root
    )


@pytest.fixture(scope="module")
def datasets_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    sample = str(root / "synthfashion")
    for command in (
        ("datasets/make_synthetic.py", "--root", sample, "--train", "4", "--validation", "3", "--size", "96"),
        ("datasets/prepare_deepfashion2.py", "--root", sample),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def trained(datasets_root, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    done = train_net("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "2", root=datasets_root)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(output=output, log=done.stdout)


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


def test_resume_goes_on_where_it_stopped(trained, datasets_root):
    done = train_net(
        "--resume", "OUTPUT_DIR", str(trained.output), "SOLVER.MAX_ITER", "3", root=datasets_root
    )
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 2" in done.stdout
    assert [line["iteration"] for line in metrics(trained.output)] == [1, 2, 2, 3]


def test_eval_only(trained, datasets_root, tmp_path):
    weights = str(trained.output / "model_final.pth")
    fast = ["MODEL.INFERENCE.FUSE_BN", "True", "MODEL.INFERENCE.PRECISION", "bfloat16"]
    opts = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path), *fast]
    done = train_net("--eval-only", *opts, root=datasets_root)
    assert done.returncode == 0, done.stderr
    assert "box AP50" in done.stdout and "Starting training" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["MODEL.WEIGHTS", "nowhere.pth"], "MODEL.WEIGHTS: 'nowhere.pth' does not exist"),
        (["--eval-only"], "MODEL.WEIGHTS: expected the path of a checkpoint, got none"),
        (["MODEL.KGDET.NO_SUCH_KEY", "1"], "MODEL.KGDET.NO_SUCH_KEY"),
        (["DATASETS.TRAIN", "('deepfashion2_train',)"], "prepare_deepfashion2.py"),
    ],
    ids=["weights", "no weights", "key", "dataset"],
)
def test_one_clear_error(arguments, error, tmp_path):
    done = train_net(*arguments, "OUTPUT_DIR", str(tmp_path / "output"), root=tmp_path)
    assert done.returncode != 0
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert error in last and "Error" in last


def test_a_loss_that_is_not_finite_stops_the_training(datasets_root, tmp_path, monkeypatch):
    """Iteration, photos and the last good checkpoint are named, and the bad weights are not saved."""
    register_all(datasets_root)
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


def test_the_matching_network_learns_from_pairs_and_is_tested_on_retrieval(datasets_root, tmp_path):
    register_all(datasets_root)
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
def test_gpus_asked_for_where_there_are_none(tmp_path):
    done = train_net(root=tmp_path, num_gpus=1)
    assert done.returncode != 0 and "train on the CPU with --num-gpus 0" in done.stderr


@pytest.mark.slow
def test_two_processes_train_the_full_neck(datasets_root, tmp_path):
    """Data-parallel training must not wait for parameters that never get a gradient."""
    done = train_net(
        *("MODEL.DEVICE", "cpu", "MODEL.FPN.FULL", "True", "SOLVER.MAX_ITER", "3"),
        *("MODEL.FPN.NORM", "GN"),  # BatchNorm cannot train on p7's one cell
        *("OUTPUT_DIR", str(tmp_path)),
        root=datasets_root,
        num_gpus=2,
    )
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path)[-1]["bbox/AP"] >= 0
