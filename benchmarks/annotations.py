"""Time and memory from an annotation file to the first training batch: compact file against usual JSON.

    python -m benchmarks annotations
    python -m benchmarks annotations --photos 32153 --garments 52490 --runs 3 --json annotations.json

A random split of DeepFashion2-train's size is written as the compact file and as the 294-slot COCO file, and
each is read by Detectron2's training loader: the first as a registered dataset, the second by Detectron2's
``load_coco_json``. A process of its own for each reading. No photo is read.

    load s      until the dataset is there
    first s     from there until the loader with its workers gives the first batch
    peak GB     largest resident memory of the main process until then
    worker GB   what a worker process has for itself after some batches, the mean

Half a gigabyte and more of the peak is the import of torch and Detectron2, given as "imports".
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
from detectron2.data import DatasetCatalog, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json

from benchmarks._process import new_process
from benchmarks._report import Report, markdown
from benchmarks._timing import process_memory
from kgdet_d2.data import AnnotationTable, register_fashion, training_dataset
from kgdet_d2.data.convert.coco_export import write_official_coco
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.utils.io import atomic_write

GIGA = 1e9
BATCH_SIZE, BATCHES = 16, 50
FIGURES = ["file GB", "load s", "first s", "peak GB", "worker GB"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add = parser.add_argument
    add("--photos", type=int, default=191_961, metavar="N", help="default: %(default)s")
    add("--garments", type=int, default=312_186, metavar="N", help="default: %(default)s")
    add("--workers", type=int, default=2, metavar="N", help="of the loader; default: %(default)s")
    add("--runs", type=int, default=3, metavar="N", help="of each; medians are shown; default: %(default)s")


def random_annotations(photos: int, garments: int) -> AnnotationTable:
    """Return columns with DeepFashion2's classes, attributes and about its numbers of polygon vertices."""
    rng = np.random.default_rng(0)
    counts = np.array([DEEPFASHION2.num_class_keypoints(index) for index in range(DEEPFASHION2.num_classes)])
    category_id = rng.integers(0, len(counts), garments, dtype=np.int32)
    keypoint_offsets = _offsets(counts[category_id])
    polygon_offsets = _offsets(rng.integers(1, 4, garments))
    vertex_offsets = _offsets(rng.integers(3, 40, polygon_offsets[-1]))
    corner = rng.uniform(0, 300, (garments, 2))
    return AnnotationTable(
        schema=DEEPFASHION2,
        file_name=np.array([f"{number:06d}.jpg" for number in range(1, photos + 1)]),
        image_id=np.arange(1, photos + 1),
        width=np.full(photos, 468, np.int32),
        height=np.full(photos, 624, np.int32),
        garment_offsets=_offsets(np.bincount(rng.integers(0, photos, garments), minlength=photos)),
        category_id=category_id,
        box=np.hstack([corner, corner + rng.uniform(20, 150, (garments, 2))]).astype(np.float32).round(),
        keypoint_offsets=keypoint_offsets,
        polygon_offsets=polygon_offsets,
        keypoints=rng.integers(0, (468, 624, 3), (keypoint_offsets[-1], 3)).astype(np.float32),
        vertex_offsets=vertex_offsets,
        vertices=rng.uniform(0, 460, (vertex_offsets[-1], 2)).astype(np.float32).round(1),
        photo_attributes={
            "source": rng.choice(["user", "shop"], photos),
            "pair_id": rng.integers(1, 14_000, photos),
        },
        garment_attributes={
            "item": np.ones(garments, np.int32),
            "style": rng.integers(0, 5, garments),
            **{name: rng.integers(1, 4, garments) for name in ("scale", "occlusion", "zoom_in", "viewpoint")},
        },
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def load_compact(file: str) -> Sequence[dict]:
    """Return the dataset of a compact file."""
    register_fashion("compact", DEEPFASHION2, "image", file)
    return training_dataset(["compact"], filter_empty=True)


def load_json(file: str) -> Sequence[dict]:
    """Return the dataset of a COCO file, as Detectron2 loads it."""
    DatasetCatalog.register("usual", lambda: load_coco_json(file, "image", "usual"))
    return get_detection_dataset_dicts("usual", filter_empty=True)


READERS: dict[str, Callable[[str], Sequence[dict]]] = {"compact": load_compact, "usual JSON": load_json}


def read(reader: str, file: str, workers: int) -> dict[str, float]:
    """Return the figures of one reading, in this process."""
    imports, start = process_memory("VmHWM"), time.perf_counter()
    dataset = READERS[reader](file)
    loaded = time.perf_counter()
    loader = build_detection_train_loader(
        dataset, mapper=None, total_batch_size=BATCH_SIZE, aspect_ratio_grouping=False, num_workers=workers
    )
    batches = iter(loader)
    next(batches)
    first = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    unshared = [process_memory("Private", worker.pid) for worker in batches._workers] if workers else [0]
    return {
        "file GB": Path(file).stat().st_size / GIGA,
        "load s": loaded - start,
        "first s": first - loaded,
        "imports GB": imports / GIGA,
        "peak GB": process_memory("VmHWM") / GIGA,
        "worker GB": mean(unshared) / GIGA,
    }


def measure(args: argparse.Namespace, report: Report) -> None:
    """Fill the report with a row for each file, its medians and all its runs."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"compact": Path(folder) / "train.npz", "usual JSON": Path(folder) / "train.json"}
        annotations = random_annotations(args.photos, args.garments)
        annotations.save(files["compact"])
        with atomic_write(files["usual JSON"]) as stream:
            write_official_coco(stream, annotations, visible_only=False, description="writing the usual JSON")
        del annotations
        runs: dict[str, list[dict]] = {reader: [] for reader in files}
        for number in range(args.runs):
            for reader, file in files.items():
                print(f"run {number + 1} of {args.runs}: {reader}", file=sys.stderr)
                with new_process() as pool:
                    runs[reader].append(pool.submit(read, reader, str(file), args.workers).result())
    report.rows += [medians(reader, figures) for reader, figures in runs.items()]
    for figure in FIGURES:
        report.add_ratios(figure, figure, [], reader="compact")
    print(
        f"{args.photos:,} photos, {args.garments:,} garments, {args.workers} workers\n\n{table(report.rows)}"
    )
    print(f"\nimports: {report.rows[0]['imports GB']:.2f} GB of each peak")


def medians(reader: str, runs: list[dict[str, float]]) -> dict:
    """Return the row of one file."""
    figures = {name: median(run[name] for run in runs) for name in runs[0]}
    return {"reader": reader, **figures, "ratios": {}, "runs": runs}


def table(rows: list[dict]) -> str:
    """Return a line for each file, and one of the last's ratios to the first."""
    shown = [{"": row["reader"], **{figure: row[figure] for figure in FIGURES}} for row in rows]
    ratios = {figure: f"{ratio:.1f}" for figure, ratio in rows[-1]["ratios"].items()}
    return markdown([*shown, {"": "ratio", **ratios}])
