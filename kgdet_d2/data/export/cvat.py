"""CVAT: archives of its format "COCO Keypoints 1.0"."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from kgdet_d2.data.export.coco import coco_annotation, write_coco
from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.structures.annotations import Garment, Photo
from kgdet_d2.utils.check import check
from kgdet_d2.utils.io import atomic_write

_MEMBER = "annotations/person_keypoints_default.json"  # the name that is looked for, whatever the objects are


def export_cvat(dataset: ExportedDataset, folder: Path) -> list[Path]:
    """Write ``ground_truth.zip`` and, where there are predictions, ``predictions.zip``, and return both.

    They are annotations of a task that has the same photos, and labels that are skeletons: named as the
    classes, their points as the landmarks. Predicted landmarks are all visible.

    Raises:
        ValueError: predictions of boxes alone.
    """
    truth, predicted = folder / "ground_truth.zip", folder / "predictions.zip"
    predictions = dataset.predictions
    has_keypoints = predictions is None or predictions.has_keypoints
    check(has_keypoints, "predictions: expected landmarks for CVAT's skeletons, got boxes alone")
    garments = (_annotation(photo, each) for photo in dataset.photos() for each in photo.garments)
    _write_archive(truth, dataset, garments)
    if predictions is None:
        return [truth]
    detections = (
        {**_annotation(photo, garment), "score": score}
        for photo in dataset.photos()
        for garment, score in dataset.detections(photo)
    )
    _write_archive(predicted, dataset, detections)
    return [truth, predicted]


def _annotation(photo: Photo, garment: Garment) -> dict[str, Any]:
    # CVAT would make polygons of their own, with labels that are skeletons.
    return {**coco_annotation(photo, garment), "segmentation": []}


def _write_archive(path: Path, dataset: ExportedDataset, annotations: Iterable[dict]) -> None:
    member = ZipInfo(_MEMBER)  # whose date is fixed
    member.compress_type = ZIP_DEFLATED
    with (
        atomic_write(path) as file,
        ZipFile(file, "w") as archive,
        archive.open(member, "w", force_zip64=True) as content,
    ):
        write_coco(content, dataset, annotations)
