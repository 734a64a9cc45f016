"""The command ``kgdet export-dataset``: ground truth and predictions for other people's tools."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data import FashionDataset
from kgdet_d2.data.export.coco import export_coco
from kgdet_d2.data.export.cvat import export_cvat
from kgdet_d2.data.export.fiftyone import export_fiftyone
from kgdet_d2.data.export.labelstudio import export_labelstudio
from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.engine.evaluate import load
from kgdet_d2.evaluation import AnnotationTable, load_ground_truth
from kgdet_d2.utils.command import command_parser

DESCRIPTION = """Write the ground truth of a registered dataset, and predictions on it, for other tools.

    kgdet export-dataset deepfashion2_val --format fiftyone --output output/fiftyone \\
        --predictions output/kgdet_R50/inference/deepfashion2_val/predictions.npz

    coco         annotations.json: COCO, each category with its own landmarks and skeleton; results.json
    cvat         ground_truth.zip, predictions.zip: CVAT's "COCO Keypoints 1.0"
    fiftyone     samples.json, metadata.json: fo.Dataset.from_dir(DIR, fo.types.FiftyOneDataset)
    labelstudio  tasks.json with pre-annotations; config.xml, the labelling interface

No photo is copied or read.
"""


class Format(NamedTuple):
    """A form of export.

    Attributes:
        export: writes a dataset into a folder, and returns the files.
        score_threshold: detections with lower scores are left out, unless the user says otherwise.
    """

    export: Callable[[ExportedDataset, Path], list[Path]]
    score_threshold: float


FORMATS = {
    "coco": Format(export_coco, -inf),
    "cvat": Format(export_cvat, 0.3),
    "fiftyone": Format(export_fiftyone, -inf),
    "labelstudio": Format(export_labelstudio, 0.3),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet export-dataset``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("dataset", metavar="NAME", help="a registered dataset")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="write the files there")
    parser.add_argument("--predictions", type=Path, metavar="PATH", help=".npz, or COCO results, .json")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="leave out detections with lower scores; default 0.3 for cvat and labelstudio, else none",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the files, and print what is in them.

    Raises:
        ValueError, FileNotFoundError: see :func:`kgdet_d2.engine.evaluate.load`; or the format cannot express
            the dataset.
    """
    form = FORMATS[args.format]
    if args.predictions:
        annotations, predictions = load(args.dataset, args.predictions)
    else:
        annotations, predictions = load_ground_truth(args.dataset), None
    annotations, image_root = _with_relative_names(annotations, args.dataset)
    dataset = ExportedDataset(
        annotations=annotations,
        image_root=image_root,
        predictions=predictions,
        score_threshold=form.score_threshold if args.score_threshold is None else args.score_threshold,
    )
    for file in form.export(dataset, args.output):
        print(file)
    counts = f"{len(annotations)} photos, {annotations.num_garments} garments"
    print(counts if predictions is None else f"{counts}, {len(dataset.detection_rows)} detections")


def _with_relative_names(annotations: AnnotationTable, name: str) -> tuple[AnnotationTable, str]:
    """Return annotations whose file names are relative to the photos' folder, and that folder."""
    dataset = DatasetCatalog.get(name)
    if isinstance(dataset, FashionDataset):
        return annotations, dataset.image_root
    paths = [os.path.abspath(path) for path in annotations.file_name.tolist()]  # as dataset dicts have them
    root = MetadataCatalog.get(name).get("image_root", "")
    if paths and not root:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = np.array([os.path.relpath(path, root) for path in paths], np.str_)
    return replace(annotations, file_name=names), root
