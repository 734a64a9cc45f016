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

from kgdet_d2.data.register import register_all
from kgdet_d2.engine.exact_resume import cut_lines
from tests.helpers.trainings import (
    arguments,
    assert_same,
    make_sample,
    metrics,
    processes_of,
    train,
    train_until,
)

SYSTEMS = [
    "kgdet_tiny",
    "kgdet_plus_tiny_scratch",
    "reppoints_kp_tiny",
    "retinanet_tiny",
    "fcos_tiny",
    "match_rcnn_tiny",
]


@pytest.fixture(scope="module")
def datasets_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    make_sample(root)
    return root


@pytest.mark.parametrize(("system", "iteration"), [("kgdet_plus_tiny_scratch", 3), ("retinanet_tiny", 4)])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    system, iteration, datasets_root, restored_loggers, tmp_path, monkeypatch
):
    """Stopped after the evaluation that follows a checkpoint's iteration, and with a line cut in two.

    What it has measured until then it writes when it is stopped; one that is not writes other lines.
    """
    register_all(datasets_root)
    train(*arguments(system, tmp_path / "whole"))
    run = tmp_path / "stopped"
    train_until(iteration, monkeypatch, *arguments(system, run))
    with open(run / "metrics.json", "a") as file:
        file.write('{"iterat')
    train(*arguments(system, run, "--resume", "SEED", "2"))  # the checkpoint has the seed
    assert_same(tmp_path / "whole", run)


def test_a_training_that_ended_is_evaluated_again(datasets_root, restored_loggers, tmp_path):
    """As where it was killed between its last checkpoint and the evaluation at its end."""
    register_all(datasets_root)
    train(*arguments("kgdet_tiny", tmp_path))
    before = metrics(tmp_path)
    with open(tmp_path / "metrics.json", "rb+") as file:
        file.truncate(file.read().rstrip().rfind(b"\n") + 1)
    train(*arguments("kgdet_tiny", tmp_path, "--resume"))
    np.testing.assert_equal(metrics(tmp_path), before)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0)])
@pytest.mark.parametrize("system", [*SYSTEMS, "match_rcnn_tiny_matching"])
def test_kill_and_resume(system, processes, workers, datasets_root, tmp_path):
    """By SIGKILL, at a moment after the first checkpoint."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(datasets_root)}
    # Each process needs a pair of photos.
    opts = ["MODEL.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", str(2 * processes)] if "matching" in system else []

    def start(output, *more):
        words = arguments(system, output, *more, *opts, workers=workers, processes=processes)
        command = [sys.executable, "train_net.py", *words]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    whole = start(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    killed = start(tmp_path / "killed")
    while not (tmp_path / "killed" / "last_checkpoint").is_file():
        time.sleep(0.01)
        assert killed.poll() is None, killed.stderr.read()
    time.sleep(float(np.random.default_rng([processes, workers, len(system)]).uniform(0, 1)))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    deadline = time.monotonic() + 60
    while processes_of(killed.pid):
        assert time.monotonic() < deadline, "processes outlive the training"
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


def test_lines_after_the_checkpoint_are_cut(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_bytes(lines(19, 25))
    assert cut_lines(file, 30, size=len(lines(19))) == 19
    assert cut_lines(file, 30, size=10**6) == 19
    assert file.read_bytes() == lines(19)
    assert cut_lines(file, 30, size=0) == -1
    assert file.read_bytes() == b""


def test_no_metrics_yet(tmp_path):
    assert cut_lines(Path(tmp_path / "metrics.json"), 7) == -1
