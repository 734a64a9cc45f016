"""Detectron2's dataset dicts, made out of the compact columns one at a time."""

import logging
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data.build import filter_images_with_only_crowd_annotations, print_instances_class_histogram
from detectron2.structures import BoxMode
from torch.utils.data import ConcatDataset, Dataset, Subset

from kgdet_d2.structures.annotations import AnnotationTable

logger = logging.getLogger(__name__)


class FashionDataset(Dataset, Sequence):
    """A sequence of N dataset dicts, one a photo, each made when it is asked for.

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
        self._has_area = (annotations.box[:, 2:] > annotations.box[:, :2]).all(axis=1)
        if not self._has_area.all():
            without = int((~self._has_area).sum())
            logger.warning("%s: left out %d garments whose box has no area", image_root, without)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        """The dict of one photo, or those of a slice; nothing in them is shared with another access."""
        columns = self.annotations
        index = range(len(self))[index]  # negative ones count from the end; IndexError beyond
        if isinstance(index, range):
            return [self[each] for each in index]
        start, end = columns.garment_offsets[index : index + 2].tolist()
        return {
            "file_name": os.path.join(self.image_root, str(columns.file_name[index])),
            "image_id": int(columns.image_id[index]),
            "height": int(columns.height[index]),
            "width": int(columns.width[index]),
            **{name: array[index].item() for name, array in columns.photo_attributes.items()},
            "annotations": [self._annotation(row) for row in range(start, end) if self._has_area[row]],
        }

    def _annotation(self, row: int) -> dict:
        columns = self.annotations
        keypoints = slice(*columns.keypoint_offsets[row : row + 2])
        first, last = columns.polygon_offsets[row : row + 2].tolist()
        edges = columns.vertex_offsets[first : last + 1].tolist()
        return {
            "bbox": columns.box[row].tolist(),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": int(columns.category_id[row]),
            **{name: array[row].item() for name, array in columns.garment_attributes.items()},
            "keypoints": columns.keypoints[keypoints].flatten(),
            "segmentation": [columns.vertices[slice(*ends)].flatten() for ends in pairwise(edges)],
            "iscrowd": int(columns.iscrowd[row]),
        }

    def num_garments(self) -> np.ndarray:
        """int64 (N,), the garments of each photo that its dict will hold."""
        counted = np.concatenate([[0], np.cumsum(self._has_area)])
        return np.diff(counted[self.annotations.garment_offsets])

    def category_ids(self) -> np.ndarray:
        """int32 (G,), the class indices of the garments that the dicts will hold."""
        return self.annotations.category_id[self._has_area]


def training_dataset(names: Sequence[str], *, filter_empty: bool) -> Dataset:
    """Registered datasets, one after another, as Detectron2's loader would take them were they lists.

    Its ``get_detection_dataset_dicts`` joins other datasets unseen: nothing is left out or counted then.

    Args:
        names: those datasets.
        filter_empty: leave out photos without a garment.

    Raises:
        ValueError: they differ in their classes, or no photo is left.
    """
    class_names = MetadataCatalog.get(names[0]).thing_classes
    datasets = [DatasetCatalog.get(name) for name in names]
    for name, dataset in zip(names, datasets, strict=True):
        found = MetadataCatalog.get(name).thing_classes
        if found != class_names:
            raise ValueError(
                f"dataset {name!r}: expected the classes of {names[0]!r}, {class_names}, got {found}"
            )
        print_instances_class_histogram(_class_counts(dataset), class_names)
    joined = ConcatDataset([_photos(dataset, filter_empty) for dataset in datasets])
    if not len(joined):
        raise ValueError(f"{', '.join(names)}: expected photos with garments to train on, found none")
    return joined


def _photos(dataset: FashionDataset | list[dict], filter_empty: bool) -> Dataset:
    """Those to train on, in a form that worker processes share."""
    if not isinstance(dataset, FashionDataset):
        dicts = filter_images_with_only_crowd_annotations(dataset) if filter_empty else dataset
        return DatasetFromList(dicts, copy=False)
    if not filter_empty:
        return dataset
    chosen = np.flatnonzero(dataset.num_garments())
    logger.info("%s: %d of %d photos have garments", dataset.image_root, len(chosen), len(dataset))
    return Subset(dataset, chosen)


def _class_counts(dataset: FashionDataset | list[dict]) -> Sequence[dict]:
    """What Detectron2's histogram reads of dataset dicts."""
    if not isinstance(dataset, FashionDataset):
        return dataset
    return [{"annotations": [{"category_id": index} for index in dataset.category_ids()]}]
