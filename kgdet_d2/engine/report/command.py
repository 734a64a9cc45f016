"""The command ``kgdet report``: its arguments, and what it computes for the page."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kgdet_d2.config import load_config
from kgdet_d2.engine.evaluate import load, report_parser, subject
from kgdet_d2.engine.report.drawn_garments import draw_garments
from kgdet_d2.engine.report.page import Configuration, render
from kgdet_d2.engine.report.worst_photos import PhotoErrors, draw_worst
from kgdet_d2.engine.run_config import find_run_config
from kgdet_d2.evaluation.average_precision import AREAS, average_precisions
from kgdet_d2.evaluation.by_attribute import attribute_values, subset_scores
from kgdet_d2.evaluation.keypoint_error import keypoint_errors
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.oracle import matched_summary, oracle_scores
from kgdet_d2.evaluation.report import TASKS, Table, error_report, keypoint_report
from kgdet_d2.evaluation.tide import find_errors
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.utils.command import at_least
from kgdet_d2.utils.io import atomic_write

DESCRIPTION = """Write what an evaluation found as one HTML page that needs no other file and no network.

    kgdet report --dataset deepfashion2_val --output report.html \\
        --predictions output/kgdet_R50/inference/deepfashion2_val/predictions.npz

The page has AP by class, size and attribute; precision against recall, and AP against the threshold of IoU
and OKS; the confusion between classes; TIDE's kinds of errors with the AP50 that each costs, and the AP that
true classes, boxes or landmarks would give; the landmarks' errors on drawn garments; the photos with the
worst errors beside their ground truth; the configuration, and versions. Of predictions of boxes alone it has
no part on landmarks. Photos that cannot be read are named on the page, and the others are drawn.

The config is that of --config-file, otherwise OUTPUT_DIR/config.yaml where the predictions lie in
OUTPUT_DIR/inference/<dataset>, as "kgdet train" leaves them; otherwise the page says that it is not known.

AP by attribute takes half as long as AP itself, and the AP with parts of the truth some three times as long:
--no-subsets and --no-oracle leave them out.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet report``."""
    parser = report_parser(DESCRIPTION, required=True, metavar="HTML", help="the page")
    parser.add_argument(
        "--max-photos", type=at_least(0), default=24, metavar="N", help="of the worst; default 24"
    )
    parser.add_argument("--no-subsets", dest="subsets", action="store_false", help="no AP by attribute")
    parser.add_argument("--no-oracle", dest="oracle", action="store_false", help="no AP with true parts")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        ValueError, FileNotFoundError: see :func:`load`; or the config file cannot be used.
    """
    configuration = find_configuration(args.config_file, args.predictions)
    truth, predictions = load(args.dataset, args.predictions, args.config_file)
    curves = {task: whole for task, (whole,) in average_precisions(truth, predictions).items()}
    matcher = BoxMatcher(truth, predictions)
    errors = find_errors(matcher)
    visible = keypoint_errors(matcher, visible_only=True) if predictions.has_keypoints else None
    report = {
        **subject(args, truth, predictions),
        "scores": {task: result.summary() for task, result in curves.items()},
        "errors": error_report(errors, score_threshold=args.score_threshold),
    }
    if visible is not None:
        labelled = keypoint_errors(matcher, visible_only=False)
        report["landmark_error"] = {
            "visible": keypoint_report(visible),
            "labelled": keypoint_report(labelled),
        }
    if args.subsets:
        report["subsets"] = subset_scores(truth, predictions, attribute_values(truth))
    if args.oracle:
        report |= {"oracles": oracle_scores(matcher), "matched": matched_summary(matcher)}
    costs = PhotoErrors(errors, visible, args.score_threshold)
    page = render(
        report,
        sizes=size_table(truth, report["scores"]),
        curves=curves,
        garments=[] if visible is None else draw_garments(truth, visible),
        photos=draw_worst(costs, args.dataset, count=args.max_photos),
        configuration=configuration,
    )
    write(args.output, page)


def write(path: Path, page: str) -> None:
    """Write the page, and print its size."""
    content = page.encode()
    with atomic_write(path) as file:
        file.write(content)
    print(f"{path}: {len(content) / 1e6:.1f} MB")


def find_configuration(config_file: str | None, predictions: Path) -> Configuration:
    """Return the config that a model predicted with.

    Args:
        config_file: a yaml file or the name of one; None: config.yaml of the predictions' run folder.
        predictions: the file.

    Raises:
        FileNotFoundError, ValueError: the config file does not exist or is not one.
    """
    if config_file is not None:
        return Configuration(config_file, load_config(config_file, []).dump())
    run_config = find_run_config(predictions)
    if run_config is None:
        return Configuration()
    return Configuration(f"{run_config.parent.name}/{run_config.name}", run_config.read_text())


def size_table(truth: AnnotationTable, scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the table of AP by COCO's sizes, of each task's :meth:`AveragePrecision.summary`."""
    area = truth.area[~truth.iscrowd]
    rows = []
    for name in ("small", "medium", "large"):
        low, high = AREAS[name]
        garments = int(np.count_nonzero((area >= low) & (area < high)))
        limits = f"from {low**0.5:g}²" if low else f"below {high**0.5:g}²"
        cells = [scores[task].get(f"AP{name[0]}", math.nan) for task in scores]
        rows.append([f"{name}, {limits}", garments, *cells])
    headers = ["box, square pixels", "garments", *(f"{TASKS[task]} AP" for task in scores)]
    return Table("Average precision by size", headers, rows)
