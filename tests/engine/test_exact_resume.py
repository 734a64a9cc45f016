"""A training that was stopped and gone on with ends as one that was not: weights, averages, metrics."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kgdet_d2 import cli
from kgdet_d2.data.register import register_all
from kgdet_d2.engine import Trainer, main, trainer
from kgdet_d2.engine.exact_resume import cut_lines

SYSTEMS = [
    "kgdet_tiny",
    "kgdet_plus_tiny_scratch",
    "reppoints_kp_tiny",
    "retinanet_tiny",
    "fcos_tiny",
    "match_rcnn_tiny",
]
QUICK = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.STEPS", "()", "SEED", "1"]
QUICK += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "INPUT.COLOR.BRIGHTNESS", "0.3"]
QUICK += ["SOLVER.MAX_ITER", "7", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "3"]
TIMES = {"time", "data_time", "eta_seconds", "rank_data_time"}


@pytest.fixture(scope="module")
def datasets_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    sample = str(root / "synthfashion")
    photos = ("--train", "12", "--validation", "2", "--size", "96")
    subprocess.run([sys.executable, "datasets/make_synthetic.py", "--root", sample, *photos], check=True)
    assert cli.main(["prepare", "deepfashion2", "--root", sample, "--workers", "1"]) == 0
    return root


def arguments(system, output, *opts, workers=0):
    words = ["--config-file", f"configs/sample/{system}.yaml", "--num-gpus", "0"]
    flags = [word for word in opts if word.startswith("--")]
    opts = [word for word in opts if not word.startswith("--")]
    return [*words, *flags, *QUICK, "OUTPUT_DIR", str(output), "DATALOADER.NUM_WORKERS", str(workers), *opts]


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
        history["values"] = [value for value in history["values"] if value[0] not in TIMES]
    leaves = [dict(tensors(checkpoint)) for checkpoint in loaded]
    assert leaves[0].keys() == leaves[1].keys() and len(leaves[0]) > 100
    for name, value in leaves[0].items():
        np.testing.assert_equal(np.asarray(value), np.asarray(leaves[1][name]), err_msg=name)
    np.testing.assert_equal(metrics(first), metrics(second))


class Stopped(BaseException):
    """No error that anything in the training would handle."""


@pytest.mark.parametrize("system", ["kgdet_plus_tiny_scratch", "retinanet_tiny"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    system, datasets_root, restored_loggers, tmp_path, monkeypatch
):
    """Stopped after the evaluation that follows a checkpoint's iteration, and with a line cut in two."""
    register_all(datasets_root)
    parse = trainer.make_parser().parse_args
    main(parse(arguments(system, tmp_path / "whole")))
    step, run = Trainer.run_step, tmp_path / "stopped"

    def stop(self):
        if self.iter == 4:
            raise Stopped
        step(self)

    monkeypatch.setattr(Trainer, "run_step", stop)
    with pytest.raises(Stopped):
        main(parse(arguments(system, run)))
    monkeypatch.setattr(Trainer, "run_step", step)
    with open(run / "metrics.json", "a") as file:
        file.write('{"iterat')
    main(parse(arguments(system, run, "--resume", "SEED", "2")))  # the checkpoint has the seed
    assert_same(tmp_path / "whole", run)


def test_a_training_that_ended_is_evaluated_again(datasets_root, restored_loggers, tmp_path):
    """As where it was killed between its last checkpoint and the evaluation at its end."""
    register_all(datasets_root)
    parse = trainer.make_parser().parse_args
    main(parse(arguments("kgdet_tiny", tmp_path)))
    before = metrics(tmp_path)
    with open(tmp_path / "metrics.json", "rb+") as file:
        file.truncate(file.read().rstrip().rfind(b"\n") + 1)
    main(parse(arguments("kgdet_tiny", tmp_path, "--resume")))
    np.testing.assert_equal(metrics(tmp_path), before)


def processes_of(output):
    """The processes whose command names a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(output).encode() in file.read_bytes():
                found.append(file.parent.name)
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("system", [*SYSTEMS, "match_rcnn_tiny_matching"])
def test_kill_and_resume(system, workers, datasets_root, tmp_path):
    """By SIGKILL, at a moment after the first checkpoint."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(datasets_root)}
    opts = ["MODEL.WEIGHTS", ""] if "matching" in system else []

    def start(output, *more):
        command = [sys.executable, "train_net.py", *arguments(system, output, *more, *opts, workers=workers)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    killed = start(tmp_path / "killed")
    while not (tmp_path / "killed" / "last_checkpoint").is_file():
        time.sleep(0.01)
        assert killed.poll() is None, killed.stderr.read()
    time.sleep(float(np.random.default_rng([workers, len(system)]).uniform(0, 1)))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 60
    while processes_of(tmp_path / "killed"):
        assert time.monotonic() < deadline, "the workers outlive the training"
        time.sleep(0.2)
    resumed = start(tmp_path / "killed", "--resume")
    assert resumed.wait() == 0, resumed.stderr.read()
    assert_same(tmp_path / "whole", tmp_path / "killed")


# --- metrics.json ---


def lines(*iterations):
    return b"".join(
        json.dumps({"iteration": iteration, "loss": 1.0}).encode() + b"\n" for iteration in iterations
    )


@pytest.mark.parametrize(
    ("content", "start", "kept", "last"),
    [
        (b"", 0, b"", -1),
        (lines(19, 39), 40, lines(19, 39), 39),
        (lines(19, 39), 39, lines(19), 19),
        (lines(19, 39, 39), 0, b"", -1),
        (lines(19) + b'{"iteration": 3', 40, lines(19), 19),
        (lines(19) + b'{"iteration": 30}', 40, lines(19), 19),
        (lines(19) + b"\x00\x00\n" + lines(39), 40, lines(19), 19),
    ],
)
def test_lines_that_are_written_again_are_cut(tmp_path, content, start, kept, last):
    file = tmp_path / "metrics.json"
    file.write_bytes(content)
    assert cut_lines(file, start) == last
    assert file.read_bytes() == kept


def test_no_metrics_yet(tmp_path):
    assert cut_lines(Path(tmp_path / "metrics.json"), 7) == -1
