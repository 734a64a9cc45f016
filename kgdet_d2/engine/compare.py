"""The command ``kgdet compare``: several systems trained alike, with several seeds each, in one table."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from tabulate import tabulate

from kgdet_d2.complexity import count_by_module, total
from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.utils.command import at_least, command_parser
from kgdet_d2.utils.environment import commit, hardware, versions
from kgdet_d2.utils.io import write_json
from kgdet_d2.utils.timing import quartiles, time_in_turns

DESCRIPTION = """Train several systems alike, with several seeds each, and put them into one table.

    kgdet compare sample/kgdet_tiny.yaml sample/reppoints_tiny.yaml --output output/comparison \\
        --seeds 1 2 3 --num-gpus 0 --jobs 2 --opts SOLVER.MAX_ITER 600 SOLVER.CHECKPOINT_PERIOD 200

Every config is trained and evaluated by "kgdet train" under the same KEY VALUE overrides, once with each
seed, in OUTPUT/<config's name>/seed<n>: its log, checkpoints and predictions, and result.json when it is
done. All systems have their first seed before any has its second. The command can be given again: what is
done is kept, what was broken off goes on from its last checkpoint. A run that fails is reported, the others
go on. --only-table trains nothing more.

Then the models of each system's first seed are timed, photo by photo in turns, on the first --timed photos of
the test set, one at a time and from tensor to detections. Scores are means over the seeds, with their
sample standard deviation. Parameters are all there are; multiply-adds are those of one photo of the size that
the first timed one has for the network, of an R-CNN with as many boxes as its config lets through.
OUTPUT/comparison.json holds all of it, with each run's commit, versions and hardware.
"""
SCORES = {
    "box AP": "bbox/AP",
    "AP50": "bbox/AP50",
    "AP75": "bbox/AP75",
    "landmark AP": "keypoints/AP",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet compare``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("configs", nargs="+", metavar="YAML", help="a system each, of different names")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--seeds", type=at_least(0), nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3"
    )
    parser.add_argument("--num-gpus", type=int, default=torch.cuda.device_count(), help="of each run")
    parser.add_argument("--jobs", type=at_least(1), default=1, metavar="N", help="runs at a time; default: 1")
    parser.add_argument("--timed", type=at_least(2), default=50, metavar="N", help="photos; default: 50")
    parser.add_argument("--only-table", action="store_true", help="of the runs that are done")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE, for all systems")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train what is left to train, and print and write the table; return 1 where a run failed, else 0.

    Raises:
        ValueError, OSError: configs or seeds that occur twice, or see :meth:`Run.check`.
    """
    names = [Path(config).stem for config in args.configs]
    if len(set(names)) < len(names) or len(set(args.seeds)) < len(args.seeds):
        raise ValueError(f"expected different configs and seeds, got {names} and {args.seeds}")
    runs = [
        Run(config, seed, args.output / Path(config).stem / f"seed{seed}", args.num_gpus, tuple(args.opts))
        for seed in args.seeds
        for config in args.configs
    ]
    for system_run in runs:
        system_run.check()
    errors = [] if args.only_table else train(runs, args.jobs)
    rows = compare(runs, args.timed)
    write_json(args.output / "comparison.json", rows)
    print(f"\n{table(rows)}\n", *conditions(rows), sep="\n")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


@dataclass(frozen=True)
class Run:
    """A system trained with a seed.

    Attributes:
        config: the yaml file.
        seed: of weights, order and augmentation.
        folder: of the run alone.
        num_gpus: 0 for the CPU.
        overrides: KEY VALUE, for all systems.
    """

    config: str
    seed: int
    folder: Path
    num_gpus: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """System and seed."""
        return f"{Path(self.config).stem}, seed {self.seed}"

    @property
    def opts(self) -> list[str]:
        """KEY VALUE overrides of the run."""
        return [*self.overrides, "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]

    def cfg(self, *more: str) -> CfgNode:
        """Return the run's config, with more KEY VALUE overrides."""
        device = ["MODEL.DEVICE", "cuda" if self.num_gpus else "cpu"]
        return load_config(self.config, [*self.opts, *device, *more])

    @property
    def result(self) -> dict | None:
        """The content of result.json, None while it is not there."""
        file = self.folder / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def check(self) -> None:
        """Refuse a folder in which something else was trained, and a config without a test set.

        Raises:
            ValueError: naming the folder, or the config.
        """
        cfg, earlier = self.cfg(), self.folder / "config.yaml"
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"{self.config}: DATASETS.TEST: expected one dataset, got {cfg.DATASETS.TEST}")
        # Read by the present package: a key that it has gained since does not count as a change.
        if earlier.is_file() and as_written(load_config(str(earlier), [])) != as_written(cfg):
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
        command = [sys.executable, "-m", "kgdet_d2.cli", "train", "--config-file", self.config, "--resume"]
        command += ["--num-gpus", str(self.num_gpus), "--dist-url", "auto", *self.opts]
        made_with = {"commit": commit(), "versions": versions()}
        begin = time.time()
        with open(self.folder / "output.txt", "ab") as output:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        scores = self._scores()
        if done.returncode or not scores:
            return f"{self.name}: training ended with {done.returncode}, see {self.folder / 'output.txt'}"
        cfg = self.cfg()
        report = {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}
        report |= {"dataset": cfg.DATASETS.TEST[0], "scores": scores, "iterations": cfg.SOLVER.MAX_ITER}
        report |= {"batch": cfg.SOLVER.IMS_PER_BATCH, "minutes": (time.time() - begin) / 60}
        report |= {"hardware": hardware(cfg.MODEL.DEVICE), **made_with}
        write_json(self.folder / "result.json", report)
        return None

    def _scores(self) -> dict[str, float]:
        """Return all scores that Detectron2 wrote of the evaluation after the last iteration."""
        file = self.folder / "metrics.json"
        lines = map(json.loads, file.read_text().splitlines()) if file.is_file() else []
        last = [line for line in lines if line["iteration"] >= self.cfg().SOLVER.MAX_ITER - 1]
        return {name: value for line in last for name, value in line.items() if "/AP" in name}


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


def compare(runs: Sequence[Run], timed: int) -> list[dict]:
    """Return a row for each config that has a result: its mean scores, costs and runs."""
    done: dict[str, list[Run]] = {}
    for run in runs:
        if run.result:
            done.setdefault(run.config, []).append(run)
    if not done:
        return []
    costs = measure_costs([config_runs[0] for config_runs in done.values()], timed)
    rows = []
    for (config, config_runs), cost in zip(done.items(), costs, strict=True):
        results = [run.result for run in config_runs if run.result]
        scores = {name: mean_and_spread(results, key) for name, key in SCORES.items()}
        rows.append({"config": config, "scores": scores, **cost, "runs": results})
    return rows


def mean_and_spread(results: list[dict], key: str) -> dict[str, float | None] | None:
    """Return mean and sample standard deviation of a score, None where the system has no such score."""
    values = [result["scores"][key] for result in results if key in result["scores"]]
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None} if values else None


def measure_costs(runs: Sequence[Run], timed: int) -> list[dict]:
    """Measure what each run's model costs.

    Returns:
        For each run ``parameters``, ``multiply_adds`` of a photo of ``size`` (height, width), quartiles of
        ``ms`` per photo, and on what they were ``timed_on``, with how many ``threads``.
    """
    models, batches, costs = {}, {}, []
    for run in runs:
        cfg = run.cfg("MODEL.WEIGHTS", str(run.folder / "model_final.pth"))
        models[run.name] = build_model(cfg).eval()
        DetectionCheckpointer(models[run.name]).load(cfg.MODEL.WEIGHTS)
        dataset, mapper = DatasetCatalog.get(cfg.DATASETS.TEST[0]), FashionDatasetMapper(cfg, is_train=False)
        batches[run.name] = [[mapper(dataset[row])] for row in range(min(timed, len(dataset)))]
        height, width = batches[run.name][0][0]["image"].shape[1:]
        counts = total(count_by_module(cfg, width=width, height=height))
        cost: dict[str, Any] = {"parameters": counts.parameters, "multiply_adds": counts.multiply_adds}
        cost |= {"size": [height, width], "threads": torch.get_num_threads()}
        costs.append(cost | {"timed_on": hardware(cfg.MODEL.DEVICE)})
    turns = (
        {name: batches[name][index] for name in batches} for index in range(min(map(len, batches.values())))
    )
    times = time_in_turns(models, turns)
    return [cost | {"ms": quartiles(times[run.name])} for run, cost in zip(runs, costs, strict=True)]


def table(rows: list[dict]) -> str:
    """Return the rows of :func:`compare` as a Markdown table."""
    headers = ["config", "seeds", *SCORES, "parameters M", "multiply-adds G", "ms/image", "commit"]
    cells = []
    for row in rows:
        costs = [row["parameters"] / 1e6, row["multiply_adds"] / 1e9, row["ms"]["median"]]
        commits = dict.fromkeys(result["commit"] for result in row["runs"])
        cells.append([row["config"], len(row["runs"]), *map(score, row["scores"].values())])
        cells[-1] += [*(f"{cost:.2f}" for cost in costs), ", ".join(commits)]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def score(value: dict | None) -> str:
    """Return what :func:`mean_and_spread` returned as text."""
    if value is None:
        return "-"
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ± {value['std']:.2f}")


def conditions(rows: list[dict]) -> list[str]:
    """Return lines that say on what the rows were trained and timed, each once."""
    lines: dict[str, None] = {}
    for row in rows:
        for result in row["runs"]:
            packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
            budget = f"{result['iterations']} iterations of {result['batch']} photos, {result['dataset']}"
            lines[f"Trained: {budget}; {result['hardware']}; {packages}."] = None
        lines[f"Timed: {row['timed_on']}, {row['threads']} used."] = None
    return list(lines)
