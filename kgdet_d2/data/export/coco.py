"""COCO: annotations in which each category has its own landmarks, and results."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import Garment, Photo
from kgdet_d2.utils.io import atomic_write, write_json_array


def export_coco(dataset: ExportedDataset, folder: Path) -> list[Path]:
    """Write ``annotations.json`` and, where there are predictions, ``results.json``, and return these files.

    A category has the names of its K_c landmarks and its skeleton, pairs that count from 1; an annotation and
    a result have 3 K_c numbers. ``category_id`` is the class index + 1.
    """
    annotations, results = folder / "annotations.json", folder / "results.json"
    with atomic_write(annotations) as file:
        garments = (coco_annotation(photo, each) for photo in dataset.photos() for each in photo.garments)
        write_coco(file, dataset, garments)
    if dataset.predictions is None:
        return [annotations]
    with atomic_write(results) as file:
        rows = dataset.detection_rows.tolist()
        write_json_array(file, (dataset.predictions.coco_result(row, all_slots=False) for row in rows))
    return [annotations, results]


def write_coco(file: IO[bytes], dataset: ExportedDataset, annotations: Iterable[dict] | None) -> None:
    """Write COCO's JSON, an image or annotation at a time.

    Args:
        file: open for writing.
        dataset: its photos and classes are the images and categories.
        annotations: what :func:`coco_annotation` returns; they get ids from 1 here. None: there is no list of
            them, as of photos that were not annotated.
    """
    file.write(b'{"info": {}, "licenses": [], "images": ')
    write_json_array(file, map(_image, dataset.photos()))
    if annotations is not None:
        file.write(b', "annotations": ')
        numbered = ({**annotation, "id": number} for number, annotation in enumerate(annotations, 1))
        write_json_array(file, numbered)
    file.write(b', "categories": ')
    write_json_array(file, _categories(dataset.schema))
    file.write(b"}\n")


def coco_annotation(photo: Photo, garment: Garment) -> dict[str, Any]:
    """Return a garment's annotation, but for its id. The area is the box's; attributes are further keys."""
    x1, y1, x2, y2 = garment.box.tolist()
    keypoints: list[float] = []
    for x, y, v in garment.keypoints.tolist():
        keypoints += (x, y, int(v)) if v else (0, 0, 0)  # as COCO has what is not labelled
    return {
        **garment.attributes,
        "image_id": photo.image_id,
        "category_id": garment.category_id + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": int(garment.iscrowd),
        "num_keypoints": int((garment.keypoints[:, 2] > 0).sum()),
        "keypoints": keypoints,
        "segmentation": [polygon.ravel().tolist() for polygon in garment.polygons],
    }


def _image(photo: Photo) -> dict[str, Any]:
    return {
        **photo.attributes,
        "id": photo.image_id,
        "file_name": photo.file_name,
        "width": photo.width,
        "height": photo.height,
    }


def _categories(schema: KeypointSchema) -> Iterator[dict[str, Any]]:
    for index, name in enumerate(schema.class_names):
        yield {
            "id": index + 1,
            "name": name,
            "supercategory": "clothes",
            "keypoints": list(schema.keypoint_names[index]),
            "skeleton": [[start + 1, end + 1] for start, end in schema.skeleton[index]],
        }
