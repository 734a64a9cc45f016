#!/usr/bin/env python
"""Draw a small data set such as one has of one's own: two classes of garments, as COCO keypoints.

    <root>/photos/{train,val}/photo 001.jpg
    <root>/new/photo 1.jpg                   photos without annotations, to predict
    <root>/{train,val}.json                  a category for each class, with landmarks of its own

docs/OWN_DATA.md goes on from here. The photos depend on the seed and the counts alone.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np

from kgdet_d2.figure_page import write_jpeg
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic import generate_photo
from kgdet_d2.utils.command import at_least, exit_status
from kgdet_d2.utils.io import write_json

# Own name -> the drawn class's; own landmarks -> the drawn class's. Ids need not be consecutive.
CLASSES = {
    "T-shirt": "short sleeve top",
    "trousers": "trousers",
}
IDS = {"T-shirt": 3, "trousers": 7}
LANDMARKS = {
    "T-shirt": {
        "Left collar": "neck_left",
        "Right collar": "neck_right",
        "Left sleeve": "cuff_outer_left",
        "Right sleeve": "cuff_outer_right",
        "Left hem": "hem_left",
        "Right hem": "hem_right",
    },
    "trousers": {
        "waist left": "waist_left",
        "waist right": "waist_right",
        "crotch": "crotch",
        "knee outer left": "knee_outer_left",
        "knee outer right": "knee_outer_right",
        "hem outer left": "hem_outer_left",
        "hem outer right": "hem_outer_right",
    },
}
PATHS = {
    "T-shirt": [
        "Left hem",
        "Left sleeve",
        "Left collar",
        "Right collar",
        "Right sleeve",
        "Right hem",
        "Left hem",
    ],
    "trousers": [
        *("hem outer left", "knee outer left", "waist left", "waist right", "knee outer right"),
        *("hem outer right", "crotch", "hem outer left"),
    ],
}
NEW_PHOTOS = 4


def garment_of(item: dict) -> dict | None:
    """Return COCO's fields of a drawn garment; None of another class."""
    drawn = item["category_name"]
    name = next((name for name, other in CLASSES.items() if other == drawn), None)
    if name is None:
        return None
    names = DEEPFASHION2.keypoint_names[DEEPFASHION2.class_names.index(drawn)]
    keypoints = np.reshape(item["landmarks"], (-1, 3))
    own = keypoints[[names.index(other) for other in LANDMARKS[name].values()]]
    x1, y1, x2, y2 = item["bounding_box"]
    return {
        "category_id": IDS[name],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "num_keypoints": int((own[:, 2] > 0).sum()),
        "keypoints": own.ravel().tolist(),
    }


def photos(split: str, seed: int) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """Generate drawn photos with at least one garment of the two classes."""
    for index in count():
        photo = generate_photo(index, seed=seed, split=split)
        items = [value for key, value in photo.annotation.items() if key.startswith("item")]
        garments = [garment for garment in map(garment_of, items) if garment]
        if garments:
            yield photo.image, garments


def categories() -> list[dict]:
    """Return COCO's categories; a skeleton counts landmarks from 1."""
    made = []
    for name, landmarks in LANDMARKS.items():
        names = list(landmarks)
        path = [names.index(landmark) + 1 for landmark in PATHS[name]]
        skeleton = [[start, end] for start, end in pairwise(path)]
        made.append({"id": IDS[name], "name": name, "keypoints": names, "skeleton": skeleton})
    return made


def write_split(root: Path, name: str, drawn: Iterator[tuple[np.ndarray, list[dict]]], number: int) -> None:
    """Write the photos and the JSON of a split."""
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (image, garments) in enumerate(islice(drawn, number), 1):
        file_name = f"{name}/photo {image_id:03d}.jpg"
        write_jpeg(root / "photos" / file_name, image)
        height, width = image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        first = len(annotations) + 1
        annotations += [
            {"id": first + place, "image_id": image_id, **garment} for place, garment in enumerate(garments)
        ]
    content = {"images": images, "annotations": annotations, "categories": categories()}
    write_json(root / f"{name}.json", content)
    print(f"{root / name}.json: {len(images)} photos, {len(annotations)} garments")


def make(args: argparse.Namespace) -> None:
    """Write the data set."""
    if args.root.exists() and any(args.root.iterdir()):
        raise ValueError(f"--root: {args.root}: expected a new or empty folder")
    write_split(args.root, "train", photos("train", args.seed), args.train)
    drawn = photos("validation", args.seed)
    write_split(args.root, "val", drawn, args.val)
    for number, (image, _) in enumerate(islice(drawn, NEW_PHOTOS), 1):
        write_jpeg(args.root / "new" / f"photo {number}.jpg", image)


def main(arguments: list[str] | None = None) -> int:
    """Make the data set; return 0, or 1 after an error, which is printed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, default=Path("wardrobe"), help="default: %(default)s")
    parser.add_argument("--train", type=at_least(1), default=300, help="photos (default %(default)s)")
    parser.add_argument("--val", type=at_least(1), default=60, help="photos (default %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="default 0")
    args = parser.parse_args(arguments)
    return exit_status(lambda: make(args))


if __name__ == "__main__":
    sys.exit(main())
