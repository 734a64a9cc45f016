"""What is written of predicted photos: tables, COCO results, lines of JSON, pictures."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kgdet_d2.engine.predict.sources import Source
from kgdet_d2.figure_page import write_jpeg
from kgdet_d2.garments import Garments
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.utils.io import atomic_write, write_json

GARMENTS, PHOTOS = "garments.parquet", "photos.parquet"
FORMATS = ("coco", "jsonl", "pictures", "crops")  # by choice, beside the tables
_PHOTO_COLUMNS = pa.schema(
    {"photo": pa.string(), "image_id": pa.int64(), "height": pa.int32(), "width": pa.int32()}
    | {"garments": pa.int32(), "error": pa.string()}
)
_FLOATS = pa.list_(pa.float32())


class Outcome(NamedTuple):
    """What became of a photo: its garments, or why it could not be read.

    Attributes:
        source: the photo.
        garments: None where it could not be read.
        error: "" where it could.
    """

    source: Source
    garments: Garments | None
    error: str = ""


def _read(outcomes: Iterable[Outcome]) -> Iterator[tuple[Source, Garments]]:
    """Generate the photos that could be read, with their garments."""
    return ((source, garments) for source, garments, _ in outcomes if garments is not None)


def garment_columns(schema: KeypointSchema) -> pa.Schema:
    """Return the columns of the table of garments, a row each, with the landmarks' schema in the metadata.

    Boxes and landmarks are in pixels of the photo. The i-th number of ``landmark_x``, ``landmark_y`` and
    ``landmark_score`` is of the i-th landmark of the garment's class.
    """
    columns = {"photo": pa.string(), "image_id": pa.int64(), "class": pa.string(), "class_id": pa.int32()}
    columns |= dict.fromkeys(("score", "x1", "y1", "x2", "y2"), pa.float32())
    columns |= dict.fromkeys(("landmark_x", "landmark_y", "landmark_score"), _FLOATS)
    return pa.schema(columns, metadata={"kgdet_schema": json.dumps(schema.to_dict())})


def garment_table(outcomes: Sequence[Outcome], schema: KeypointSchema) -> pa.Table:
    """Return a row for each garment, photo by photo."""
    return pa.Table.from_pylist(list(_garment_rows(outcomes)), schema=garment_columns(schema))


def _garment_rows(outcomes: Iterable[Outcome]) -> Iterator[dict[str, Any]]:
    for source, garments in _read(outcomes):
        for row in range(len(garments)):
            x1, y1, x2, y2 = garments.boxes[row].tolist()
            landmarks = garments.keypoints[row] if garments.keypoints is not None else np.zeros((0, 3))
            yield {
                "photo": source.name,
                "image_id": source.image_id,
                "class": garments.names[row],
                "class_id": int(garments.classes[row]),
                "score": float(garments.scores[row]),
                **{"x1": x1, "y1": y1, "x2": x2, "y2": y2},
                "landmark_x": landmarks[:, 0].tolist(),
                "landmark_y": landmarks[:, 1].tolist(),
                "landmark_score": landmarks[:, 2].tolist(),
            }


def photo_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row for each photo; those that could not be read have an error, and no size."""
    rows = []
    for source, garments, error in outcomes:
        height, width = (None, None) if garments is None else garments.image_size
        found = None if garments is None else len(garments)
        row = {"photo": source.name, "image_id": source.image_id, "height": height, "width": width}
        rows.append(row | {"garments": found, "error": error or None})
    return pa.Table.from_pylist(rows, schema=_PHOTO_COLUMNS)


# --- parts ---


def write_part(
    folder: Path, outcomes: Sequence[Outcome], schema: KeypointSchema, formats: Iterable[str]
) -> None:
    """Write what was predicted of some photos into a folder, which appears when all is in it."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    beside.mkdir(parents=True)
    pq.write_table(garment_table(outcomes, schema), beside / GARMENTS)
    pq.write_table(photo_table(outcomes), beside / PHOTOS)
    for name in set(formats) & _LINES.keys():
        with open(beside / f"{name}.lines", "w") as file:
            file.writelines(json.dumps(item) + "\n" for item in _LINES[name](outcomes))
    beside.rename(folder)


def _coco_results(outcomes: Iterable[Outcome]) -> Iterator[dict]:
    for source, garments in _read(outcomes):
        yield from garments.to_coco(source.image_id)


def _dicts(outcomes: Iterable[Outcome]) -> Iterator[dict]:
    for source, garments in _read(outcomes):
        yield garments.to_dict() | {"file": source.name}


_LINES: dict[str, Callable[[Iterable[Outcome]], Iterator[dict]]] = {"coco": _coco_results, "jsonl": _dicts}


def merge_parts(parts: Sequence[Path], output: Path, schema: KeypointSchema, formats: Iterable[str]) -> None:
    """Join parts, in their order, into the files of the whole; no more than one part is in memory.

    The table of photos is written last: where it is, all is.
    """
    if "jsonl" in formats:
        with atomic_write(output / "garments.jsonl") as file:
            for part in parts:
                file.write((part / "jsonl.lines").read_bytes())
    if "coco" in formats:
        with atomic_write(output / "coco_results.json") as file:
            _join_array(file, [part / "coco.lines" for part in parts])
        write_json(output / "coco_images.json", _coco_images(parts, schema))
    for name, columns in ((GARMENTS, garment_columns(schema)), (PHOTOS, _PHOTO_COLUMNS)):
        with atomic_write(output / name) as file, pq.ParquetWriter(file, columns) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part / name, schema=columns))


def _join_array(file: BinaryIO, files: Iterable[Path]) -> None:
    """Write the lines of files as one JSON array."""
    file.write(b"[")
    between = b"\n"
    for path in files:
        for line in path.read_bytes().splitlines():
            file.write(between + line)
            between = b",\n"
    file.write(b"\n]\n")


def _coco_images(parts: Iterable[Path], schema: KeypointSchema) -> dict:
    """Return COCO's images and categories, which its results refer to."""
    rows = [row for part in parts for row in pq.read_table(part / PHOTOS).to_pylist()]
    images = [
        {"id": row["image_id"], "file_name": row["photo"], "width": row["width"], "height": row["height"]}
        for row in rows
        if row["error"] is None
    ]
    categories = [
        {"id": index + 1, "name": name, "keypoints": list(schema.slot_names)}
        for index, name in enumerate(schema.class_names)
    ]
    return {"images": images, "categories": categories}


# --- pictures ---


def write_pictures(output: Path, outcome: Outcome, photo: np.ndarray, formats: Iterable[str]) -> None:
    """Write the photo with its garments drawn, and each garment cut out, under the photo's own name.

    Args:
        output: the folder.
        outcome: of the photo.
        photo: uint8 (H, W, 3), RGB.
        formats: "pictures", "crops" or both.
    """
    garments = outcome.garments
    if garments is None:
        return
    if "pictures" in formats:
        write_jpeg(output / "pictures" / f"{outcome.source.name}.jpg", garments.draw(photo)[:, :, ::-1])
    if "crops" in formats:
        for row, (name, box) in enumerate(zip(garments.names, garments.boxes, strict=True)):
            x1, y1 = np.floor(box[:2]).astype(int).clip(min=0)
            x2, y2 = np.ceil(box[2:]).astype(int)
            crop = photo[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1), ::-1]
            if crop.size:
                file = f"{row:02d}_{re.sub(r'[^a-z0-9]+', '_', name.lower())}.jpg"
                write_jpeg(output / "crops" / outcome.source.name / file, np.ascontiguousarray(crop))


def remove(folder: Path) -> None:
    """Remove a folder of parts."""
    shutil.rmtree(folder)
