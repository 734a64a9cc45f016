"""Whether each garment of an annotation file is in the table that was made of it, or in the report."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np

from kgdet_d2.data.convert.records import REGION
from kgdet_d2.structures.annotations import AnnotationTable

Report = list[dict[str, str]]


def read_report(path: Path) -> Report:
    """The lines of a split's report, by the names of its columns."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, dialect=csv.excel_tab))


def assert_garments_accounted_for(table: AnnotationTable, report: Report, file: Path) -> str:
    """Compare a table of DeepFashion2's photos with one of their native files; what came of it.

    Each item of the file is a garment of the table, or a region to ignore that the report names; or the
    report names the whole photo. Landmarks that no line tells of are those of the file.
    """
    lines = [line for line in report if line["path"] == str(file)]
    rows = np.flatnonzero(table.image_id == int(file.stem))
    if not len(rows):
        assert any(line["lost"] == "photo" for line in lines), "the photo is lost without a word"
        return "photo reported"
    content = json.loads(file.read_bytes())
    names = [key for key, value in content.items() if key.startswith("item") or isinstance(value, dict)]
    names.sort(key=lambda key: (len(key), key))
    garments = range(*table.garment_offsets[rows[0] : rows[0] + 2])
    assert len(garments) == len(names), f"{len(names)} garments became {len(garments)}"
    for name, garment in zip(names, garments, strict=True):
        lost = [line["lost"] for line in lines if line["item"] == name]
        assert table.iscrowd[garment] == (REGION in lost), f"{name} is lost without a word"
        if not table.iscrowd[garment] and "landmark" not in lost:
            found = table.keypoints[slice(*table.keypoint_offsets[garment : garment + 2])]
            numbers = [number if abs(number) < 1e38 else np.inf for number in content[name]["landmarks"]]
            expected = np.array(numbers, np.float32).reshape(-1, 3)
            expected[expected[:, 2] == 0] = found[found[:, 2] == 0] = 0
            np.testing.assert_array_equal(found, expected, f"{name} has other landmarks")
    return "reported" if lines else "read as it is"


def assert_all_accounted_for(table: AnnotationTable, report: Report, file: Path) -> str:
    """Compare a table with the COCO file that it was made of; what came of it.

    Each annotation is a garment or a region of the table, or the report has a line for it or for its photo;
    each image is in the table or the report has a line for it.
    """
    content = json.loads(file.read_bytes())
    lost = {_photo_of(line) for line in report if line["lost"] == "photo"}
    kept = set(table.file_name.tolist())
    photos = Counter(_key(image, "id") for image in content["images"])
    for position, image in enumerate(content["images"]):
        names = {_key(image, "id"), f"images[{position}]"}
        is_kept = isinstance(image, dict) and str(image.get("file_name")) in kept
        assert is_kept or names & lost, f"images[{position}] is lost without a word"
    left_out = [line for line in report if line["reason"].endswith("the same: left out")]
    alone = sum(line["lost"] == "garment" for line in report)
    with_photos = Counter(_key(entry, "image_id") for entry in content["annotations"])
    with_photos.subtract(map(_photo_of, left_out))
    of_lost_photos = sum(with_photos[key] for key in lost if key in photos)
    found = table.num_garments + alone + len(left_out) + of_lost_photos
    told = f"{table.num_garments} kept, {alone + len(left_out)} reported, {of_lost_photos} with photos"
    assert len(content["annotations"]) == found, f"{len(content['annotations'])} annotations: {told}"
    regions = {line["item"] for line in report if line["lost"] == REGION}
    crowds = sum(_is_crowd(entry) for entry in content["annotations"])
    assert int(table.iscrowd.sum()) <= len(regions) + crowds, "a garment became a region without a word"
    return "reported" if report else "read as it is"


def _photo_of(line: dict[str, str]) -> str:
    """The photo's id in a line of it, or of a garment of it."""
    return line["item"].partition(", annotation")[0].removeprefix("image ")


def _key(entry, name: str) -> str:
    """An id as a report has it: numbers alike however they are written."""
    value = entry.get(name) if isinstance(entry, dict) else None
    try:
        return str(int(float(value)) if not isinstance(value, int) else int(value))
    except (TypeError, ValueError, OverflowError):
        return str(value)


def _is_crowd(entry) -> bool:
    return isinstance(entry, dict) and str(entry.get("iscrowd", 0)) not in ("0", "0.0")
