"""Registered datasets as COCO's JSON, which Detectron2's ``COCOEvaluator`` reads its ground truth from.

It asks the metadata for ``json_file`` and opens that by Detectron2's ``PathManager``. The path of a dataset
here has a prefix of its own, for which the manager writes the file when it is asked for. COCOEvaluator's own
conversion of dataset dicts would take the area from the polygons, round boxes, and find landmarks of a
garment's own class where the model predicts those of all.
"""

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathHandler, PathManager

from kgdet_d2.data.dataset import fashion_dataset
from kgdet_d2.data.export.coco import coco_annotation, write_coco
from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import Garment
from kgdet_d2.utils.catalog import schema_of_dataset
from kgdet_d2.utils.io import atomic_write

PREFIX = "kgdet-coco://"


def offer_coco_json(name: str) -> None:
    """Give a registered dataset's metadata what COCOEvaluator reads, where it has no ``json_file`` yet.

    Args:
        name: the dataset's; its landmarks are known.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file") is None:
        count = schema_of_dataset(name).num_classes
        metadata.set(
            json_file=PREFIX + name,
            thing_dataset_id_to_contiguous_id={index + 1: index for index in range(count)},
        )


def write_all_slots(file: IO[bytes], dataset: ExportedDataset) -> None:
    """Write COCO's JSON with the landmarks of all classes for each garment.

    Their coordinates are half a pixel less, as those of COCO's own files are, for Detectron2 takes half a
    pixel off what a model predicts. The area is the box's. Garments whose box has no area are left out, and
    ``annotations`` is where there is no garment: there is nothing to evaluate on then.
    """
    dataset = ExportedDataset(annotations=dataset.annotations.with_area(), image_root=dataset.image_root)
    has_garments = dataset.annotations.num_garments > 0
    write_coco(file, dataset, _annotations(dataset) if has_garments else None)


def _annotations(dataset: ExportedDataset) -> Iterator[dict[str, Any]]:
    for photo in dataset.photos():
        for garment in photo.garments:
            annotation = coco_annotation(photo, garment)
            annotation["keypoints"] = _all_slots(garment, dataset.schema)
            if not garment.polygons:  # pycocotools cannot read none; this is a mask of no pixel
                size = [photo.height, photo.width]
                annotation["segmentation"] = {"size": size, "counts": [photo.height * photo.width]}
            yield annotation


def _all_slots(garment: Garment, schema: KeypointSchema) -> list[float]:
    keypoints = garment.keypoints.astype(float)
    keypoints[:, :2] -= 0.5
    keypoints[keypoints[:, 2] == 0] = 0
    return schema.scatter(keypoints, garment.category_id).ravel().tolist()


class _CocoJson(PathHandler):
    """Makes the files of ``PREFIX`` and a dataset's name; they go with the process."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="kgdet-coco-")

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Write the file anew, since the dataset may have been registered anew."""
        self._check_kwargs(kwargs)
        name = path.removeprefix(PREFIX)
        dataset = fashion_dataset(name)
        local = Path(self._folder.name, f"{quote(name, safe='')}.json")
        with atomic_write(local) as file:
            write_all_slots(
                file, ExportedDataset(annotations=dataset.annotations, image_root=dataset.image_root)
            )
        return str(local)


PathManager.register_handler(_CocoJson())
