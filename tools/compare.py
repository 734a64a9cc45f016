#!/usr/bin/env python
r"""Train several systems alike, with several seeds each, and put them into one table.

    python tools/compare.py configs/sample/{kgdet,reppoints}_tiny.yaml --output output/comparison \
        --seeds 1 2 3 --num-gpus 0 --jobs 2 --opts SOLVER.MAX_ITER 600 SOLVER.CHECKPOINT_PERIOD 200

Every config is trained and evaluated by train_net.py under the same KEY VALUE overrides, once with each seed,
in OUTPUT/<config's name>/seed<n>: its log, checkpoints and predictions, and result.json when it is done. All
systems have their first seed before any has its second. The command can be given again: what is done is kept,
what was broken off goes on from its last checkpoint. A run that fails is reported, the others go on.
--only-table trains nothing more.

Then the models of each system's first seed are timed, photo by photo in turns, on the first --timed photos of
the test set, one at a time and from tensor to detections. Scores are means over the seeds, with their
sample standard deviation. Parameters are all there are; multiply-adds are those of one photo of the size that
the first timed one has for the network, of an R-CNN with as many boxes as its config lets through.
OUTPUT/comparison.json holds all of it, with each run's commit, versions and hardware.
"""

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

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from tabulate import tabulate

from kgdet_d2.analysis import count_parts, total
from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.utils.environment import ROOT, commit, hardware, versions
from kgdet_d2.utils.io import write_json
from kgdet_d2.utils.timing import quartiles, time_in_turns

SCORES = {
    "box AP": "bbox/AP",
    "AP50": "bbox/AP50",
    "AP75": "bbox/AP75",
    "landmark AP": "keypoints/AP",
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="YAML", help="a system each, of different names")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    parser.add_argument("--num-gpus", type=int, default=torch.cuda.device_count(), help="of each run")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: 1")
    parser.add_argument("--timed", type=int, default=50, metavar="N", help="photos; default: 50")
    parser.add_argument("--only-table", action="store_true", help="of the runs that are done")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE, for all systems")
    args = parser.parse_args(arguments)
    names = [Path(config).stem for config in args.configs]
    if len(set(names)) < len(names) or len(set(args.seeds)) < len(args.seeds):
        parser.error(f"expected different configs and seeds, got {names} and {args.seeds}")
    if min(args.seeds) < 0 or args.jobs < 1 or args.timed < 2:
        parser.error("expected seeds from 0, --jobs from 1 and --timed from 2")
    return args


@dataclass(frozen=True)
class Run:
    """One system trained with one seed.

    Attributes:
        config: the yaml file.
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
        return f"{Path(self.config).stem}, seed {self.seed}"

    @property
    def opts(self) -> list[str]:
        return [*self.overrides, "SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]

    def cfg(self, *more: str) -> CfgNode:
        device = ["MODEL.DEVICE", "cuda" if self.num_gpus else "cpu"]
        return load_config(self.config, [*self.opts, *device, *more])

    @property
    def result(self) -> dict | None:
        """What result.json says, None while it is not there."""
        file = self.folder / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def check(self) -> None:
        """Refuse a folder in which something else was trained, and a config without a test set.

        Raises:
            ValueError: naming the folder, or the config.
        """
        cfg, before = self.cfg(), self.folder / "config.yaml"
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(f"{self.config}: DATASETS.TEST: expected one dataset, got {cfg.DATASETS.TEST}")
        # Read by the present package: a key that it has gained since does not count as a change.
        if before.is_file() and as_written(load_config(str(before), [])) != as_written(cfg):
            raise ValueError(
                f"{before} holds other settings than {self.config} now gives: choose another --output, or "
                "remove the folder to train anew"
            )

    def finish(self, threads: int) -> str | None:
        """Train and evaluate what is left of the run; what went wrong, None where nothing did."""
        if self.result:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, ROOT / "train_net.py", "--config-file", self.config, "--resume"]
        command += ["--num-gpus", str(self.num_gpus), "--dist-url", "auto", *self.opts]
        made_with = {"commit": commit(), "versions": versions()}
        begin = time.time()
        with open(self.folder / "output.txt", "ab") as output:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        scores = self._scores()
        if done.returncode or not scores:
            return f"{self.name}: train_net.py ended with {done.returncode}, see {self.folder / 'output.txt'}"
        cfg = self.cfg()
        report = {"config": self.config, "overrides": list(self.overrides), "seed": self.seed}
        report |= {"dataset": cfg.DATASETS.TEST[0], "scores": scores, "iterations": cfg.SOLVER.MAX_ITER}
        report |= {"batch": cfg.SOLVER.IMS_PER_BATCH, "minutes": (time.time() - begin) / 60}
        report |= {"hardware": hardware(cfg.MODEL.DEVICE), **made_with}
        write_json(self.folder / "result.json", report)
        return None

    def _scores(self) -> dict[str, float]:
        """Of the evaluation after the last iteration: all that Detectron2 wrote of it."""
        file = self.folder / "metrics.json"
        lines = map(json.loads, file.read_text().splitlines()) if file.is_file() else []
        last = [line for line in lines if line["iteration"] >= self.cfg().SOLVER.MAX_ITER - 1]
        return {name: value for line in last for name, value in line.items() if "/AP" in name}


def as_written(cfg: CfgNode) -> dict:
    """The config as its file has it, which does not tell tuples from lists."""
    return yaml.safe_load(cfg.dump())


def train(runs: Sequence[Run], jobs: int) -> list[str]:
    """Finish all runs, so many at a time; what went wrong."""
    threads = max(torch.get_num_threads() // jobs, 1)

    def finish(run: Run) -> str | None:
        error = run.finish(threads)
        print(error or f"{run.name}: {summary(run.result)}", flush=True)
        return error

    with ThreadPoolExecutor(jobs) as pool:
        return [error for error in pool.map(finish, runs) if error]


def summary(result: dict) -> str:
    said = [f"{name} {result['scores'][key]:.1f}" for name, key in SCORES.items() if key in result["scores"]]
    return ", ".join([*said, f"{result['minutes']:.0f} min"])


def compare(runs: Sequence[Run], timed: int) -> list[dict]:
    """A row for each config that has a result."""
    done = {}
    for run in runs:
        if run.result:
            done.setdefault(run.config, []).append(run)
    if not done:
        return []
    costs = measure_costs([own[0] for own in done.values()], timed)
    rows = []
    for own, cost in zip(done.values(), costs, strict=True):
        results = [run.result for run in own]
        scores = {name: mean_and_spread(results, key) for name, key in SCORES.items()}
        rows.append({"config": own[0].config, "scores": scores, **cost, "runs": results})
    return rows


def mean_and_spread(results: list[dict], key: str) -> dict[str, float | None] | None:
    """None where the system has no such score."""
    values = [result["scores"][key] for result in results if key in result["scores"]]
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None} if values else None


def measure_costs(runs: Sequence[Run], timed: int) -> list[dict]:
    """Of each run's model what it costs, by count and by clock."""
    models, photos, costs = {}, {}, []
    for run in runs:
        cfg = run.cfg("MODEL.WEIGHTS", str(run.folder / "model_final.pth"))
        models[run.name] = build_model(cfg).eval()
        DetectionCheckpointer(models[run.name]).load(cfg.MODEL.WEIGHTS)
        dataset, mapper = DatasetCatalog.get(cfg.DATASETS.TEST[0]), FashionDatasetMapper(cfg, is_train=False)
        photos[run.name] = [[mapper(dataset[row])] for row in range(min(timed, len(dataset)))]
        height, width = photos[run.name][0][0]["image"].shape[1:]
        counts = total(count_parts(cfg, width=width, height=height))
        costs.append({"parameters": counts.parameters, "multiply_adds": counts.multiply_adds})
        costs[-1] |= {"size": [height, width], "threads": torch.get_num_threads()}
        costs[-1] |= {"timed_on": hardware(cfg.MODEL.DEVICE)}
    turns = (dict(zip(photos, batches, strict=True)) for batches in zip(*photos.values(), strict=True))
    times = time_in_turns(models, turns)
    return [cost | {"ms": quartiles(times[run.name])} for run, cost in zip(runs, costs, strict=True)]


def table(rows: list[dict]) -> str:
    headers = ["config", "seeds", *SCORES, "parameters M", "multiply-adds G", "ms/image", "commit"]
    cells = []
    for row in rows:
        costs = [row["parameters"] / 1e6, row["multiply_adds"] / 1e9, row["ms"]["median"]]
        commits = dict.fromkeys(result["commit"] for result in row["runs"])
        cells.append([row["config"], len(row["runs"]), *map(score, row["scores"].values())])
        cells[-1] += [*(f"{cost:.2f}" for cost in costs), ", ".join(commits)]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def score(value: dict | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ± {value['std']:.2f}")


def conditions(rows: list[dict]) -> list[str]:
    """On what the rows were trained and timed, each once."""
    lines = {}
    for row in rows:
        for result in row["runs"]:
            packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
            budget = f"{result['iterations']} iterations of {result['batch']} photos, {result['dataset']}"
            lines[f"Trained: {budget}; {result['hardware']}; {packages}."] = None
        lines[f"Timed: {row['timed_on']}, {row['threads']} used."] = None
    return list(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    runs = [
        Run(config, seed, args.output / Path(config).stem / f"seed{seed}", args.num_gpus, tuple(args.opts))
        for seed in args.seeds
        for config in args.configs
    ]
    try:
        for run in runs:
            run.check()
        errors = [] if args.only_table else train(runs, args.jobs)
        rows = compare(runs, args.timed)
        write_json(args.output / "comparison.json", rows)
        print(f"\n{table(rows)}\n", *conditions(rows), sep="\n")
    except (OSError, ValueError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    for error in errors:
        print(f"compare.py: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
