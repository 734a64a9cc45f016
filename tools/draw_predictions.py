#!/usr/bin/env python
r"""Draw what a model finds beside the ground truth.

Writes one figure per photo, ground truth left and prediction right, and all of them on one page,
``page.jpg``. Example:

    python tools/draw_predictions.py --config-file configs/kgdet_R50.yaml --output output/figures \
        MODEL.WEIGHTS output/model_final.pth MODEL.DEVICE cpu
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from tqdm import tqdm

from kgdet_d2.config import check_weights, load_config
from kgdet_d2.figure_page import fit, grid, titled, write_jpeg
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.visualizer import FashionVisualizer

PAGE_COLUMNS = 4
PAGE_CELL = (720, 540)  # width, height in pixels; two upright photos fill it


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--dataset", metavar="NAME", help="a registered one; default: DATASETS.TEST's first")
    parser.add_argument("--max-images", type=int, default=24, metavar="N", help="the first N photos")
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="S", help="0..1; default 0.3")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    cfg = load_config(args.config_file, args.opts)
    check_weights(cfg, required=True)
    if not args.dataset and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: expected a dataset to draw, got none; or name one with --dataset")
    dataset = args.dataset or cfg.DATASETS.TEST[0]
    draw_dataset(cfg, dataset, args.output, max_images=args.max_images, score_threshold=args.score_threshold)


def draw_dataset(
    cfg: CfgNode, dataset: str, output: Path, *, max_images: int, score_threshold: float
) -> None:
    """Write ``<photo's name>.jpg`` for each of the first ``max_images`` photos, and ``page.jpg``."""
    records = DatasetCatalog.get(dataset)[:max_images]
    if not records:
        raise ValueError(f"dataset {dataset!r}: no photos among the first {max_images} to draw")
    metadata = MetadataCatalog.get(dataset)
    predictor = DefaultPredictor(cfg)
    predictor.model = optimize_for_inference(predictor.model, cfg)
    cells = []
    for record in tqdm(records, desc=f"drawing {dataset}", unit="photo"):
        figure = draw_photo(record, predictor, metadata, score_threshold)
        write_jpeg(output / f"{Path(record['file_name']).stem}.jpg", figure)
        cells.append(fit(figure, PAGE_CELL))
    write_jpeg(output / "page.jpg", grid(cells, PAGE_COLUMNS))


def draw_photo(
    record: dict, predictor: Callable[[np.ndarray], dict], metadata: Metadata, score_threshold: float
) -> np.ndarray:
    """A dataset dict -> BGR figure (h, 2 w, 3), ground truth and prediction side by side.

    Raises:
        RuntimeError: the photo cannot be read.
    """
    try:
        photo = read_image(record["file_name"], format="BGR")
    except OSError as error:
        raise RuntimeError(f"{record['file_name']}: cannot read the photo: {error}") from error
    instances = predictor(photo)["instances"]
    rgb = photo[:, :, ::-1]
    truth = FashionVisualizer(rgb, metadata).draw_dataset_dict(record)
    found = FashionVisualizer(rgb, metadata, score_threshold=score_threshold).draw_instance_predictions(
        instances
    )
    panels = {"ground truth": truth, f"prediction, score from {score_threshold:g}": found}
    return np.hstack([titled(drawn.get_image()[:, :, ::-1], title) for title, drawn in panels.items()])


if __name__ == "__main__":
    main()
