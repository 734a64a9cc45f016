"""The dataset that ``kgdet check`` looks at."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from kgdet_d2.data import AnnotationTable, FashionDataset
from kgdet_d2.utils.catalog import schema_of_dataset


@dataclass(frozen=True, eq=False)
class Subject:
    """A registered dataset of N photos, as columns.

    Attributes:
        name: that it is registered under.
        annotations: its columns; image ids may be numbered anew.
        metadata: with ``keypoint_schema``.
        paths: the photos' files, N.
        image_ids: of the photos, as they are registered, N.
    """

    name: str
    annotations: AnnotationTable
    metadata: Metadata
    paths: list[str]
    image_ids: list[Any]

    @classmethod
    def load(cls, name: str) -> "Subject":
        """Read a registered dataset.

        Raises:
            ValueError, OSError: there is none of the name, or it cannot be read.
        """
        schema = schema_of_dataset(name)
        dataset = DatasetCatalog.get(name)
        if isinstance(dataset, FashionDataset):
            annotations, root = dataset.annotations, dataset.image_root
            image_ids = annotations.image_id.tolist()
        else:
            # Numbered anew: a check needs no ids, and those of the dicts may be missing, repeated or strings.
            numbered = ({**record, "image_id": number} for number, record in enumerate(dataset))
            annotations, root = AnnotationTable.from_dataset_dicts(numbered, schema), ""
            image_ids = [dataset[number].get("image_id", "") for number in annotations.image_id.tolist()]
        paths = [os.path.join(root, file_name) for file_name in annotations.file_name.tolist()]
        return cls(name, annotations, MetadataCatalog.get(name), paths, image_ids)

    def garments_of(self, photo: int) -> range:
        """Return the rows of a photo's garments."""
        return range(*self.annotations.garment_offsets[photo : photo + 2].tolist())

    def drawable(self, garments: Iterable[int], *, origin: np.ndarray | None = None) -> dict:
        """Return a dataset dict of garments that can be drawn.

        Args:
            garments: their rows.
            origin: x, y of the pixel of the photo that is the picture's first; None: the photo's first.
        """
        table = self.annotations
        x, y = (0, 0) if origin is None else origin
        drawn = []
        for row in garments:
            corners = table.box_float64[row].reshape(2, 2) - (x, y)
            keypoints = table.keypoints[table.keypoint_offsets[row] : table.keypoint_offsets[row + 1]]
            annotation = {
                # A box of corners that changed places has none of the wrong side.
                "bbox": [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(table.category_id[row]),
                "keypoints": (keypoints - np.array([x, y, 0], np.float32)).ravel(),
            }
            drawn.append(annotation)
        return {"annotations": drawn}
