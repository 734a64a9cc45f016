"""The command ``kgdet compare``: several systems trained alike, with several seeds each, in one table."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from tabulate import tabulate

from kgdet_d2.checkpoint.checkpointer import load_model
from kgdet_d2.complexity import count_by_module, total
from kgdet_d2.data import FashionDatasetMapper, fashion_dataset
from kgdet_d2.engine.compare_figure import figure_path, write_figure
from kgdet_d2.engine.compare_runs import SCORES, Run, read_json, train
from kgdet_d2.utils.command import at_least, command_parser
from kgdet_d2.utils.environment import hardware
from kgdet_d2.utils.io import write_json
from kgdet_d2.utils.timing import quartiles, time_in_turns

DESCRIPTION = """Train several systems alike, with several seeds each, and put them into one table.

    kgdet compare sample/kgdet_tiny.yaml sample/reppoints_tiny.yaml --output output/comparison \\
        --iterations 600 --seeds 1 2 3 --num-gpus 0 --jobs 2 --opts SOLVER.CHECKPOINT_PERIOD 200

Every config is trained and evaluated by "kgdet train" under the same KEY VALUE overrides, once with each
seed, in OUTPUT/<config's name>/seed<n>: its log, checkpoints and predictions, and result.json when it is
done. All systems have their first seed before any has its second. The command can be given again: what is
done is kept, what was broken off goes on from its last checkpoint. A run that fails is reported, the others
go on. --only-table trains nothing more.

All are trained for as many --iterations, or for as many --seconds: a run's speed is then measured first, over
20 iterations, and the iterations that it gives time for are kept in the run's budget.json. Evaluation does
not count. Steps of the learning rate stay at the same shares of the training. With neither, each config has
its own SOLVER.MAX_ITER.

Then the models of each system's first seed are timed, photo by photo in turns, on the first --timed photos of
the test set, one at a time and from tensor to detections. Scores are means over the seeds, with their
sample standard deviation; s/iteration is the median of what the trainings took. Parameters are all there are;
multiply-adds are those of one photo of the size that the first timed one has for the network, of an R-CNN
with as many boxes as its config lets through.
OUTPUT/comparison.json holds all of it, with each run's commit, versions and hardware; where the runs' folders
are gone, --only-table reads it.

--figure draws the paper's Figure 5: box AP against landmark AP, a disc for each model with its number of
informative points, and their correlation; configs/sample/ablations has small models for it.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet compare``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("configs", nargs="+", metavar="YAML", help="a system each, of different names")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument(
        "--seeds", type=at_least(0), nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--iterations", type=at_least(1), metavar="N", help="of each run")
    budget.add_argument("--seconds", type=at_least(1), metavar="S", help="of training, of each run")
    parser.add_argument("--num-gpus", type=int, default=torch.cuda.device_count(), help="of each run")
    parser.add_argument("--jobs", type=at_least(1), default=1, metavar="N", help="runs at a time; default: 1")
    parser.add_argument("--timed", type=at_least(2), default=50, metavar="N", help="photos; default: 50")
    parser.add_argument("--only-table", action="store_true", help="of the runs that are done")
    parser.add_argument(
        "--figure",
        nargs="?",
        type=figure_path,
        const=Path(),
        metavar="FILE",
        help="box AP against landmark AP, .png or .svg; default: OUTPUT/figure5.png",
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE, for all systems")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train what is left to train, and print and write the table; return 1 where a run failed, else 0.

    Raises:
        ValueError, OSError: configs or seeds that occur twice, a figure without models, or see
            :meth:`Run.check`.
    """
    names = [Path(config).stem for config in args.configs]
    if len(set(names)) < len(names) or len(set(args.seeds)) < len(args.seeds):
        raise ValueError(f"expected different configs and seeds, got {names} and {args.seeds}")
    runs = [
        Run(
            config,
            seed,
            folder=args.output / Path(config).stem / f"seed{seed}",
            num_gpus=args.num_gpus,
            overrides=tuple(args.opts),
            iterations=args.iterations,
            seconds=args.seconds,
        )
        for seed in args.seeds
        for config in args.configs
    ]
    for system_run in runs:
        system_run.check()
    errors = [] if args.only_table else train(runs, args.jobs)
    file, rows = args.output / "comparison.json", compare(runs, args.timed)
    if args.only_table and not rows:
        rows = [row for row in read_json(file) or [] if row["config"] in args.configs]
    else:
        write_json(file, rows)
    print(f"\n{table(rows)}\n", *conditions(rows), sep="\n")
    if args.figure:
        figure = args.output / "figure5.png" if args.figure == Path() else args.figure
        print(*write_figure(figure, rows), sep="\n")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


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
        models[run.name] = load_model(cfg)
        dataset, mapper = fashion_dataset(cfg.DATASETS.TEST[0]), FashionDatasetMapper(cfg, is_train=False)
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
    headers = ["config", "seeds", *SCORES, "parameters M", "multiply-adds G", "ms/image"]
    headers += ["iterations", "s/iteration", "commit"]
    cells = []
    for row in rows:
        costs = [row["parameters"] / 1e6, row["multiply_adds"] / 1e9, row["ms"]["median"]]
        cells.append([row["config"], len(row["runs"]), *map(score, row["scores"].values())])
        cells[-1] += [*(f"{cost:.2f}" for cost in costs), each_once(row, "iterations"), speed(row)]
        cells[-1].append(each_once(row, "commit"))
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def score(value: dict | None) -> str:
    """Return what :func:`mean_and_spread` returned as text."""
    if value is None:
        return "-"
    return f"{value['mean']:.2f}" + ("" if value["std"] is None else f" ± {value['std']:.2f}")


def each_once(row: dict, key: str) -> str:
    """Return the different values that a row's runs have, as text."""
    return ", ".join(dict.fromkeys(str(result[key]) for result in row["runs"]))


def speed(row: dict) -> str:
    """Return the median of the runs' seconds per iteration as text; older results do not have them."""
    seconds = [result.get("seconds_per_iteration") for result in row["runs"]]
    known = [value for value in seconds if value is not None]
    return f"{median(known):.3f}" if known else "-"


def conditions(rows: list[dict]) -> list[str]:
    """Return lines that say on what the rows were trained and timed, each once."""
    lines: dict[str, None] = {}
    for row in rows:
        for result in row["runs"]:
            packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
            budget = result.get("budget")
            length = f"{budget['seconds']} s" if budget else f"{result['iterations']} iterations"
            trained = f"{length} in batches of {result['batch']} photos, {result['dataset']}"
            lines[f"Trained: {trained}; {result['hardware']}; {packages}."] = None
            if result.get("overrides"):
                lines[f"All with {' '.join(result['overrides'])}"] = None
        lines[f"Timed: {row['timed_on']}, {row['threads']} used."] = None
    return list(lines)
