#!/usr/bin/env python
"""Turn the synthetic sample, or any tree of DeepFashion2's form, into one of FLD's form.

    python datasets/make_synthetic.py
    python datasets/make_synthetic_fld.py --root path/to/fld
    python datasets/prepare_fld.py --root path/to/fld

FLD annotates one garment a photo; here it is the one with the largest box. Photos of the source's split
``train`` are FLD's ``train``; those of ``validation`` are by turns its ``val`` and ``test``.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.data.convert.fld import BOXES, LANDMARKS, PARTITION
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.utils.command import exit_status
from kgdet_d2.utils.io import atomic_write

_SPLITS = {"train": ("train",), "validation": ("val", "test")}
# Names of FLD's landmarks in DeepFashion2; the first that the class has is taken.
_SOURCES = {
    "collar": ("neck",),
    "sleeve": ("cuff_outer", "shoulder"),
    "waistline": ("waist", "side_2"),
    "hem": ("hem", "hem_outer"),
}
_LOWER = ("shorts", "trousers", "skirt")
_NORMAL, _ZOOMED = 1, {2: 4, 3: 5}  # DeepFashion2's zoom_in -> variation_type


def fld_class(category_id: int) -> int:
    """Return FLD's class index (0-based) of one of DeepFashion2's."""
    name = DEEPFASHION2.class_names[category_id]
    if name in _LOWER:
        return FLD.class_names.index("lower")
    return FLD.class_names.index("full" if "dress" in name else "upper")


def fld_landmarks(keypoints: np.ndarray, category_id: int) -> np.ndarray:
    """Convert a garment's landmarks.

    Args:
        keypoints: (K_c, 3) x, y, v as DeepFashion2 has them: v 2 visible, 1 covered, 0 without label.
        category_id: DeepFashion2's class index, 0-based.

    Returns:
        int (K_c', 3): FLD's visibility (0 visible, 1 covered, 2 outside), x, y.
    """
    names = DEEPFASHION2.keypoint_names[category_id]
    rows = []
    for landmark in FLD.keypoint_names[fld_class(category_id)]:
        part, side = landmark.split("_")
        candidates = [f"{source}_{side}" for source in _SOURCES[part]]
        source_name = next(name for name in candidates if name in names)
        rows.append(keypoints[names.index(source_name)])
    x, y, v = np.round(rows).astype(int).T
    return np.stack([2 - v, x, y], axis=1)


def photos_of(source: Path) -> Iterator[tuple[dict, str]]:
    """Yield the source's photos that show a garment, as dataset dicts, each with FLD's split.

    Raises:
        ValueError: a record of the source cannot be read.
    """
    for split, parts in _SPLITS.items():
        annotations, problems = read_split(source / split, segmentation=False)
        if problems:
            raise ValueError(str(problems[0]))
        dataset = FashionDataset(annotations, source / split / "image")
        photos = [photo for photo in dataset if photo["annotations"]]
        yield from zip(photos, cycle(parts))


def area(annotation: dict) -> float:
    """Return the box's area in square pixels."""
    x1, y1, x2, y2 = annotation["bbox"]
    return (x2 - x1) * (y2 - y1)


def write_list(path: Path, columns: str, rows: list[tuple]) -> None:
    """Write one of FLD's lists: the number of rows, the columns' names, the rows."""
    lines = [len(rows), columns, *(" ".join(map(str, row)) for row in rows)]
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def convert(source: Path, root: Path) -> int:
    """Write the tree and return the number of its photos.

    Args:
        source: a tree of DeepFashion2's form, ``train`` and ``validation``.
        root: of FLD's form; new or empty.
    """
    photos = list(photos_of(source))
    (root / "img").mkdir(parents=True)
    boxes, keypoints, partition = [], [], []
    for number, (photo, split) in enumerate(photos, 1):
        name = f"img/img_{number:08d}.jpg"
        shutil.copyfile(photo["file_name"], root / name)
        garment = max(photo["annotations"], key=area)
        category_id = garment["category_id"]
        points = fld_landmarks(garment["keypoints"].reshape(-1, 3), category_id)
        variation = _ZOOMED.get(garment["zoom_in"], _NORMAL)
        boxes.append((name, *map(round, garment["bbox"])))
        keypoints.append((name, fld_class(category_id) + 1, variation, *points.flat))
        partition.append((name, split))
    columns = ["image_name", "clothes_type", "variation_type"]
    for n in range(1, FLD.num_keypoints + 1):
        columns += [f"landmark_visibility_{n}", f"landmark_location_x_{n}", f"landmark_location_y_{n}"]
    write_list(root / BOXES, "image_name x_1 y_1 x_2 y_2", boxes)
    write_list(root / LANDMARKS, " ".join(columns), keypoints)
    write_list(root / PARTITION, "image_name evaluation_status", partition)
    return len(partition)


def main(argv: list[str] | None = None) -> int:
    """Make the tree; return 0, or 1 after an error, which is printed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    source = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "synthfashion"
    parser.add_argument("--source", type=Path, default=source, help="default: %(default)s")
    parser.add_argument(
        "--root", type=Path, required=True, help="where the tree goes; not there yet, or empty"
    )
    arguments = parser.parse_args(argv)

    def make() -> None:
        if arguments.root.exists() and any(arguments.root.iterdir()):
            raise ValueError(f"{arguments.root}: expected a new or empty folder")
        print(f"{arguments.root}: {convert(arguments.source, arguments.root)} photos")

    return exit_status(make)


if __name__ == "__main__":
    sys.exit(main())
