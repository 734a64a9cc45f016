"""The command ``kgdet evaluate``: scores of stored predictions, without the model."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kgdet_d2.engine.run_config import find_oks_sigmas
from kgdet_d2.evaluation import AnnotationTable, load_ground_truth, plots
from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.evaluation.box_form import check_box_form
from kgdet_d2.evaluation.by_attribute import attribute_values, subset_scores
from kgdet_d2.evaluation.keypoint_error import keypoint_errors
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.report import (
    error_report,
    errors_csv,
    keypoint_report,
    markdown,
    report_json,
)
from kgdet_d2.evaluation.tide import DetectionErrors, find_errors
from kgdet_d2.structures.coco_results import index_of_result, load_coco_results
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.utils.command import command_parser
from kgdet_d2.utils.io import atomic_write, write_json_array

DESCRIPTION = """Evaluate stored predictions again, without the model.

    kgdet evaluate --dataset deepfashion2_val --subsets --errors --output output/evaluation \\
        --predictions output/kgdet_R50/inference/deepfashion2_val/predictions.npz

"kgdet train --eval-only" leaves the predictions in OUTPUT_DIR/inference. A file that ends in .json holds COCO
results, of any tool. Always printed are box AP, landmark AP (visible and occluded landmarks; visible ones
only), both by class, and the landmarks' normalised error (NE) and PCK; of a model of boxes alone, box AP.
OKS has TEST.KEYPOINT_OKS_SIGMAS of --config-file, otherwise of OUTPUT_DIR/config.yaml where the predictions
lie in OUTPUT_DIR/inference/<dataset>, otherwise the dataset's own sigmas. Further:

    --subsets             AP by scale, occlusion, zoom_in, viewpoint, source (DeepFashion2) and
                          variation_type (FLD), whichever the dataset has, or by the attributes named
    --errors              TIDE's errors, confusion between classes, garments that were missed
    --output DIR          evaluation.md and evaluation.json, figures, and with --errors errors.csv, a line for
                          each wrong detection and each garment that was missed
    --export-coco PATH    the detections as official COCO results, some 5 KB each
"""
PANELS = {
    "bbox": "Boxes, IoU 0.5",
    "keypoints": "Landmarks, OKS 0.5",
    "keypoints_visible": "Visible landmarks, OKS 0.5",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet evaluate``."""
    parser = report_parser(DESCRIPTION)
    parser.add_argument("--subsets", nargs="*", metavar="ATTRIBUTE", help="AP by attributes")
    parser.add_argument("--errors", action="store_true", help="error analysis")
    parser.add_argument("--export-coco", type=Path, metavar="PATH", help="write COCO results there")
    return parser


def report_parser(description: str, **output: Any) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all commands on stored predictions have.

    Args:
        description: of the command.
        **output: of the argument ``--output``, where it is not a folder of tables and figures.
    """
    parser = command_parser(description)
    parser.add_argument(
        "--predictions", required=True, type=Path, metavar="PATH", help=".npz, or COCO results, .json"
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="the registered one they are of")
    parser.add_argument(
        "--config-file", metavar="YAML", help="of the model that predicted; default: that of the run's folder"
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        metavar="S",
        help="of the confusion matrix and the list of errors; 0..1, default 0.3",
    )
    output = {"metavar": "DIR", "help": "write tables and figures there"} | output
    parser.add_argument("--output", type=Path, **output)
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the scores, and write what else is asked for.

    Raises:
        ValueError, FileNotFoundError: see :func:`load`; or an attribute that the dataset lacks.
    """
    truth, predictions = load(args.dataset, args.predictions, args.config_file)
    subsets = None if args.subsets is None else attribute_values(truth, args.subsets or None)
    curves = {task: whole for task, (whole,) in average_precisions(truth, predictions).items()}
    overlaps = BoxMatcher(truth, predictions)
    report = {
        **subject(args, truth, predictions),
        "scores": {task: result.summary() for task, result in curves.items()},
    }
    if predictions.has_keypoints:
        report["landmark_error"] = landmark_error(overlaps)
    if subsets is not None:
        report["subsets"] = subset_scores(truth, predictions, subsets)
    errors = find_errors(overlaps) if args.errors else None
    if errors:
        report["errors"] = error_report(errors, score_threshold=args.score_threshold)
    print(markdown(report))
    if args.output:
        write_report(args.output, "evaluation", report)
        panels = {PANELS[task]: result for task, result in curves.items()}
        plots.save_png(plots.precision_recall_figure(panels), args.output / "precision_recall.png")
    if args.output and errors:
        write_errors(args.output, report["errors"], errors)
    if args.export_coco:
        with atomic_write(args.export_coco) as file:
            write_json_array(file, predictions.coco_results())


def load(dataset: str, path: Path, config_file: str | None = None) -> tuple[AnnotationTable, Predictions]:
    """Load the ground truth of a registered dataset, and predictions on its photos.

    Args:
        dataset: its name.
        path: COCO results where it ends in ``.json``, see :func:`load_coco_results`; otherwise what
            :meth:`Predictions.save` wrote.
        config_file: the ground truth's schema gets the sigmas of :func:`find_oks_sigmas`.

    Raises:
        FileNotFoundError: there is no such predictions file or config file.
        ValueError: the dataset is not registered or has no schema, the predictions are damaged or of another
            schema, they are of a photo that the dataset does not have, or look as if their boxes were of
            another form than the file's, see :func:`check_box_form`; or the sigmas do not fit.
    """
    sigmas, _ = find_oks_sigmas(config_file, path)
    truth = load_ground_truth(dataset, sigmas)
    is_json = path.suffix.lower() == ".json"
    predictions = load_coco_results(path, truth) if is_json else Predictions.load(path, truth.schema)
    unknown = np.setdiff1d(predictions.image_id, truth.image_id)
    if len(unknown):
        raise ValueError(
            f"{path}: expected predictions of photos of dataset {dataset!r}, got {len(unknown)} of other "
            f"photos, such as image {unknown[0]}"
        )
    if is_json:
        check_box_form(truth, predictions, partial(_entry, predictions, path))
    return truth, predictions


def _entry(predictions: Predictions, path: Path, row: int) -> str:
    """Return how COCO results name a detection, given its row."""
    image = predictions.detection_image[row]
    number = row - int(predictions.detection_offsets[image])
    return f"{path}: [{index_of_result(path, int(predictions.image_id[image]), number)}]"


def subject(args: argparse.Namespace, truth: AnnotationTable, predictions: Predictions) -> dict:
    """Return the beginning of a report: the names of what is compared, the sigmas' file, and the counts.

    Args:
        args: of :func:`report_parser`.
        truth: the ground truth.
        predictions: on its photos.
    """
    sigmas, source = find_oks_sigmas(args.config_file, args.predictions)
    names = truth.schema.class_names
    garments = np.bincount(truth.category_id[~truth.iscrowd], minlength=len(names))
    return {
        "dataset": args.dataset,
        "predictions": str(args.predictions),
        **({"oks_sigmas": source} if sigmas else {}),
        "photos": len(truth),
        "photos_predicted": len(predictions),
        "detections": predictions.num_detections,
        "garments": dict(zip(names, garments.tolist(), strict=True)),
    }


def landmark_error(overlaps: BoxMatcher) -> dict[str, dict]:
    """Return the normalised errors and PCK of visible and of labelled landmarks."""
    return {
        "visible": keypoint_report(keypoint_errors(overlaps, visible_only=True)),
        "labelled": keypoint_report(keypoint_errors(overlaps, visible_only=False)),
    }


def write_report(folder: Path, name: str, report: dict) -> None:
    """Write ``<name>.md``, ``<name>.json`` and the figure of landmarks."""
    for suffix, content in {"md": markdown(report).encode(), "json": report_json(report)}.items():
        with atomic_write(folder / f"{name}.{suffix}") as file:
            file.write(content)
    if "landmark_error" in report:
        by_keypoint = report["landmark_error"]["visible"]["by_landmark"]
        plots.save_png(plots.keypoint_figure(by_keypoint), folder / "landmark_error.png")


def write_errors(folder: Path, report: dict, errors: DetectionErrors) -> None:
    """Write figures, and ``errors.csv``."""
    threshold = report["score_threshold"]
    plots.save_png(plots.errors_figure(report["kinds"], report["AP50"]), folder / "errors.png")
    plots.save_png(plots.confusion_figure(report["confusion"], threshold), folder / "confusion.png")
    with atomic_write(folder / "errors.csv") as file:
        file.writelines(errors_csv(errors, score_threshold=threshold))
