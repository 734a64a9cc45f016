r"""Time and memory of the evaluation on random predictions, beside Detectron2's COCOEvaluator.

Images, garments and detections are random but plausible, the same for every evaluator. Each measurement
runs in a process of its own. Example, the sizes of DeepFashion2's validation split and below:

    OMP_NUM_THREADS=1 python -m benchmarks evaluation --images 1000 4000 32153 --json evaluation.json

Seconds are those in process() and in evaluate(), and the processor's in both together, which a busy machine
changes less; to make the predictions is not counted. The peak is the resident memory of the whole process,
libraries and data set included. COCOEvaluator computes boxes and landmarks; FashionEvaluator these and
landmarks by visible ones only. Neither writes files.
"""

import argparse
import tempfile
import time
from functools import partial

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from tqdm import tqdm

from benchmarks._process import new_process
from benchmarks._report import Report, markdown
from benchmarks._timing import MEGABYTE, process_memory
from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.schema import DEEPFASHION2 as SCHEMA

WIDTH, HEIGHT = 468, 702
# Garments of each class in DeepFashion2's training split.
GARMENTS = [71645, 36064, 543, 13457, 16095, 1985, 36616, 55387, 30835, 17211, 7907, 17949, 6492]
FREQUENCY = np.array(GARMENTS) / sum(GARMENTS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add = parser.add_argument
    add("--images", type=int, nargs="+", default=[1000, 4000, 32153], metavar="N")
    add("--detections", type=int, default=100, metavar="D", help="an image; default: 100")
    add("--pycocotools-up-to", type=int, default=4000, metavar="N", help="use_fast_impl=False; default: 4000")
    add("--coco-evaluator-up-to", type=int, default=1000, metavar="N", help="4 GB per 1000; default: 1000")


def measure(args: argparse.Namespace, report: Report) -> None:
    """Fill the report with a row for each number of images and evaluator."""
    largest = [max(args.images), args.pycocotools_up_to, args.coco_evaluator_up_to]
    for images in args.images:
        for name, limit in zip(EVALUATORS, largest, strict=True):
            if images <= limit:
                with new_process() as pool:
                    report.rows.append(pool.submit(evaluate, name, images, args.detections).result())
    print(markdown(report.rows))


def evaluate(name: str, images: int, detections: int) -> dict:
    """Return one row, measured in this process."""
    rng = np.random.default_rng(0)
    records = [random_record(rng, image_id) for image_id in range(1, images + 1)]
    with tempfile.TemporaryDirectory() as folder:
        evaluator = EVALUATORS[name](records, folder)
    evaluator.reset()
    processed = np.zeros(2)
    for record in tqdm(records, desc=f"{name}, {images} images", unit="image"):
        output = [{"instances": random_instances(rng, record, detections)}]
        start = clocks()
        evaluator.process([record], output)
        processed += clocks() - start
    start = clocks()
    results = evaluator.evaluate()
    evaluated = clocks() - start
    return {
        "evaluator": name,
        "images": images,
        "detections": images * detections,
        "process s": float(processed[0]),
        "evaluate s": float(evaluated[0]),
        "CPU s": float(processed[1] + evaluated[1]),
        "peak MB": process_memory("VmHWM") // MEGABYTE,
        "box AP": results["bbox"]["AP"],
        "landmark AP": results["keypoints"]["AP"],
    }


def clocks() -> np.ndarray:
    """Return seconds on the wall, and of this process on the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def fashion_evaluator(records: list[dict], folder: str, *, use_fast_impl: bool) -> DatasetEvaluator:
    """Return ours, of faster-coco-eval or of pycocotools."""
    name = f"{folder}_fashion"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(keypoint_schema=SCHEMA)
    return FashionEvaluator(name, use_fast_impl=use_fast_impl)


def coco_evaluator(records: list[dict], folder: str) -> DatasetEvaluator:
    """Return Detectron2's on all landmarks of all classes, from a COCO file."""
    name, path = f"{folder}_coco", f"{folder}/coco.json"
    global_records = [
        record | {"annotations": [on_all_slots(garment) for garment in record["annotations"]]}
        for record in records
    ]
    DatasetCatalog.register(name, lambda: global_records)
    MetadataCatalog.get(name).set(thing_classes=list(SCHEMA.class_names), json_file=path)
    convert_to_coco_json(name, path)
    return COCOEvaluator(name, tasks=("bbox", "keypoints"), kpt_oks_sigmas=list(SCHEMA.sigmas))


EVALUATORS = {
    "FashionEvaluator": partial(fashion_evaluator, use_fast_impl=True),
    "FashionEvaluator, pycocotools": partial(fashion_evaluator, use_fast_impl=False),
    "COCOEvaluator": coco_evaluator,
}


def on_all_slots(annotation: dict) -> dict:
    """Return the annotation with keypoints in the slots of all classes."""
    keypoints = np.reshape(annotation["keypoints"], (-1, 3))
    keypoints = SCHEMA.scatter(keypoints, annotation["category_id"])
    return {**annotation, "keypoints": keypoints.ravel().tolist()}


def random_record(rng: np.random.Generator, image_id: int) -> dict:
    """Return an image with 1.63 garments on average, as DeepFashion2 has; one in twenty has no landmarks."""
    return {
        "file_name": f"{image_id:06d}.jpg",
        "image_id": image_id,
        "width": WIDTH,
        "height": HEIGHT,
        "annotations": [random_annotation(rng) for _ in range(rng.choice([1, 2, 3], p=[0.45, 0.47, 0.08]))],
    }


def random_annotation(rng: np.random.Generator) -> dict:
    """Return a garment anywhere in the image."""
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
    """Return detections around the image's garments, a third of the right class, the better the surer."""
    garments = record["annotations"]
    boxes = np.array([garment["bbox"] for garment in garments])
    matched = rng.integers(0, len(garments), count)
    error = 0.1 + rng.exponential(0.3, count)  # relative to the box
    right = rng.random(count) < 0.33
    classes = np.array([garment["category_id"] for garment in garments])[matched]
    classes = np.where(right, classes, rng.choice(len(FREQUENCY), count, p=FREQUENCY))
    size = boxes[matched, 2:] - boxes[matched, :2]
    pred_boxes = boxes[matched] + rng.normal(0, 0.3, (count, 4)) * np.tile(error[:, None] * size, 2)
    pred_boxes = np.sort(pred_boxes.reshape(count, 2, 2), axis=1).reshape(count, 4)
    keypoints = rng.random((count, SCHEMA.num_keypoints, 2), np.float32)
    keypoints = keypoints * size[:, None] + boxes[matched, None, :2]
    for row in np.flatnonzero(right):
        truth = np.reshape(garments[matched[row]]["keypoints"], (-1, 3))[:, :2]
        noise = rng.normal(0, 0.1 * error[row], truth.shape) * size[row]
        keypoints[row, list(SCHEMA.slots[classes[row]])] = truth + noise
    scores = np.exp(-3 * error) * np.where(right, 1, 0.7) * rng.uniform(0.3, 1, count)
    scores = torch.tensor(scores, dtype=torch.float32)
    keypoints = torch.tensor(keypoints, dtype=torch.float32)
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(pred_boxes, dtype=torch.float32)),
        scores=scores,
        pred_classes=torch.tensor(classes),
        pred_keypoints=torch.cat([keypoints, scores[:, None, None].expand(*keypoints.shape[:2], 1)], dim=2),
    )
