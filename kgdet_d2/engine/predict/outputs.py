"""The tables of predicted photos, their COCO results and lines of JSON: of a part, and joined."""

import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kgdet_d2.engine.predict.sources import Source
from kgdet_d2.garments import Garments
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.utils.io import atomic_write, write_json_array

GARMENTS, PHOTOS = "garments.parquet", "photos.parquet"
_ROWS = 50_000  # of a table that are in memory, and that make a row group, or more
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


def _photo_rows(outcomes: Iterable[Outcome]) -> Iterator[dict[str, Any]]:
    """Generate a row for each photo; those that could not be read have an error, and no size."""
    for source, garments, error in outcomes:
        height, width = (None, None) if garments is None else garments.image_size
        found = None if garments is None else len(garments)
        row = {"photo": source.name, "image_id": source.image_id, "height": height, "width": width}
        yield row | {"garments": found, "error": error or None}


# --- parts ---


def part_tables(
    outcomes: Sequence[Outcome], schema: KeypointSchema, formats: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Generate the files of a part, by name, from what became of its photos."""
    yield GARMENTS, _parquet(_garment_rows(outcomes), garment_columns(schema))
    yield PHOTOS, _parquet(_photo_rows(outcomes), _PHOTO_COLUMNS)
    for name, items in _LINES.items():
        if name in formats:
            yield f"{name}.lines", "".join(json.dumps(item) + "\n" for item in items(outcomes)).encode()


def _parquet(rows: Iterable[dict[str, Any]], columns: pa.Schema) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=columns), content)
    return content.getvalue()


def _coco_results(outcomes: Iterable[Outcome]) -> Iterator[dict]:
    for source, garments in _read(outcomes):
        yield from garments.to_coco(source.image_id)


def _dicts(outcomes: Iterable[Outcome]) -> Iterator[dict]:
    for source, garments in _read(outcomes):
        yield garments.to_dict() | {"file": source.name}


_LINES: dict[str, Callable[[Iterable[Outcome]], Iterator[dict]]] = {"coco": _coco_results, "jsonl": _dicts}


# --- the whole ---


def merge_parts(
    parts: Sequence[Path], output: Path, schema: KeypointSchema, formats: Collection[str]
) -> None:
    """Join parts, in their order, into the files of the whole.

    No more is in memory than a part and what makes a row group. The table of photos is written last: where it
    is, all is.
    """
    if "jsonl" in formats:
        with atomic_write(output / "garments.jsonl") as file:
            for part in parts:
                file.write((part / "jsonl.lines").read_bytes())
    if "coco" in formats:
        with atomic_write(output / "coco_results.json") as file:
            _join_array(file, [part / "coco.lines" for part in parts])
        with atomic_write(output / "coco_images.json") as file:
            _write_coco_images(file, [part / PHOTOS for part in parts], schema)
    for name, columns in ((GARMENTS, garment_columns(schema)), (PHOTOS, _PHOTO_COLUMNS)):
        with atomic_write(output / name) as file, pq.ParquetWriter(file, columns) as writer:
            for table in _row_groups([part / name for part in parts], columns):
                writer.write_table(table)


def _row_groups(files: Iterable[Path], columns: pa.Schema) -> Iterator[pa.Table]:
    tables: list[pa.Table] = []
    for file in files:
        tables.append(pq.read_table(file, schema=columns))
        if sum(map(len, tables)) >= _ROWS:
            yield pa.concat_tables(tables)
            tables = []
    yield from [pa.concat_tables(tables)] if tables else []


def _join_array(file: BinaryIO, files: Iterable[Path]) -> None:
    """Write the lines of files as one JSON array."""
    file.write(b"[")
    between = b"\n"
    for path in files:
        for line in path.read_bytes().splitlines():
            file.write(between + line)
            between = b",\n"
    file.write(b"\n]\n")


def _write_coco_images(file: BinaryIO, tables: Iterable[Path], schema: KeypointSchema) -> None:
    """Write COCO's categories and images, which its results refer to."""
    categories = [
        {"id": index + 1, "name": name, "keypoints": list(schema.slot_names)}
        for index, name in enumerate(schema.class_names)
    ]
    file.write(b'{"categories": ' + json.dumps(categories).encode() + b',\n"images": ')
    rows = (row for table in tables for row in pq.read_table(table).to_pylist())
    write_json_array(
        file,
        (
            {"id": row["image_id"], "file_name": row["photo"], "width": row["width"], "height": row["height"]}
            for row in rows
            if row["error"] is None
        ),
    )
    file.write(b"}\n")


def read_photos(output: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Generate the rows of the whole table of photos, some at a time in memory."""
    with pq.ParquetFile(output / PHOTOS) as table:
        for batch in table.iter_batches(columns=columns):
            yield from batch.to_pylist()
