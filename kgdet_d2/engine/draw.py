#!/usr/bin/env python
r"""Draw what a model finds beside the ground truth.

Writes one figure per photo, ground truth left and prediction right, and all of them on one page,
``page.jpg``. Example:

    python tools/draw_predictions.py --config-file configs/kgdet_R50.yaml --output output/figures \
        MODEL.WEIGHTS output/model_final.pth MODEL.DEVICE cpu
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from tqdm import tqdm

from kgdet_d2.config import check_weights, load_config
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.utils.io import atomic_write
from kgdet_d2.visualizer import FashionVisualizer

PAGE_COLUMNS = 4
PAGE_CELL = (720, 540)  # width, height in pixels; two upright photos fill it
WHITE = (255, 255, 255)


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


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image under a white bar with the title."""
    height = max(24, image.shape[1] // 20)
    bar = np.full((height, image.shape[1], 3), 255, np.uint8)
    position = (height // 3, round(0.72 * height))
    cv2.putText(bar, title, position, cv2.FONT_HERSHEY_SIMPLEX, height / 44, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, image])


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image shrunk to fit into size (width, height), centred on white."""
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (size[1] - image.shape[0]) // 2, (size[0] - image.shape[1]) // 2
    bottom, right = size[1] - image.shape[0] - top, size[0] - image.shape[1] - left
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=WHITE)


def grid(cells: list[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size, row by row; the last row is filled up with white."""
    columns = min(columns, len(cells))
    missing = -len(cells) % columns
    cells = [*cells, *itertools.repeat(np.full_like(cells[0], 255), missing)]
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def write_jpeg(path: Path, image: np.ndarray) -> None:
    with atomic_write(path) as file:
        file.write(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


if __name__ == "__main__":
    main()
