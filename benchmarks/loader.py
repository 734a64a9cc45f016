"""Throughput of the training loader, and where the time of an image goes.

    python -m benchmarks loader
    python -m benchmarks loader --dataset deepfashion2_train --workers 0 2 8 --json loader.json
    python -m benchmarks loader --sizes 800 --opts INPUT.SCALE_JITTER "(0.1, 2.0)"
    python -m benchmarks loader --training configs/sample/kgdet_tiny.yaml --opts MODEL.DEVICE cpu

Without --dataset, drawn photos of DeepFashion2's usual size (the median of some: 640 x 748, 0.13 bytes a
pixel) are made for it. A size is INPUT.MIN_SIZE_TRAIN; MAX_SIZE_TRAIN is 1333 at 800 and in proportion at
others. Each rate is measured in a loader of its own after a warm-up, in five parts, of which the median
counts. The steps are timed in the mapper itself, without workers; medians over the photos.

--training takes a config as it is, trains it for --photos photos and prints how long each iteration waits for
its batch, and how long it then computes; medians.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from unittest.mock import patch

import cv2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from benchmarks._report import Report, add_opts, at_least, markdown
from benchmarks._timing import WHOLE, Clock
from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper, build_train_loader, mapper, register_fashion, training_dataset
from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.engine.optimizer import build_optimizer
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic import generate_photo

CONFIG = Path(__file__).parents[1] / "configs" / "Base-KGDet.yaml"
DRAWN, DRAWN_SIDE, DRAWN_QUALITY = 32, 748, 88  # photos, longer side in pixels, of JPEG
WARM_UP, STEPS_OF_WARM_UP, PARTS = 20, 3, 5
READ, RESIZE, OTHERS, RATIO = "read and decode", "resize", "the rest", "others / (read + resize)"
# The steps of the mapper, and the functions that do them.
STEPS: dict[str, list[tuple[object, str]]] = {
    READ: [(mapper, "read_image")],
    RESIZE: [(T.ResizeTransform, "apply_image")],
    "crop": [(T.CropTransform, "apply_image")],
    "colour": [(T.ColorTransform, "apply_image")],
    "flip": [(T.HFlipTransform, "apply_image"), (T.VFlipTransform, "apply_image")],
    "boxes and landmarks": [(utils, "transform_instance_annotations")],
    "Instances": [(utils, "annotations_to_instances"), (utils, "filter_empty_instances")],
    "tensor": [(mapper, "image_to_tensor")],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add = parser.add_argument
    add("--dataset", metavar="NAME", help="registered with kgdet_d2; default: drawn photos")
    add("--photos", type=at_least(PARTS), default=200, metavar="N", help="for each figure; default: 200")
    add("--workers", type=at_least(0), nargs="+", default=[0, 2], metavar="N", help="default: 0 2")
    add("--sizes", type=at_least(1), nargs="+", default=[800, 512], help="shorter sides; default: 800 512")
    add("--training", metavar="YAML", help="what its training waits for, instead")
    add_opts(parser)


def register_drawn_photos(folder: Path) -> str:
    """Draw photos in DeepFashion2's native tree, and return the name of the dataset they make."""
    for part in ("image", "annos"):
        (folder / part).mkdir()
    for number in range(1, DRAWN + 1):
        photo = generate_photo(number - 1, size=DRAWN_SIDE)
        quality = [cv2.IMWRITE_JPEG_QUALITY, DRAWN_QUALITY]
        cv2.imwrite(str(folder / f"image/{number:06d}.jpg"), photo.image, quality)
        (folder / f"annos/{number:06d}.json").write_text(json.dumps(photo.annotation))
    annotations, _ = read_split(folder, strict=True)
    annotations.save(folder / "drawn.npz")
    register_fashion("drawn", DEEPFASHION2, folder / "image", folder / "drawn.npz")
    return "drawn"


def loader_config(opts: list[str], dataset: str, size: int) -> CfgNode:
    """Return the config that feeds KGDet photos of this size."""
    settings = ["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 1]
    settings += ["INPUT.MIN_SIZE_TRAIN", (size,), "INPUT.MAX_SIZE_TRAIN", size * 1333 // 800]
    return load_config(str(CONFIG), settings + opts)


def build_loader(cfg: CfgNode, workers: int) -> Iterable[list[dict]]:
    """Return the training loader with so many workers."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = workers
    return build_train_loader(cfg)


def photos_per_second(cfg: CfgNode, workers: int, photos: int) -> float:
    """Return the rate of a new loader."""
    batches = iter(build_loader(cfg, workers))
    rates = []
    for count in (WARM_UP, *[photos // PARTS] * PARTS):
        start = time.perf_counter()
        arrived = sum(len(batch) for batch in islice(batches, count))
        rates.append(arrived / (time.perf_counter() - start))
    return median(rates[1:])


def step_times(cfg: CfgNode, photos: int) -> list[dict[str, float]]:
    """Return milliseconds of each step of the mapper, and of all of it, photo by photo."""
    dataset = training_dataset(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    clock = Clock()
    timed_mapper = clock.span(OTHERS, FashionDatasetMapper(cfg, True))
    times = []
    with ExitStack() as stack:
        for step, functions in STEPS.items():
            for owner, name in functions:
                timed = clock.span(step, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
        for number in range(WARM_UP + photos):
            timed_mapper(dataset[(number - WARM_UP) % len(dataset)])
            times.append(dict.fromkeys(STEPS, 0.0) | clock.read())
    return times[WARM_UP:]


def summary(times: list[dict[str, float]]) -> dict[str, float]:
    """Return medians: of each step, of the whole, and of its parts' ratio for a photo."""
    names = [name for name in times[0] if name != WHOLE]
    medians = {name: median(row[name] for row in times) for name in (*names, WHOLE)}
    return medians | {RATIO: median(row[WHOLE] / (row[READ] + row[RESIZE]) - 1 for row in times)}


def measure(args: argparse.Namespace, report: Report) -> None:
    """Fill the report with a row for each size, or each number of a training's workers.

    Raises:
        ValueError: the dataset is not registered, or the config is wrong.
    """
    if args.dataset and args.dataset not in DatasetCatalog:
        raise ValueError(f"--dataset: {args.dataset!r} is not registered")
    if args.training:
        measure_training(args, report)
        return
    with tempfile.TemporaryDirectory() as folder:
        dataset = args.dataset or register_drawn_photos(Path(folder))
        for size in args.sizes:
            cfg = loader_config(args.opts, dataset, size)
            rates = []
            for workers in args.workers:
                rate = photos_per_second(cfg, workers, args.photos)
                print(f"{cfg.INPUT.MAX_SIZE_TRAIN} x {size}, {workers} workers: {rate:.1f} photos a second")
                rates.append({"workers": workers, "photos_per_second": rate})
            steps = summary(step_times(cfg, args.photos))
            report.rows.append({"dataset": dataset, "size": size, "rates": rates, "steps_ms": steps})
    print(f"\n{table(report.rows)}")
    for row in report.rows:
        steps = row["steps_ms"]
        dearest = max(steps.keys() - {READ, RESIZE, WHOLE, RATIO}, key=steps.__getitem__)
        share = steps[dearest] / (steps[READ] + steps[RESIZE])
        print(f"At {row['size']} the dearest step but these two, {dearest}, takes {share:.2f} of their time.")


def table(rows: list[dict]) -> str:
    """Return a line for each step that takes time, with a column for each size."""
    shown = []
    for step in rows[0]["steps_ms"]:
        if any(row["steps_ms"][step] for row in rows):
            shown.append({"ms a photo": step, **{f"at {row['size']}": row["steps_ms"][step] for row in rows}})
    return markdown(shown)


def measure_training(args: argparse.Namespace, report: Report) -> None:
    """Fill the report with milliseconds of waiting and computing for each number of workers."""
    cfg = load_config(args.training, args.opts)
    for workers in args.workers:
        times = iteration_times(cfg, workers, args.photos)
        row = {"workers": workers} | {name: median(row[name] for row in times) for name in times[0]}
        waiting, all_of_it = (sum(row[name] for row in times) for name in ("waits", WHOLE))
        report.rows.append(row | {"waiting_share": waiting / all_of_it})
    shown = [
        {name: row[name] for name in ("workers", "waits", "computes", "waiting_share")} for row in report.rows
    ]
    print(markdown(shown, waiting_share=".4f"))


def iteration_times(cfg: CfgNode, workers: int, photos: int) -> list[dict[str, float]]:
    """Return milliseconds that each iteration of a training waits for its batch, and computes."""
    model, batches, clock = build_model(cfg).train(), iter(build_loader(cfg, workers)), Clock()
    optimizer = build_optimizer(cfg, model)

    def step(batch: list[dict]) -> None:
        optimizer.zero_grad()
        loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device

    wait, compute = clock.span("waits", lambda: next(batches)), clock.span("computes", step)
    times = []
    with EventStorage():
        for _ in range(STEPS_OF_WARM_UP + max(photos // cfg.SOLVER.IMS_PER_BATCH, 1)):
            compute(wait())
            times.append(clock.read())
    return times[STEPS_OF_WARM_UP:]
