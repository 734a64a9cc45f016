"""What is exported of a dataset: its photos, their garments, and the detections on them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, starmap
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo
from kgdet_d2.structures.predictions import Predictions


class Detection(NamedTuple):
    """A predicted garment.

    Attributes:
        garment: its landmarks are x, y, 2 (visible); (0, 3) of a model of boxes alone.
        score: 0..1.
    """

    garment: Garment
    score: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ExportedDataset:
    """A dataset's photos.

    Attributes:
        annotations: the ground truth; file names are relative to ``image_root``.
        image_root: the photos' folder.
        predictions: on its photos; None: there are none.
        score_threshold: detections with lower scores are left out.
    """

    annotations: AnnotationTable
    image_root: str
    predictions: Predictions | None = None
    score_threshold: float = -inf

    @property
    def schema(self) -> KeypointSchema:
        """The landmarks."""
        return self.annotations.schema

    def photos(self) -> Iterator[Photo]:
        """Generate the photos with their garments; ``file_name`` has / between folders."""
        return map(self._photo, range(len(self.annotations)))

    def path(self, photo: Photo) -> str:
        """Return the absolute path of a photo's file."""
        return os.path.abspath(os.path.join(self.image_root, photo.file_name))

    def detections(self, photo: Photo) -> list[Detection]:
        """Return what was predicted on a photo, in the predictions' order."""
        rows = self.detection_rows[self._detections_of.get(photo.image_id, slice(0))]
        return [self._detection(row) for row in rows.tolist()]

    @cached_property
    def detection_rows(self) -> np.ndarray:
        """The rows of the predictions' detections that are exported, int64 (D,)."""
        if self.predictions is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self.predictions.score >= self.score_threshold)

    def _photo(self, row: int) -> Photo:
        table = self.annotations
        return Photo(
            file_name=Path(table.file_name[row]).as_posix(),
            image_id=int(table.image_id[row]),
            width=int(table.width[row]),
            height=int(table.height[row]),
            garments=[self._garment(garment) for garment in range(*table.garment_offsets[row : row + 2])],
            attributes={name: column[row].item() for name, column in table.photo_attributes.items()},
        )

    def _garment(self, row: int) -> Garment:
        table = self.annotations
        first, last = table.polygon_offsets[row : row + 2]
        edges = table.vertex_offsets[first : last + 1]
        return Garment(
            category_id=int(table.category_id[row]),
            box=table.box[row],
            keypoints=table.keypoints[slice(*table.keypoint_offsets[row : row + 2])],
            polygons=[table.vertices[slice(*ends)] for ends in pairwise(edges)],
            attributes={name: column[row].item() for name, column in table.garment_attributes.items()},
            iscrowd=bool(table.iscrowd[row]),
        )

    @cached_property
    def _detections_of(self) -> dict[int, slice]:
        """Of each image its part of ``detection_rows``."""
        if self.predictions is None:
            return {}
        ends = np.searchsorted(self.detection_rows, self.predictions.detection_offsets).tolist()
        return dict(zip(self.predictions.image_id.tolist(), starmap(slice, pairwise(ends)), strict=True))

    def _detection(self, row: int) -> Detection:
        predictions = self.predictions
        assert predictions is not None
        points = predictions.keypoints[slice(*predictions.keypoint_offsets[row : row + 2])]
        garment = Garment(
            category_id=int(predictions.category_id[row]),
            box=predictions.box[row],
            keypoints=np.column_stack([points, np.full(len(points), 2, np.float32)]),
        )
        return Detection(garment, float(predictions.score[row]))
