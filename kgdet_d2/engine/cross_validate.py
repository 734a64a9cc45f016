"""The command ``kgdet cross-validate``: how a system does on photos that it has not learnt from."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from tabulate import tabulate

from kgdet_d2.config import check_weights, load_config
from kgdet_d2.data import fashion_dataset
from kgdet_d2.engine import trainer
from kgdet_d2.evaluation import load_ground_truth
from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.evaluation.report import report_json
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.utils.catalog import check_schema_of_datasets, schema_of_config, schema_of_dataset
from kgdet_d2.utils.command import at_least, command_parser, exit_status
from kgdet_d2.utils.io import atomic_write

DESCRIPTION = """Train on parts of a dataset, and evaluate on the photos left out.

    kgdet cross-validate --config-file sample/kgdet_plus_tiny.yaml --dataset mine_train --folds 4 \\
        --output output/folds --num-gpus 0 MODEL.WEIGHTS output/demo/model_final.pth SOLVER.MAX_ITER 200

For datasets too small to set photos aside. They are dealt into as many --folds, at random by --seed. For each
fold a model is trained on the other folds, in OUTPUT/fold<n>, from the config and KEY VALUE overrides as by
"kgdet train", and evaluated on the photos left out and on those learnt. Settings are the same for all folds:
nothing must be chosen by a fold that is left out.

Printed are box AP and landmark AP of each fold and of all photos, each predicted by the model that has not
learnt it. OUTPUT/cross_validation.json holds them by class, OUTPUT/predictions.npz the predictions, for
"kgdet evaluate" and "kgdet errors".
"""
SCORES = {"box AP": ("bbox", "AP"), "AP50": ("bbox", "AP50"), "landmark AP": ("keypoints", "AP")}


@dataclass(frozen=True)
class Fold:
    """A fold, and the photos on which its model is trained.

    Attributes:
        dataset: registered.
        number: 1...
        rows: of the dataset's photos that are left out, rising.
        folder: of its training.
    """

    dataset: str
    number: int
    rows: tuple[int, ...]
    folder: Path

    @property
    def left_out(self) -> str:
        """The dataset of the photos left out."""
        return f"{self.dataset}_fold{self.number}_left_out"

    @property
    def learnt(self) -> str:
        """The dataset of all others."""
        return f"{self.dataset}_fold{self.number}_learnt"

    def register(self) -> None:
        """Register both datasets, with the metadata of the whole."""
        metadata = MetadataCatalog.get(self.dataset).as_dict()
        others = sorted(set(range(len(fashion_dataset(self.dataset)))) - set(self.rows))
        for name, rows in ((self.left_out, self.rows), (self.learnt, others)):
            DatasetCatalog.register(name, lambda rows=rows: self._records(rows))
            MetadataCatalog.get(name).set(**metadata | {"name": name})

    def _records(self, rows: Sequence[int]) -> list[dict]:
        dataset = fashion_dataset(self.dataset)
        return [dataset[row] for row in rows]

    def unregister(self) -> None:
        """Undo :meth:`register`."""
        for name in (self.left_out, self.learnt):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)

    def scores(self, name: str) -> tuple[Predictions, dict[str, dict[str, float]]]:
        """Return the predictions of the fold's model on one of its datasets, and their scores."""
        truth = load_ground_truth(name)
        file = self.folder / "inference" / name / "predictions.npz"
        predictions = Predictions.load(file, truth.schema)
        return predictions, summaries(truth, predictions)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet cross-validate``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="registered")
    parser.add_argument("--folds", type=at_least(2), default=4, metavar="N", help="default: 4")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the deal; default: 0")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="that is not there yet")
    parser.add_argument("--num-gpus", type=int, default=torch.cuda.device_count(), help="of each training")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def run(args: argparse.Namespace) -> None:
    """Train and evaluate all folds, and print and write their scores.

    Raises:
        ValueError: settings that contradict the dataset, fewer photos than folds, or see
            :func:`kgdet_d2.config.load_config`.
        FileExistsError: the output is there already.
        RuntimeError: a fold's training failed.
    """
    schema_of_dataset(args.dataset)
    whole = str((args.dataset,))
    cfg = load_config(args.config_file, ["DATASETS.TRAIN", whole, "DATASETS.TEST", whole, *args.opts])
    check_weights(cfg, required=False)
    check_schema_of_datasets([args.dataset], schema_of_config(cfg))
    number = len(fashion_dataset(args.dataset))
    if number < args.folds:
        raise ValueError(
            f"--folds: expected at most {number}, the photos of {args.dataset}, got {args.folds}"
        )
    if args.output.exists():
        raise FileExistsError(f"--output: {args.output} is there already; name another folder")
    folds = deal(args.dataset, number, args.folds, args.seed, args.output)
    for fold in folds:
        _train_in_process(fold, args)
    report, predictions = cross_validation(args.dataset, folds)
    predictions.save(args.output / "predictions.npz")
    with atomic_write(args.output / "cross_validation.json") as file:
        file.write(report_json(report))
    print(f"\n{table(report)}\n")


def deal(dataset: str, number: int, folds: int, seed: int, output: Path) -> list[Fold]:
    """Deal the photos 0..number - 1 of a dataset into folds, at random."""
    parts = np.array_split(np.random.default_rng(seed).permutation(number), folds)
    return [
        Fold(dataset, index, tuple(sorted(part.tolist())), output / f"fold{index}")
        for index, part in enumerate(parts, start=1)
    ]


def _train_in_process(fold: Fold, args: argparse.Namespace) -> None:
    """Train a fold in a process of its own, whose logs and random state no other fold shares."""
    process = get_context("spawn").Process(target=_train, args=(fold, args))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"fold {fold.number}: training ended with {process.exitcode}, see {fold.folder}")


def _train(fold: Fold, args: argparse.Namespace) -> None:
    """Train and evaluate a fold, and exit."""
    words = ["--config-file", args.config_file, "--num-gpus", str(args.num_gpus), *args.opts]
    words += ["DATASETS.TRAIN", f"('{fold.learnt}',)", "DATASETS.TEST", str((fold.left_out, fold.learnt))]
    train_args = trainer.make_parser().parse_args([*words, "OUTPUT_DIR", str(fold.folder)])

    def train() -> None:
        launch(_register_and_train, args.num_gpus, dist_url=train_args.dist_url, args=(fold, train_args))

    sys.exit(exit_status(train))


def _register_and_train(fold: Fold, args: argparse.Namespace) -> None:
    """Train in each of the processes of a training."""
    fold.register()
    trainer.main(args)


def cross_validation(dataset: str, folds: Sequence[Fold]) -> tuple[dict, Predictions]:
    """Return the scores of trained folds, and the predictions on the photos left out, in the dataset's order.

    Returns:
        ``dataset``; of each of ``folds`` its ``photos``, and scores of those ``left_out`` and ``learnt``; and
        the scores ``left_out`` of all photos together.
    """
    truth = load_ground_truth(dataset)
    parts, rows = [], []
    for fold in folds:
        fold.register()
        try:
            predictions, left_out = fold.scores(fold.left_out)
            _, learnt = fold.scores(fold.learnt)
        finally:
            fold.unregister()
        parts.append(predictions)
        photos = predictions.image_id.tolist()
        rows.append({"photos": photos, "left_out": left_out, "learnt": learnt})
    together = Predictions.concatenate(parts, truth.schema)
    return {"dataset": dataset, "folds": rows, "left_out": summaries(truth, together)}, together


def summaries(truth: AnnotationTable, predictions: Predictions) -> dict[str, dict[str, float]]:
    """Return the summaries of box AP and landmark AP."""
    return {task: whole.summary() for task, (whole,) in average_precisions(truth, predictions).items()}


def table(report: dict) -> str:
    """Return what :func:`cross_validation` returned as a Markdown table."""
    headers = ["photos left out", *SCORES, *(f"learnt: {name}" for name in SCORES)]
    cells = [
        [f"fold {number}: {len(fold['photos'])}", *_scores(fold["left_out"]), *_scores(fold["learnt"])]
        for number, fold in enumerate(report["folds"], start=1)
    ]
    learnt = [_scores(fold["learnt"]) for fold in report["folds"]]
    means = [None if None in values else mean(values) for values in zip(*learnt, strict=True)]
    total = sum(len(fold["photos"]) for fold in report["folds"])
    cells.append([f"all {total}; means", *_scores(report["left_out"]), *means])
    return tabulate(cells, headers, tablefmt="pipe", floatfmt=".2f", missingval="-")


def _scores(summary: dict[str, dict[str, float]]) -> list[float | None]:
    """Return the scores of the table, None where a system has no landmarks."""
    return [summary[task][name] if task in summary else None for task, name in SCORES.values()]
