"""Detectron2's dataset dicts, made from the annotation table one at a time."""

import logging
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.build import print_instances_class_histogram
from detectron2.structures import BoxMode
from torch.utils.data import ConcatDataset, Dataset, Subset

from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.utils.catalog import check_schema_of_datasets, schema_of_dataset

logger = logging.getLogger(__name__)


class FashionDataset(Dataset, Sequence):
    """A sequence of N dataset dicts, one an image, each made at access.

    Only the columns are held, which a loader's worker processes share. A dict has Detectron2's keys, the
    photo's attributes among them, and ``annotations``: one dict a garment, its attributes included, with
    class-local ``keypoints`` (3 K_c,) and the polygons (2 V,) of ``segmentation`` as flat float32 copies.
    Garments whose box has no area are left out, with a warning.

    Args:
        annotations: the columns.
        image_root: the folder that their file names are relative to.
    """

    def __init__(self, annotations: AnnotationTable, image_root: str | Path) -> None:
        self.annotations = annotations
        self.image_root = str(image_root)
        self._has_area = annotations.has_area
        self._is_garment = self._has_area & ~annotations.iscrowd
        if not self._has_area.all():
            without = int((~self._has_area).sum())
            logger.warning("%s: left out %d garments whose box has no area", image_root, without)

    def __len__(self) -> int:
        return len(self.annotations)

    @overload
    def __getitem__(self, index: int) -> dict: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict]: ...

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        """Make the dict of one image, or those of a slice; nothing in them is shared with another access."""
        rows = range(len(self))[index]  # negative ones count from the end; IndexError beyond
        if isinstance(rows, range):
            return [self._record(row) for row in rows]
        return self._record(rows)

    def _record(self, row: int) -> dict:
        table = self.annotations
        start, end = table.garment_offsets[row : row + 2].tolist()
        return {
            "file_name": os.path.join(self.image_root, str(table.file_name[row])),
            "image_id": int(table.image_id[row]),
            "height": int(table.height[row]),
            "width": int(table.width[row]),
            **{name: column[row].item() for name, column in table.photo_attributes.items()},
            "annotations": [
                self._annotation(garment) for garment in range(start, end) if self._has_area[garment]
            ],
        }

    def _annotation(self, row: int) -> dict:
        table = self.annotations
        first_keypoint, last_keypoint = table.keypoint_offsets[row : row + 2]
        first_polygon, last_polygon = table.polygon_offsets[row : row + 2].tolist()
        vertex_offsets = table.vertex_offsets[first_polygon : last_polygon + 1].tolist()
        return {
            "bbox": table.box[row].tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(table.category_id[row]),
            **{name: column[row].item() for name, column in table.garment_attributes.items()},
            "keypoints": table.keypoints[first_keypoint:last_keypoint].flatten(),
            "segmentation": [table.vertices[start:end].flatten() for start, end in pairwise(vertex_offsets)],
            "iscrowd": int(table.iscrowd[row]),
        }

    def num_garments(self) -> np.ndarray:
        """Return int64 (N,), the garments that each image's dict will hold, regions to ignore apart."""
        before = np.concatenate([[0], np.cumsum(self._is_garment)])
        return np.diff(before[self.annotations.garment_offsets])

    def category_ids(self) -> np.ndarray:
        """Return int32 (G,), the class indices of those garments."""
        return self.annotations.category_id[self._is_garment]


def fashion_dataset(name: str) -> FashionDataset:
    """Return a registered dataset; one of Detectron2's own dicts is put into columns and checked.

    Its images are numbered by position where their ids are no whole numbers, and what it leaves open is
    filled in: see :meth:`AnnotationTable.from_dataset_dicts`.

    Raises:
        ValueError: see there and :func:`kgdet_d2.utils.catalog.schema_of_dataset`.
    """
    schema = schema_of_dataset(name)
    dataset = DatasetCatalog.get(name)
    if isinstance(dataset, FashionDataset):
        return dataset
    try:
        return FashionDataset(AnnotationTable.from_dataset_dicts(dataset, schema), "")
    except ValueError as error:
        raise ValueError(f"dataset {name!r}: {error}") from error


def training_dataset(names: Sequence[str], *, filter_empty: bool) -> ConcatDataset:
    """Join registered datasets, one after another, as Detectron2's loader joins lists.

    Its ``get_detection_dataset_dicts`` joins other datasets unseen: nothing is left out or counted then.

    Args:
        names: those datasets.
        filter_empty: leave out images without a garment.

    Raises:
        ValueError: they differ in their classes or landmarks, or no image is left.
    """
    schema = schema_of_dataset(names[0])
    check_schema_of_datasets(names, schema)
    datasets = [fashion_dataset(name) for name in names]
    for dataset in datasets:
        annotations = [{"category_id": index} for index in dataset.category_ids()]
        print_instances_class_histogram([{"annotations": annotations}], list(schema.class_names))
    joined: ConcatDataset = ConcatDataset(
        [_with_garments(dataset) if filter_empty else dataset for dataset in datasets]
    )
    if not len(joined):
        raise ValueError(f"{', '.join(names)}: expected images with garments to train on, found none")
    return joined


def is_wide(dataset: ConcatDataset) -> np.ndarray:
    """Return whether each image of a :func:`training_dataset` is wider than high, bool (N,)."""
    parts = []
    for part in dataset.datasets:
        whole, rows = (part.dataset, part.indices) if isinstance(part, Subset) else (part, slice(None))
        annotations = whole.annotations  # type: ignore[attr-defined]  # of FashionDataset
        parts.append((annotations.width > annotations.height)[rows])
    return np.concatenate(parts)


def _with_garments(dataset: FashionDataset) -> Dataset:
    chosen = np.flatnonzero(dataset.num_garments())
    logger.info("%s: %d of %d images have garments", dataset.image_root, len(chosen), len(dataset))
    return Subset(dataset, chosen)  # type: ignore[arg-type]  # an array, which worker processes share
