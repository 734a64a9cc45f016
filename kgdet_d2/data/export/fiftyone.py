"""FiftyOne: the folder of a dataset, which ``fo.Dataset.from_dir`` takes as a ``fo.types.FiftyOneDataset``.

It has that type's form without a version, with samples as ``fo.Sample.to_dict`` gives them: no FiftyOne is
needed to write it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.structures.annotations import Garment, Photo
from kgdet_d2.utils.check import check
from kgdet_d2.utils.io import atomic_write, write_json, write_json_array


def export_fiftyone(dataset: ExportedDataset, folder: Path) -> list[Path]:
    """Write ``samples.json`` and ``metadata.json``, and return these files.

    A sample has boxes in ``ground_truth`` and ``predictions``, and landmarks in fields of their class, such
    as ``landmarks_skirt`` and ``predicted_landmarks_skirt``, because a skeleton is a field's. Coordinates are
    shares of the photo's width and height; a landmark that is not labelled is NaN. The box and the landmarks
    of a garment have the same ``index``.

    Raises:
        ValueError: two classes whose names make the same field.
    """
    samples, metadata = folder / "samples.json", folder / "metadata.json"
    make_sample = _SampleMaker(dataset)
    with atomic_write(samples) as file:
        file.write(b'{"samples": ')
        write_json_array(file, map(make_sample, dataset.photos()), allow_nan=True)
        file.write(b"}\n")
    info = {"default_classes": list(dataset.schema.class_names), "skeletons": make_sample.skeletons()}
    write_json(metadata, {"media_type": "image", "info": info})
    return [samples, metadata]


class _SampleMaker:
    def __init__(self, dataset: ExportedDataset) -> None:
        self.dataset, self.schema = dataset, dataset.schema
        names = self.schema.class_names
        self.fields = ["landmarks_" + re.sub(r"\W+", "_", name.lower()) for name in names]
        differ = len(set(self.fields)) == len(names)
        check(differ, f"class names: expected a field of landmarks for each, got {self.fields}")

    def skeletons(self) -> dict[str, dict]:
        """Return the skeletons by field."""
        skeletons: dict[str, dict] = {}
        for index, field in enumerate(self.fields):
            skeleton = {
                "_cls": "KeypointSkeleton",
                "labels": list(self.schema.keypoint_names[index]),
                "edges": [list(edge) for edge in self.schema.skeleton[index]],
            }
            skeletons |= {field: skeleton, f"predicted_{field}": skeleton}
        return skeletons

    def __call__(self, photo: Photo) -> dict[str, Any]:
        sample = {
            **photo.attributes,
            "filepath": self.dataset.path(photo),
            "metadata": {"_cls": "ImageMetadata", "width": photo.width, "height": photo.height},
            "image_id": photo.image_id,
        }
        garments = [(each, {**each.attributes, "iscrowd": each.iscrowd}) for each in photo.garments]
        sample |= self._labels(photo, garments, "ground_truth", "")
        if self.dataset.predictions is not None:
            detections = [(each, {"confidence": score}) for each, score in self.dataset.detections(photo)]
            sample |= self._labels(photo, detections, "predictions", "predicted_")
        return sample

    def _labels(
        self, photo: Photo, garments: Sequence[tuple[Garment, Mapping]], boxes: str, prefix: str
    ) -> dict[str, dict]:
        """Return the fields of garments with further values each: that of boxes, and those of landmarks."""
        size = np.array([photo.width, photo.height])
        detections = []
        fields: dict[str, dict] = {}
        for index, (garment, values) in enumerate(garments):
            label = {"label": self.schema.class_names[garment.category_id], "index": index}
            corner, opposite = garment.box.reshape(2, 2) / size
            box = {"bounding_box": [*corner.tolist(), *(opposite - corner).tolist()]}
            detections.append({**values, "_cls": "Detection", **label, **box})
            if len(garment.keypoints):
                field = fields.setdefault(
                    prefix + self.fields[garment.category_id], {"_cls": "Keypoints", "keypoints": []}
                )
                field["keypoints"].append({"_cls": "Keypoint", **label, **_points(garment, size)})
        return {boxes: {"_cls": "Detections", "detections": detections}, **fields}


def _points(garment: Garment, size: np.ndarray) -> dict[str, list]:
    points, visibility = garment.keypoints[:, :2] / size, garment.keypoints[:, 2]
    return {
        "points": np.where(visibility[:, None] > 0, points, np.nan).tolist(),
        "visibility": visibility.astype(int).tolist(),
    }
