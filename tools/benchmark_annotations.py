#!/usr/bin/env python
"""Time and memory from an annotation file to the first training batch: compact file against usual JSON.

    python tools/benchmark_annotations.py
    python tools/benchmark_annotations.py --photos 32153 --garments 52490 --runs 3 --json annotations.json

A made-up split of DeepFashion2-train's size is written as the compact file and as the 294-slot COCO file, and
each is read by Detectron2's training loader: the first as a registered dataset, the second by Detectron2's
``load_coco_json``. A process of its own for each reading. No photo is read.

    load s      until the dataset is there
    first s     from there until the loader with its workers gives the first batch
    peak GB     largest resident memory of the main process until then
    worker GB   what a worker process has for itself after some batches, the mean

Half a gigabyte and more of the peak is the import of torch and Detectron2, given as "imports".
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json
from tabulate import tabulate

from kgdet_d2.data import AnnotationTable, register_fashion, training_dataset
from kgdet_d2.data.convert.coco_export import write_official_coco
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.utils.io import atomic_write

GIGA = 1e9
BATCH_SIZE, BATCHES = 16, 50
HEADERS = ["", "file GB", "load s", "first s", "peak GB", "worker GB"]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=191_961, help="default: %(default)s")
    parser.add_argument("--garments", type=int, default=312_186, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="of the loader; default: %(default)s")
    parser.add_argument(
        "--runs", type=int, default=3, help="of each; medians are shown; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every run's figures there, too")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def made_up_annotations(photos: int, garments: int) -> AnnotationTable:
    """Random columns with DeepFashion2's classes, attributes and about its numbers of polygon vertices."""
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


def compact(file: str):
    register_fashion("compact", DEEPFASHION2, "image", file)
    return training_dataset(["compact"], filter_empty=True)


def usual_json(file: str):
    DatasetCatalog.register("usual", lambda: load_coco_json(file, "image", "usual"))
    return get_detection_dataset_dicts("usual", filter_empty=True)


WAYS: dict[str, Callable] = {"compact": compact, "usual JSON": usual_json}


def measure(way: str, file: str, workers: int) -> dict[str, float]:
    """One reading, in this process."""
    imports, start = _peak_memory(), time.perf_counter()
    dataset = WAYS[way](file)
    loaded = time.perf_counter()
    loader = build_detection_train_loader(
        dataset, mapper=None, total_batch_size=BATCH_SIZE, aspect_ratio_grouping=False, num_workers=workers
    )
    batches = iter(loader)
    next(batches)
    first = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    own = [_own_memory(worker.pid) for worker in batches._workers] if workers else [0]
    return {
        "load s": loaded - start,
        "first s": first - loaded,
        "imports GB": imports,
        "peak GB": _peak_memory(),
        "worker GB": statistics.mean(own),
    }


def _peak_memory() -> float:
    """Of this process until now, in GB. (What getrusage gives begins with the memory of the parent.)"""
    return _memory("/proc/self/status", "VmHWM")


def _own_memory(process: int) -> float:
    """What no other process shares, in GB."""
    return _memory(f"/proc/{process}/smaps_rollup", "Private")


def _memory(file: str, kind: str) -> float:
    """The sum of the file's lines that begin with ``kind``, which are in kB, in GB."""
    lines = Path(file).read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024 / GIGA


def run(way: str, file: Path, workers: int) -> dict[str, float]:
    """One reading, in a new process."""
    command = [sys.executable, __file__, "--workers", str(workers), "--measure", way, str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return {"file GB": file.stat().st_size / GIGA, **json.loads(done.stdout.splitlines()[-1])}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Medians, and the last way's over the first's."""
    rows = {way: [_median(runs, name) for name in HEADERS[1:]] for way, runs in results.items()}
    least, most = rows.values()
    lines = [[way, *(f"{value:.2f}" for value in row)] for way, row in rows.items()]
    lines.append(["ratio", *(f"{b / a:.1f}" if a else "-" for a, b in zip(least, most, strict=True))])
    return tabulate(lines, HEADERS, tablefmt="pipe", disable_numparse=True)


def _median(runs: Iterable[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.measure:
        print(json.dumps(measure(*args.measure, args.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {"compact": Path(folder) / "train.npz", "usual JSON": Path(folder) / "train.json"}
        annotations = made_up_annotations(args.photos, args.garments)
        annotations.save(files["compact"])
        with atomic_write(files["usual JSON"]) as stream:
            write_official_coco(stream, annotations, visible_only=False, description="writing the usual JSON")
        del annotations
        results = {way: [] for way in files}
        for number in range(args.runs):
            for way, file in files.items():
                print(f"run {number + 1} of {args.runs}: {way}", file=sys.stderr)
                results[way].append(run(way, file, args.workers))
    print(f"{args.photos:,} photos, {args.garments:,} garments, {args.workers} workers\n")
    print(table(results))
    print(f"\nimports: {_median(results['compact'], 'imports GB'):.2f} GB of each peak")
    if args.json:
        with atomic_write(args.json) as stream:
            stream.write(json.dumps({"arguments": vars(args) | {"json": None}, "runs": results}).encode())


if __name__ == "__main__":
    main()
