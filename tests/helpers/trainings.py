"""Short trainings on a handful of drawn photos, and what is the same of two of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kgdet_d2 import cli
from kgdet_d2.engine import Trainer, main, trainer

QUICK = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()", "SEED", "1"]
QUICK += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "INPUT.COLOR.BRIGHTNESS", "0.3"]
QUICK += ["SOLVER.MAX_ITER", "7", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "3"]
TIMES = {"time", "data_time", "eta_seconds", "rank_data_time"}


def make_sample(root):
    """Make and prepare the data set ``synthfashion`` of 14 small photos in a folder."""
    sample = str(root / "synthfashion")
    photos = ("--train", "12", "--validation", "2", "--size", "96")
    subprocess.run([sys.executable, "datasets/make_synthetic.py", "--root", sample, *photos], check=True)
    assert cli.main(["prepare", "deepfashion2", "--root", sample, "--workers", "1"]) == 0


def arguments(system, output, *opts, workers=0, processes=1):
    words = ["--config-file", f"configs/sample/{system}.yaml", "--num-gpus", "0"]
    if processes > 1:  # by gloo
        words[-1:] = [str(processes), "--dist-url", "auto"]
        opts = ["MODEL.DEVICE", "cpu", *opts]
    flags = [word for word in opts if word.startswith("--")]
    opts = [word for word in opts if not word.startswith("--")]
    return [*words, *flags, *QUICK, "OUTPUT_DIR", str(output), "DATALOADER.NUM_WORKERS", str(workers), *opts]


def train(*words):
    """Train in this process."""
    main(trainer.make_parser().parse_args(words))


class Stopped(BaseException):
    """No error that anything in the training would handle."""


def train_until(iteration, monkeypatch, *words):
    """Train in this process, and break off where an iteration begins."""
    step = Trainer.run_step

    def stop(self):
        if self.iter == iteration:
            raise Stopped
        step(self)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "run_step", stop)
        train(*words)


def metrics(folder):
    """The lines of metrics.json, but for times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def tensors(value, name=""):
    """All leaves of a checkpoint, by their place in it."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from tensors(part, f"{name}[{index}]")
    else:
        yield name, value


def assert_same(first, second):
    """Two trainings' last checkpoints and metrics, bit for bit."""
    loaded = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (first, second)]
    for checkpoint in loaded:
        checkpoint["kgdet_d2"].pop("config")  # names the output folder
        history = checkpoint["trainer"]["hooks"]["MetricsHook"]
        history.pop("size")  # of lines with times
        history["values"] = [value for value in history["values"] if value[0] not in TIMES]
    leaves = [dict(tensors(checkpoint)) for checkpoint in loaded]
    assert leaves[0].keys() == leaves[1].keys() and len(leaves[0]) > 100
    for name, value in leaves[0].items():
        np.testing.assert_equal(np.asarray(value), np.asarray(leaves[1][name]), err_msg=name)
    np.testing.assert_equal(metrics(first), metrics(second))


def processes_of(group):
    """The processes of a group that run."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *_ = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(its_group) == group and state != "Z":
            found.append(file.parent.name)
    return found
