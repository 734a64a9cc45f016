#!/usr/bin/env python
"""Throughput of the training loader, and where the time of a photo goes.

    python tools/benchmark_loader.py
    python tools/benchmark_loader.py --dataset deepfashion2_train --workers 0 2 8 --json loader.json
    python tools/benchmark_loader.py --sizes 800 --opts INPUT.SCALE_JITTER "(0.1, 2.0)"
    python tools/benchmark_loader.py --training configs/sample/kgdet_tiny.yaml --opts MODEL.DEVICE cpu

Without --dataset, drawn photos of DeepFashion2's usual size (the median of some: 640 x 748, 0.13 bytes a
pixel) are made for it. A size is INPUT.MIN_SIZE_TRAIN; MAX_SIZE_TRAIN is 1333 at 800 and in proportion at
others. Each rate is measured in a loader of its own after a warm-up, in five parts, of which the median
counts. The steps are timed in the mapper itself, without workers; medians over the photos.

--training takes a config as it is, trains it for --photos photos and tells how long each iteration waits for
its batch, and how long it then computes; medians.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import cv2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tabulate import SEPARATING_LINE, tabulate

from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDatasetMapper, build_train_loader, mapper, register_fashion, training_dataset
from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.engine.optimizer import build_optimizer
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic import generate_photo
from kgdet_d2.utils.io import write_json

CONFIG = Path(__file__).parents[1] / "configs" / "Base-KGDet.yaml"
DRAWN, DRAWN_SIDE, DRAWN_QUALITY = 32, 748, 88  # photos, longer side in pixels, of JPEG
WARM_UP, STEPS_OF_WARM_UP, PARTS = 20, 3, 5
READ, RESIZE, OTHERS = "read and decode", "resize", "the rest"
# What is timed: the step, and the functions that do it. None calls another.
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


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", metavar="NAME", help="registered with kgdet_d2; default: drawn photos")
    parser.add_argument("--photos", type=at_least(PARTS), default=200, help="for each figure; default: 200")
    parser.add_argument("--workers", type=at_least(0), nargs="+", default=[0, 2], help="default: 0 2")
    parser.add_argument(
        "--sizes", type=at_least(1), nargs="+", default=[800, 512], help="shorter sides; default: 800 512"
    )
    parser.add_argument("--training", metavar="YAML", help="what its training waits for, instead")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="changes to the config"
    )
    return parser.parse_args(arguments)


def register_drawn_photos(folder: Path) -> str:
    """Draw photos in DeepFashion2's native tree; the name of the dataset they make."""
    for part in ("image", "annos"):
        (folder / part).mkdir()
    for index in range(DRAWN):
        photo = generate_photo(index, size=DRAWN_SIDE)
        name = f"{index + 1:06d}"
        quality = [cv2.IMWRITE_JPEG_QUALITY, DRAWN_QUALITY]
        cv2.imwrite(str(folder / "image" / f"{name}.jpg"), photo.image, quality)
        (folder / "annos" / f"{name}.json").write_text(json.dumps(photo.annotation))
    annotations, _ = read_split(folder, strict=True)
    annotations.save(folder / "drawn.npz")
    register_fashion("drawn", DEEPFASHION2, folder / "image", folder / "drawn.npz")
    return "drawn"


def config(args: argparse.Namespace, dataset: str, size: int) -> CfgNode:
    opts = ["DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (), "SOLVER.IMS_PER_BATCH", 1]
    opts += ["INPUT.MIN_SIZE_TRAIN", (size,), "INPUT.MAX_SIZE_TRAIN", size * 1333 // 800]
    return load_config(str(CONFIG), opts + args.opts)


def build_loader(cfg: CfgNode, workers: int) -> Iterable[list[dict]]:
    """That of training."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = workers
    return build_train_loader(cfg)


def photos_per_second(cfg: CfgNode, workers: int, photos: int) -> float:
    """Through a new loader."""
    batches = iter(build_loader(cfg, workers))
    rates = []
    for count in (WARM_UP, *[photos // PARTS] * PARTS):
        start = time.perf_counter()
        seen = sum(len(batch) for batch in islice(batches, count))
        rates.append(seen / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def step_times(cfg: CfgNode, photos: int) -> dict[str, list[float]]:
    """Seconds of each step of the mapper, photo by photo."""
    dataset = training_dataset(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    map_photo = FashionDatasetMapper(cfg, True)
    times, clock = defaultdict(list), Counter()
    with ExitStack() as stack:
        for step, functions in STEPS.items():
            for owner, name in functions:
                timed = _timed(getattr(owner, name), clock, step)
                stack.enter_context(patch.object(owner, name, timed))
        for number in range(-WARM_UP, photos):
            clock.clear()
            start = time.perf_counter()
            map_photo(dataset[number % len(dataset)])
            clock[OTHERS] = time.perf_counter() - start - clock.total()
            if number >= 0:
                for step in (*STEPS, OTHERS):
                    times[step].append(clock[step])
    return times


def _timed(function: Callable, clock: Counter, step: str) -> Callable:
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            clock[step] += time.perf_counter() - start

    return wrapper


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians in milliseconds: of each step, of the whole, and of its parts' ratio for a photo."""
    steps = {step: 1e3 * statistics.median(seconds) for step, seconds in times.items()}
    whole = [sum(seconds) for seconds in zip(*times.values(), strict=True)]
    least = [a + b for a, b in zip(times[READ], times[RESIZE], strict=True)]
    ratio = statistics.median((a - b) / b for a, b in zip(whole, least, strict=True))
    return {**steps, "all": 1e3 * statistics.median(whole), "others / (read + resize)": ratio}


def table(profiles: dict[int, dict[str, float]]) -> str:
    """A row for each step that takes time, a column of milliseconds for each size."""
    names = next(iter(profiles.values()))
    rows = [[name, *(f"{profile[name]:.2f}" for profile in profiles.values())] for name in names]
    rows = [row for row in rows[:-2] if any(float(cell) for cell in row[1:])] + [SEPARATING_LINE] + rows[-2:]
    headers = ["ms a photo", *(f"at {size}" for size in profiles)]
    return tabulate(rows, headers, colalign=["left", *["right"] * len(profiles)], disable_numparse=True)


def measure(args: argparse.Namespace, dataset: str) -> dict:
    """Rates and steps at every size, printed as they come."""
    rates, profiles = [], {}
    for size in args.sizes:
        cfg = config(args, dataset, size)
        for workers in args.workers:
            rate = photos_per_second(cfg, workers, args.photos)
            print(f"{cfg.INPUT.MAX_SIZE_TRAIN} x {size}, {workers} workers: {rate:.1f} photos a second")
            rates.append({"size": size, "workers": workers, "photos_per_second": rate})
        profiles[size] = summary(step_times(cfg, args.photos))
    print(f"\n{table(profiles)}")
    for size, profile in profiles.items():
        dearest = max(STEPS.keys() - {READ, RESIZE} | {OTHERS}, key=profile.__getitem__)
        share = profile[dearest] / (profile[READ] + profile[RESIZE])
        print(f"At {size} the dearest step but these two, {dearest}, takes {share:.2f} of their time.")
    return {"dataset": dataset, "cpus": os.cpu_count(), "rates": rates, "steps_ms": profiles}


def measure_training(args: argparse.Namespace) -> dict:
    """Milliseconds of waiting and computing with each number of workers, as a table, too."""
    cfg = load_config(args.training, args.opts)
    waits = []
    for workers in args.workers:
        waiting, computing = iteration_times(cfg, workers, args.photos)
        share = sum(waiting) / (sum(waiting) + sum(computing))
        median = {
            name: 1e3 * statistics.median(seconds)
            for name, seconds in (("waits", waiting), ("computes", computing))
        }
        waits.append({"workers": workers, **median, "waiting_share": share})
    rows = [
        [row["workers"], f"{row['waits']:.2f}", f"{row['computes']:.1f}", f"{row['waiting_share']:.4f}"]
        for row in waits
    ]
    print(tabulate(rows, ["workers", "waits, ms", "computes, ms", "share of waiting"], disable_numparse=True))
    return {"training": args.training, "cpus": os.cpu_count(), "iterations": waits}


def iteration_times(cfg: CfgNode, workers: int, photos: int) -> tuple[list[float], list[float]]:
    """Seconds that each iteration of a training waits for its batch, and computes."""
    model, batches = build_model(cfg).train(), iter(build_loader(cfg, workers))
    optimizer = build_optimizer(cfg, model)
    times = []
    with EventStorage():
        for _ in range(STEPS_OF_WARM_UP + max(photos // cfg.SOLVER.IMS_PER_BATCH, 1)):
            start = time.perf_counter()
            batch = next(batches)
            arrived = time.perf_counter()
            optimizer.zero_grad()
            loss = sum(model(batch).values())
            loss.backward()
            optimizer.step()
            loss.item()  # waits for the device
            times.append((arrived - start, time.perf_counter() - arrived))
    return tuple(map(list, zip(*times[STEPS_OF_WARM_UP:], strict=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        if args.dataset and args.dataset not in DatasetCatalog:
            raise ValueError(f"--dataset: {args.dataset!r} is not registered")
        if args.training:
            report = measure_training(args)
        else:
            with tempfile.TemporaryDirectory() as folder:
                report = measure(args, args.dataset or register_drawn_photos(Path(folder)))
        if args.json:
            write_json(args.json, report | {"photos": args.photos, "opts": args.opts})
    except (OSError, ValueError) as error:
        print(f"benchmark_loader.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
