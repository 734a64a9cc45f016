"""A COCO keypoint file of two classes of one's own, with its photos, and the command that prepares it."""

import copy
import json
from pathlib import Path

import numpy as np
from PIL import Image

from kgdet_d2 import cli
from kgdet_d2.schema import load_schema
from kgdet_d2.structures.annotations import AnnotationTable
from tests.helpers.garments_lost import read_report

SIZE = (64, 48)
SHIRT, SKIRT = 0, 7_000_000_000  # category ids: zero, a gap, more than 32 bits
LANDMARKS = {
    SHIRT: ["left_collar", "right_collar", "left_hem", "right_hem"],
    SKIRT: ["waist_left", "waist_right", "hem"],
}


def keypoints(category_id: int, left: float = 10) -> list[float]:
    """Landmarks of a garment whose first one is at (left, 12), occluded; the others are visible."""
    points = [
        [left + 6 * place, 12 + 4 * place, 1 + (place > 0)] for place in range(len(LANDMARKS[category_id]))
    ]
    return [number for point in points for number in point]


def annotation(number: int, image_id: int, category_id: int, **replaced) -> dict:
    """An annotation with a polygon."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [5.5, 6, 40, 30.25],
        "area": 1_210,
        "iscrowd": 0,
        "num_keypoints": len(LANDMARKS[category_id]),
        "keypoints": keypoints(category_id),
        "segmentation": [[5.5, 6, 45.5, 6, 45.5, 36.25]],
        **replaced,
    }


def content() -> dict:
    """Photo 3 has two shirts and a skirt, photo 40 one of each, photo 500 nothing; one category is above."""
    garments = [(3, SHIRT), (3, SKIRT), (3, SHIRT), (40, SKIRT), (40, SHIRT)]
    names = {3: "a.jpg", 40: "sub/b c.jpg", 500: "d.jpg"}
    return {
        "images": [
            {"id": key, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for key, name in names.items()
        ],
        "annotations": [annotation(number, *where) for number, where in enumerate(garments, 11)],
        "categories": [
            {"id": 5, "name": "clothes", "supercategory": "none"},
            {"id": SHIRT, "name": "T-Shirt", "keypoints": LANDMARKS[SHIRT], "skeleton": [[1, 2], [2, 4]]},
            {"id": SKIRT, "name": "Skirt", "keypoints": LANDMARKS[SKIRT], "skeleton": []},
        ],
    }


class OwnCoco:
    """Photos and annotations in a folder.

    Attributes:
        root: the folder; ``photos`` and the JSON files are in it, and what the command writes is in ``mine``.
        content: what :meth:`write` writes; to be edited.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.content = root, copy.deepcopy(content())
        for image in self.content["images"]:
            self.add_photo(image["file_name"])

    @property
    def images(self) -> list[dict]:
        return self.content["images"]

    @property
    def annotations(self) -> list[dict]:
        return self.content["annotations"]

    def add_photo(self, name: str, size=SIZE, **how) -> Path:
        path = self.root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 30, 90)).save(path, **how)
        return path

    def write(self, name: str = "train.json", content: dict | None = None) -> Path:
        path = self.root / name
        path.write_text(json.dumps(self.content if content is None else content), encoding="utf-8")
        return path

    def run(self, *arguments: str, name: str = "mine") -> int:
        """Run the command on train.json as it is."""
        files = ["--json", str(self.root / "train.json"), "--images", str(self.root / "photos")]
        where = ["--name", name, "--output", str(self.root / "mine"), "--workers", "1"]
        return cli.main(["prepare", "coco", *files, *where, *map(str, arguments)])

    def prepare(self, *arguments: str) -> AnnotationTable:
        """Write train.json, run the command, and read what it has written."""
        self.write()
        assert self.run(*arguments) == 0
        return self.load("train")

    def load(self, split: str) -> AnnotationTable:
        return AnnotationTable.load(
            self.root / f"mine/annotations/{split}.npz", load_schema(self.root / "mine/schema.yaml")
        )

    def report(self, split: str = "train") -> list[dict[str, str]]:
        return read_report(self.root / f"mine/annotations/{split}_report.tsv")


def assert_same(found: AnnotationTable, expected: AnnotationTable) -> None:
    """Assert that all columns are the same, attributes among them."""
    for name, column in vars(expected).items():
        if isinstance(column, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)
    for kind in ("photo_attributes", "garment_attributes"):
        attributes = getattr(expected, kind)
        assert getattr(found, kind).keys() == attributes.keys()
        for name, column in attributes.items():
            np.testing.assert_array_equal(getattr(found, kind)[name], column, err_msg=name)
