#!/usr/bin/env python
r"""Time and memory of the evaluation on random predictions, beside Detectron2's COCOEvaluator.

Photos, garments and detections are random but plausible, the same for every evaluator. Each measurement
runs in a process of its own. Example, the sizes of DeepFashion2's validation split and below:

    OMP_NUM_THREADS=1 python tools/benchmark_evaluation.py --images 1000 4000 32153 --json benchmark.json

Seconds are those in process() and in evaluate(), and the processor's in both together, which a busy machine
changes less; to make the predictions is not counted. The peak is the resident memory of the whole process,
libraries and data set included. COCOEvaluator computes boxes and landmarks; FashionEvaluator these and
landmarks by visible ones only. Neither writes files.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from tabulate import tabulate
from tqdm import tqdm

from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2 as SCHEMA
from kgdet_d2.utils.io import write_json

WIDTH, HEIGHT = 468, 702
# Garments of each class in DeepFashion2's training split.
GARMENTS = [71645, 36064, 543, 13457, 16095, 1985, 36616, 55387, 30835, 17211, 7907, 17949, 6492]
FREQUENCY = np.array(GARMENTS) / sum(GARMENTS)
MEGABYTE = 1024  # in ru_maxrss' kilobytes


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 32153], metavar="N")
    parser.add_argument("--detections", type=int, default=100, metavar="D", help="a photo; default 100")
    parser.add_argument(
        "--pycocotools-up-to", type=int, default=4000, metavar="N", help="use_fast_impl=False; default 4000"
    )
    parser.add_argument(
        "--coco-evaluator-up-to", type=int, default=1000, metavar="N", help="4 GB per 1000; default 1000"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    largest = {
        "FashionEvaluator": max(args.images),
        "FashionEvaluator, pycocotools": args.pycocotools_up_to,
        "COCOEvaluator": args.coco_evaluator_up_to,
    }
    rows = [
        in_own_process(measure, name, images, args.detections)
        for images in args.images
        for name in EVALUATORS
        if images <= largest[name]
    ]
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f"))
    if args.json:
        write_json(args.json, rows)


def in_own_process(function: Callable, *arguments) -> dict:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def measure(name: str, images: int, detections: int) -> dict:
    """One row of the table."""
    rng = np.random.default_rng(0)
    records = [random_record(rng, image_id) for image_id in range(1, images + 1)]
    with tempfile.TemporaryDirectory() as folder:
        evaluator = EVALUATORS[name](records, folder)
    evaluator.reset()
    processed = np.zeros(2)
    for record in tqdm(records, desc=f"{name}, {images} photos", unit="photo"):
        output = [{"instances": random_instances(rng, record, detections)}]
        start = clocks()
        evaluator.process([record], output)
        processed += clocks() - start
    start = clocks()
    results = evaluator.evaluate()
    evaluated = clocks() - start
    return {
        "evaluator": name,
        "photos": images,
        "detections": images * detections,
        "process s": processed[0],
        "evaluate s": evaluated[0],
        "CPU s": processed[1] + evaluated[1],
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // MEGABYTE,
        "box AP": results["bbox"]["AP"],
        "landmark AP": results["keypoints"]["AP"],
    }


def clocks() -> np.ndarray:
    """Seconds on the wall, and of this process on the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def fashion_evaluator(records: list[dict], folder: str, *, use_fast_impl: bool = True) -> DatasetEvaluator:
    name = f"{folder}_fashion"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(keypoint_schema=SCHEMA)
    return FashionEvaluator(name, use_fast_impl=use_fast_impl)


def pycocotools_evaluator(records: list[dict], folder: str) -> DatasetEvaluator:
    return fashion_evaluator(records, folder, use_fast_impl=False)


def coco_evaluator(records: list[dict], folder: str) -> DatasetEvaluator:
    """On all landmarks of all classes, from a COCO file."""
    name = f"{folder}_coco"
    DatasetCatalog.register(
        name,
        lambda: [
            {**record, "annotations": [on_all_slots(annotation) for annotation in record["annotations"]]}
            for record in records
        ],
    )
    path = f"{folder}/coco.json"
    MetadataCatalog.get(name).set(thing_classes=list(SCHEMA.class_names), json_file=path)
    convert_to_coco_json(name, path)
    return COCOEvaluator(name, tasks=("bbox", "keypoints"), kpt_oks_sigmas=list(SCHEMA.sigmas))


EVALUATORS = {
    "FashionEvaluator": fashion_evaluator,
    "FashionEvaluator, pycocotools": pycocotools_evaluator,
    "COCOEvaluator": coco_evaluator,
}


def on_all_slots(annotation: dict) -> dict:
    keypoints = np.reshape(annotation["keypoints"], (-1, 3))
    keypoints = SCHEMA.scatter(keypoints, annotation["category_id"])
    return {**annotation, "keypoints": keypoints.ravel().tolist()}


def random_record(rng: np.random.Generator, image_id: int) -> dict:
    """A photo with 1.63 garments on average, as many as in DeepFashion2; one in twenty has no landmarks."""
    return {
        "file_name": f"{image_id:06d}.jpg",
        "image_id": image_id,
        "width": WIDTH,
        "height": HEIGHT,
        "annotations": [random_annotation(rng) for _ in range(rng.choice([1, 2, 3], p=[0.45, 0.47, 0.08]))],
    }


def random_annotation(rng: np.random.Generator) -> dict:
    class_index = int(rng.choice(len(FREQUENCY), p=FREQUENCY))
    size = rng.uniform(0.1, 0.9, 2) * (WIDTH, HEIGHT)
    corner = rng.random(2) * ((WIDTH, HEIGHT) - size)
    count = SCHEMA.num_class_keypoints(class_index)
    visibility = rng.choice([0, 1, 2], count, p=[0.1, 0.2, 0.7]) * (rng.random() > 0.05)
    keypoints = np.c_[corner + size * rng.random((count, 2)), visibility] * (visibility > 0)[:, None]
    return {
        "bbox": [*corner.tolist(), *(corner + size).tolist()],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": class_index,
        "keypoints": keypoints.ravel().tolist(),
        "iscrowd": 0,
    }


def random_instances(rng: np.random.Generator, record: dict, count: int) -> Instances:
    """Detections around the photo's garments, a third of them of the right class, the better the surer."""
    garments = record["annotations"]
    boxes = np.array([garment["bbox"] for garment in garments])
    owner = rng.integers(0, len(garments), count)
    error = 0.1 + rng.exponential(0.3, count)  # relative to the box
    right = rng.random(count) < 0.33
    classes = np.array([garment["category_id"] for garment in garments])[owner]
    classes = np.where(right, classes, rng.choice(len(FREQUENCY), count, p=FREQUENCY))
    size = boxes[owner, 2:] - boxes[owner, :2]
    found = boxes[owner] + rng.normal(0, 0.3, (count, 4)) * np.tile(error[:, None] * size, 2)
    keypoints = rng.random((count, SCHEMA.num_keypoints, 2), np.float32)
    keypoints = keypoints * size[:, None] + boxes[owner, None, :2]
    for row in np.flatnonzero(right):
        own = np.reshape(garments[owner[row]]["keypoints"], (-1, 3))[:, :2]
        noise = rng.normal(0, 0.1 * error[row], own.shape) * size[row]
        keypoints[row, list(SCHEMA.slots[classes[row]])] = own + noise
    scores = np.exp(-3 * error) * np.where(right, 1, 0.7) * rng.uniform(0.3, 1, count)
    scores = torch.tensor(scores, dtype=torch.float32)
    keypoints = torch.tensor(keypoints, dtype=torch.float32)
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(found, dtype=torch.float32)),
        scores=scores,
        pred_classes=torch.tensor(classes),
        pred_keypoints=torch.cat([keypoints, scores[:, None, None].expand(*keypoints.shape[:2], 1)], dim=2),
    )


if __name__ == "__main__":
    main()
