"""One dataset dict -> what the model takes: Detectron2's mapper, for landmarks that differ by class."""

from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data.transforms import TransformList
from detectron2.structures import Keypoints

from kgdet_d2.schema import KeypointSchema


class FashionDatasetMapper(DatasetMapper):
    """Detectron2's mapper for dicts with class-local ``keypoints``.

    Resizing, flipping, cropping and their configuration are Detectron2's. When the photo is mirrored, left
    and right landmarks change places within their class; a landmark that leaves the frame gets v = 0.
    In training ``instances.gt_keypoints`` is (n, K, 3), n = 0 included: x, y in pixels of the resized photo
    and v in the class's own slots, zeros in the others'.
    """

    @configurable
    def __init__(self, is_train: bool, *, schema: KeypointSchema, **detectron2_arguments: Any) -> None:
        """
        Args:
            is_train: whether annotations are wanted.
            schema: the landmarks.
            detectron2_arguments: those of Detectron2's ``DatasetMapper`` but ``keypoint_hflip_indices``.
        """
        super().__init__(is_train, **detectron2_arguments)
        self.schema = schema

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """As Detectron2's; the schema is the one of all of ``DATASETS.TRAIN`` and ``DATASETS.TEST``.

        Raises:
            ValueError: they have no schema, or not the same one.
        """
        schema = _common_schema((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        without_keypoints = cfg.clone()  # with them, Detectron2 would insist on a dataset in DATASETS.TRAIN
        without_keypoints.defrost()
        without_keypoints.MODEL.KEYPOINT_ON = False
        arguments = super().from_config(without_keypoints, is_train)
        return {**arguments, "use_keypoint": cfg.MODEL.KEYPOINT_ON, "schema": schema}

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one photo; the dict stays as it is.

        Raises:
            RuntimeError: the photo cannot be read.
            ValueError: its size is not the annotation's (Detectron2's ``SizeMismatchError``).
        """
        try:
            return super().__call__(dataset_dict)
        except OSError as error:
            raise RuntimeError(f"{dataset_dict['file_name']}: cannot read the photo: {error}") from error

    def _transform_annotations(
        self, dataset_dict: dict, transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        annotations = [dict(obj) for obj in dataset_dict.pop("annotations") if not obj["iscrowd"]]
        keypoints = np.zeros((len(annotations), self.schema.num_keypoints, 3), dtype=np.float32)
        for row, annotation in zip(keypoints, annotations, strict=True):
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            class_index = annotation["category_id"]
            flip = self.schema.local_flip(class_index)
            utils.transform_instance_annotations(
                annotation, transforms, image_shape, keypoint_hflip_indices=flip
            )
            row[:] = self.schema.scatter(annotation.pop("keypoints"), class_index)
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
        if self.use_keypoint:
            instances.gt_keypoints = Keypoints(keypoints)
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)


def _common_schema(datasets: tuple[str, ...]) -> KeypointSchema:
    if not datasets:
        raise ValueError(
            "DATASETS.TRAIN and DATASETS.TEST are both empty: the landmarks' schema is not known"
        )
    schemas = {name: MetadataCatalog.get(name).get("keypoint_schema") for name in datasets}
    for name, schema in schemas.items():
        if schema is None:
            raise ValueError(
                f"dataset {name!r} has no keypoint_schema; was it registered with register_fashion?"
            )
    first = schemas[datasets[0]]
    if any(schema != first for schema in schemas.values()):
        found = ", ".join(f"{name}: {schema.name}" for name, schema in schemas.items())
        raise ValueError(f"DATASETS.TRAIN and DATASETS.TEST must have the same landmarks, got {found}")
    return first
