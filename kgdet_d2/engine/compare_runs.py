"""The runs of a comparison: a system trained with a seed, for so many iterations or for so long."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode

from kgdet_d2.config import load_config
from kgdet_d2.utils.environment import commit, hardware, versions
from kgdet_d2.utils.io import write_json

SCORES = {
    "box AP": "bbox/AP",
    "AP50": "bbox/AP50",
    "AP75": "bbox/AP75",
    "landmark AP": "keypoints/AP",
}
# A short training that tells a run's speed: the last time in its metrics.json is the median of 20 iterations,
# Detectron2's window, after 5 that warm up.
_TRIAL = ["SOLVER.MAX_ITER", "25", "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", "25"]
_TRIAL += ["DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0"]


@dataclass(frozen=True)
class Run:
    """A system trained with a seed.

    Attributes:
        config: the yaml file.
        seed: of weights, order and augmentation.
        folder: of the run alone.
        num_gpus: 0 for the CPU.
        overrides: KEY VALUE, for all systems.
        iterations: of training; None for the config's own, or as many as ``seconds`` give time for.
        seconds: of training; None where they do not matter.
    """

    config: str
    seed: int
    folder: Path
    num_gpus: int
    overrides: tuple[str, ...]
    iterations: int | None = None
    seconds: int | None = None

    @property
    def name(self) -> str:
        """System and seed."""
        return f"{Path(self.config).stem}, seed {self.seed}"

    @property
    def opts(self) -> list[str]:
        """KEY VALUE overrides of the run."""
        return [*self.overrides, *self._schedule(), "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]

    def _schedule(self) -> list[str]:
        """Return MAX_ITER where it is not the config's own, and STEPS at the same shares of it."""
        iterations = self.budget["iterations"] if self.budget else self.iterations
        if iterations is None:
            return []
        own = load_config(self.config, list(self.overrides)).SOLVER
        steps = tuple(sorted({step * iterations // own.MAX_ITER for step in own.STEPS} - {0}))
        return ["SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", str(steps)]

    def cfg(self, *more: str) -> CfgNode:
        """Return the run's config, with more KEY VALUE overrides."""
        device = ["MODEL.DEVICE", "cuda" if self.num_gpus else "cpu"]
        return load_config(self.config, [*self.opts, *device, *more])

    @property
    def result(self) -> dict | None:
        """The content of result.json, None while it is not there."""
        return read_json(self.folder / "result.json")

    @property
    def budget(self) -> dict | None:
        """The content of budget.json: ``seconds`` for which ``iterations`` were chosen by the speed.

        None while it is not there, or where it is not of these seconds.
        """
        budget = read_json(self.folder / "budget.json") if self.seconds else None
        return budget if budget and budget["seconds"] == self.seconds else None

    def check(self) -> None:
        """Refuse a folder in which something else was trained, and a config without a test set.

        Raises:
            ValueError: naming the folder, or the config.
        """
        cfg, earlier = self.cfg(), self.folder / "config.yaml"
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"{self.config}: DATASETS.TEST: expected one dataset, got {cfg.DATASETS.TEST}")
        if not earlier.is_file():
            return
        # Read by the present package: a key that it has gained since does not count as a change.
        same = as_written(load_config(str(earlier), [])) == as_written(cfg)
        if not same or (self.seconds and not self.budget):
            raise ValueError(
                f"{earlier} holds other settings than {self.config} now gives: choose another --output, or "
                "remove the folder to train anew"
            )

    def finish(self, threads: int) -> str | None:
        """Train and evaluate what is left of the run.

        Args:
            threads: that the run may use.

        Returns:
            What went wrong, None where nothing did.
        """
        if self.result:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        made_with = {"commit": commit(), "versions": versions()}
        if self.seconds and not self.budget:
            status = self._choose_iterations(self.seconds, threads)
            if not self.budget:
                return self._failure("measuring its speed", status)
        begin = time.time()
        status = self._train(threads, *self.opts)
        scores = self._scores()
        if status or not scores:
            return self._failure("training", status)
        cfg = self.cfg()
        report = {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}
        report |= {"dataset": cfg.DATASETS.TEST[0], "scores": scores, "iterations": cfg.SOLVER.MAX_ITER}
        report |= {"batch": cfg.SOLVER.IMS_PER_BATCH, "minutes": (time.time() - begin) / 60}
        report |= self._times(cfg.SOLVER.MAX_ITER) | {"budget": self.budget}
        report |= {"hardware": hardware(cfg.MODEL.DEVICE), **made_with}
        write_json(self.folder / "result.json", report)
        return None

    def _train(self, threads: int, *opts: str) -> int:
        """Run ``kgdet train`` with these overrides, and return its exit status."""
        command = [sys.executable, "-m", "kgdet_d2.cli", "train", "--config-file", self.config, "--resume"]
        command += ["--num-gpus", str(self.num_gpus), "--dist-url", "auto", *opts]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with open(self.folder / "output.txt", "ab") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        return done.returncode

    def _failure(self, what: str, status: int) -> str:
        return f"{self.name}: {what} ended with {status}, see {self.folder / 'output.txt'}"

    def _choose_iterations(self, seconds: int, threads: int) -> int:
        """Write budget.json by the speed of a trial, and return the trial's exit status."""
        with TemporaryDirectory(dir=self.folder) as folder:
            status = self._train(threads, *self.opts, *_TRIAL, "OUTPUT_DIR", folder)
            times = times_in(Path(folder))
        if status == 0 and times:
            budget = {"seconds": seconds, "seconds_per_iteration": times[-1]}
            budget |= {"iterations": max(round(seconds / times[-1]), 1)}
            write_json(self.folder / "budget.json", budget)
        return status

    def _scores(self) -> dict[str, float]:
        """Return all scores that Detectron2 wrote of the evaluation after the last iteration."""
        last_iteration = self.cfg().SOLVER.MAX_ITER - 1
        last = [line for line in read_metrics(self.folder) if line["iteration"] >= last_iteration]
        return {name: value for line in last for name, value in line.items() if "/AP" in name}

    def _times(self, iterations: int) -> dict[str, float | None]:
        """Return ``seconds_per_iteration``, the median, and ``training_seconds``, without evaluation.

        Detectron2 does not time the first iterations after each start, and logs no sum for a training that
        was killed: those iterations count as long as the others on average. None where it timed nothing.
        """
        times, log = times_in(self.folder), self.folder / "log.txt"
        sums = r"Overall training speed: (\d+) iterations in .* \(([\d.]+) s / it\)"
        logged = re.findall(sums, log.read_text()) if log.is_file() else []
        counted = sum(int(number) for number, _ in logged)
        total = sum(int(number) * float(seconds) for number, seconds in logged)
        return {
            "seconds_per_iteration": median(times) if times else None,
            "training_seconds": iterations * total / counted if counted else None,
        }


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, None where there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else None


def read_metrics(folder: Path) -> list[dict]:
    """Return the lines of a training's metrics.json, none where it is not there."""
    file = folder / "metrics.json"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def times_in(folder: Path) -> list[float]:
    """Return the seconds per iteration in a training's metrics.json, medians of up to 20 iterations each."""
    return [line["time"] for line in read_metrics(folder) if "time" in line]


def as_written(cfg: CfgNode) -> dict:
    """Return the config as its file has it, where tuples and lists are the same."""
    return yaml.safe_load(cfg.dump())


def train(runs: Sequence[Run], jobs: int) -> list[str]:
    """Finish all runs, so many at a time, and return what went wrong."""
    threads = max(torch.get_num_threads() // jobs, 1)

    def finish(run: Run) -> str | None:
        error = run.finish(threads)
        result = run.result
        print(f"{run.name}: {summary(result)}" if result else error, flush=True)
        return error

    with ThreadPoolExecutor(jobs) as pool:
        return [error for error in pool.map(finish, runs) if error]


def summary(result: dict) -> str:
    """Return a run's main scores and its time in a line."""
    scores = result["scores"]
    texts = [f"{name} {scores[key]:.1f}" for name, key in SCORES.items() if key in scores]
    return ", ".join([*texts, f"{result['minutes']:.0f} min"])
