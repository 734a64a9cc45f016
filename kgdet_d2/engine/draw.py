"""The command ``kgdet draw``: predictions beside the ground truth."""

import argparse
import sys
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from tqdm import tqdm

from kgdet_d2.checkpoint.checkpointer import find_model_config
from kgdet_d2.data import fashion_dataset
from kgdet_d2.data.images import PhotoError
from kgdet_d2.figure_page import justified, titled, to_height, write_jpeg
from kgdet_d2.predictor import FashionPredictor
from kgdet_d2.utils.command import command_parser
from kgdet_d2.visualizer import FashionVisualizer

DESCRIPTION = """Draw what a model predicts beside the ground truth.

Writes one figure per photo, ground truth left and prediction right, and all of them on one page,
page.jpg. Example:

    kgdet draw --weights output/model_final.pth --output output/figures MODEL.DEVICE cpu
"""
PAGE_ROW = 540  # pixels; the height of the page's rows, about


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet draw``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("--weights", metavar="FILE", help="of the model; or MODEL.WEIGHTS")
    parser.add_argument("--config-file", metavar="YAML", help="of weights that do not say what they are of")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--dataset", metavar="NAME", help="a registered one; default: DATASETS.TEST's first")
    parser.add_argument("--max-images", type=int, default=24, metavar="N", help="the first N photos")
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="S", help="0..1; default 0.3")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw the predictions of a model; return 1 where a photo could not be read, else 0.

    Raises:
        ValueError, FileNotFoundError: a config, weights or dataset that cannot be used.
    """
    cfg = find_model_config(args.config_file, args.weights, args.opts)
    if not args.dataset and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: expected a dataset to draw, got none; or name one with --dataset")
    dataset = args.dataset or cfg.DATASETS.TEST[0]
    bad = draw_dataset(
        cfg, dataset, args.output, max_images=args.max_images, score_threshold=args.score_threshold
    )
    if bad:
        print(f"{bad} photos could not be read", file=sys.stderr)
    return int(bad > 0)


def draw_dataset(cfg: CfgNode, dataset: str, output: Path, *, max_images: int, score_threshold: float) -> int:
    """Write ``<photo's name>.jpg`` for each of the first ``max_images`` photos, and ``page.jpg``.

    Photos that cannot be read are reported and left out.

    Args:
        cfg: of the model, with MODEL.WEIGHTS.
        dataset: a registered one.
        output: the folder.
        max_images: how many photos are drawn.
        score_threshold: 0..1; detections from it on are drawn.

    Returns:
        The number of photos that could not be read.

    Raises:
        ValueError: the dataset is not registered, has no schema, or no photos.
    """
    records = fashion_dataset(dataset)[:max_images]
    if not records:
        raise ValueError(f"dataset {dataset!r}: no photos among the first {max_images} to draw")
    metadata = MetadataCatalog.get(dataset)
    predictor = FashionPredictor.from_config(cfg, score_threshold=score_threshold)
    figures = []
    for record in tqdm(records, desc=f"drawing {dataset}", unit="photo"):
        try:
            figure = draw_photo(record, predictor, metadata)
        except PhotoError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            continue
        write_jpeg(output / f"{Path(record['file_name']).stem}.jpg", figure)
        figures.append(to_height(figure, PAGE_ROW))
    if figures:
        write_jpeg(output / "page.jpg", justified(figures, PAGE_ROW))
    return len(records) - len(figures)


def draw_photo(record: dict, predictor: FashionPredictor, metadata: Metadata) -> np.ndarray:
    """Draw ground truth and prediction of a photo side by side.

    Args:
        record: the photo's dataset dict.
        predictor: of the detections.
        metadata: of the dataset.

    Returns:
        The figure, BGR uint8 (h, 2 w, 3).

    Raises:
        PhotoError: the photo cannot be read.
    """
    image = predictor.mapper.read(record["file_name"])
    detections = predictor(image).to_instances()
    truth = FashionVisualizer(image, metadata).draw_dataset_dict(record)
    prediction = FashionVisualizer(image, metadata).draw_instance_predictions(detections)
    panels = {"ground truth": truth, f"prediction, score from {predictor.score_threshold:g}": prediction}
    return np.hstack([titled(drawn.get_image()[:, :, ::-1], title) for title, drawn in panels.items()])
