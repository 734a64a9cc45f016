"""Detectron2's dataset mapper for landmarks that differ by class."""

import copy
import io
import logging
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    GeneralizedRCNN,
)
from detectron2.structures import Instances, Keypoints
from detectron2.utils.logger import log_first_n

from kgdet_d2.data.augmentation import build_train_augmentations
from kgdet_d2.data.images import image_to_tensor, read_image
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.utils.catalog import check_schema_of_datasets, schema_of_config


class FashionDatasetMapper(DatasetMapper):
    """Detectron2's mapper for dicts with class-local ``keypoints``.

    When the image is mirrored, left and right landmarks change places within their class. A landmark that
    leaves the frame gets v = 0 (on its edge it is inside), a box is clipped to it, and a garment whose box
    leaves it is dropped, or whose polygons do where masks are read; one without polygons is kept. Proposals
    and semantic segmentation are not read. ``gt_styles`` (n,) is there where the annotations have a style.
    In training ``instances.gt_keypoints`` is (n, K, 3), n = 0 included: x, y in pixels of the resized image
    and v in the class's own slots, zeros in the others'; a garment without ``keypoints`` has none labelled.

    Annotations with ``iscrowd`` are regions to ignore. They come after the garments, with a box, but neither
    landmarks nor polygons; bool ``gt_ignored`` (n,) tells them from garments. It is there where the image's
    annotations have a region, so that all others have the fields that Detectron2 knows, and nothing more.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        schema: KeypointSchema,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
        keep_ignored: bool = True,
        alpha_on_white: bool = False,
    ) -> None:
        """Make a mapper; all but ``schema`` are Detectron2's arguments.

        Args:
            is_train: whether to map the annotations, too.
            schema: the landmarks.
            augmentations: applied to the image and its annotations, in order.
            image_format: as ``INPUT.FORMAT``, see :func:`read_image`.
            use_instance_mask: whether to map the polygons.
            use_keypoint: whether to map the landmarks.
            instance_mask_format: ``"polygon"`` or ``"bitmask"``.
            recompute_boxes: replace a box by that of its mask, where there is one.
            keep_ignored: keep regions to ignore; False for a model that would take them for garments.
            alpha_on_white: as ``INPUT.ALPHA_ON_WHITE``, see :func:`read_image`.
        """
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            use_instance_mask=use_instance_mask,
            use_keypoint=use_keypoint,
            instance_mask_format=instance_mask_format,
            recompute_boxes=recompute_boxes,
        )
        self.schema = schema
        self.keep_ignored = keep_ignored
        self.alpha_on_white = alpha_on_white

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return Detectron2's arguments, with the augmentations of ``build_train_augmentations``.

        The schema is ``MODEL.KGDET.SCHEMA``, whatever the architecture.

        Raises:
            ValueError: one of ``DATASETS.TRAIN`` and ``DATASETS.TEST`` has another schema or none, or is not
                registered.
        """
        schema = schema_of_config(cfg)
        check_schema_of_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), schema)
        arguments: dict[str, Any] = {
            "is_train": is_train,
            "schema": schema,
            "augmentations": utils.build_augmentation(cfg, is_train=False),
            "image_format": cfg.INPUT.FORMAT,
            "alpha_on_white": cfg.INPUT.ALPHA_ON_WHITE,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
        }
        if is_train:
            cropped = cfg.INPUT.CROP.ENABLED or bool(cfg.INPUT.SCALE_JITTER)
            arguments["augmentations"] = build_train_augmentations(cfg)
            arguments["recompute_boxes"] = cropped and cfg.MODEL.MASK_ON
            arguments["keep_ignored"] = _model_takes_ignored(cfg)
        return arguments

    def __call__(self, dataset_dict: dict) -> "MappedImage":
        """Map the dict of one image, and leave the dict as it is.

        Raises:
            RuntimeError: the image cannot be read.
            ValueError: its size is not the annotation's (Detectron2's ``SizeMismatchError``), or a garment
                does not have its class's landmarks.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], self.image_format, alpha_on_white=self.alpha_on_white)
        utils.check_image_size(record, image)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        record["image"] = image_to_tensor(augmented.image)
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            try:
                record["instances"] = self._instances(annotations, transforms, augmented.image.shape[:2])
            except ValueError as error:
                raise ValueError(f"{record['file_name']}: {error}") from error
        return MappedImage(record)

    def _instances(
        self, annotations: list[dict], transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Instances:
        garments = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
        regions = [_region(annotation) for annotation in annotations if annotation.get("iscrowd", 0)]
        if regions and not self.keep_ignored:
            log_first_n(logging.WARNING, _NOT_KEPT, key="message")
            regions = []
        annotations = garments + regions  # Detectron2 sees by the first one whether there are masks
        had_polygons = [len(annotation.get("segmentation", ())) > 0 for annotation in annotations]
        keypoints = self._transform(annotations, transforms, image_size)  # (n, K, 3)
        instances = utils.annotations_to_instances(
            annotations, image_size, mask_format=self.instance_mask_format
        )
        if self.use_keypoint:
            instances.gt_keypoints = Keypoints(keypoints)
        if annotations and "style" in annotations[0]:
            instances.gt_styles = torch.tensor([annotation.get("style", 0) for annotation in annotations])
        if regions:
            instances.gt_ignored = torch.arange(len(annotations)) >= len(garments)
        return self._in_frame(instances, torch.tensor(had_polygons, dtype=torch.bool))

    def _transform(
        self, annotations: list[dict], transforms: T.TransformList, image_size: tuple[int, int]
    ) -> np.ndarray:
        """Transform annotations in place, and take their landmarks out: float32 (n, K, 3)."""
        keypoints = np.zeros((len(annotations), self.schema.num_keypoints, 3), dtype=np.float32)
        for row, annotation in zip(keypoints, annotations, strict=True):
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            local = "keypoints" in annotation
            class_index = annotation["category_id"]
            flip = self.schema.local_flip(class_index) if local else None
            utils.transform_instance_annotations(
                annotation, transforms, image_size, keypoint_hflip_indices=flip
            )
            if local:
                row[:] = self.schema.scatter(annotation.pop("keypoints"), class_index)
        # Detectron2 exchanges left and right for horizontal flips only; a vertical one mirrors no less.
        if sum(isinstance(t, T.VFlipTransform) for t in transforms.transforms) % 2 == 1:
            keypoints = keypoints[:, self.schema.flip_map]
        return keypoints

    def _in_frame(self, instances: Instances, had_polygons: torch.Tensor) -> Instances:
        """Keep instances whose box, and whose polygons where they had any (n,), are still in the frame."""
        if not instances.has("gt_masks"):
            return utils.filter_empty_instances(instances)
        has_mask = instances.gt_masks.nonempty()
        if self.recompute_boxes:
            boxes = instances.gt_masks.get_bounding_boxes().tensor
            instances.gt_boxes.tensor[has_mask] = boxes[has_mask]
        instances = instances[has_mask | ~had_polygons]
        return utils.filter_empty_instances(instances, by_mask=False)


# --- regions to ignore ---

_NOT_KEPT = (
    "annotations with iscrowd are left out, so that the model learns that nothing is there: "
    "MODEL.META_ARCHITECTURE, or MODEL.PROPOSAL_GENERATOR.NAME and MODEL.ROI_HEADS.NAME, name parts that "
    "take no regions to ignore. FashionRetinaNet, FashionRPN and FashionROIHeads do; weights are the same"
)


def _region(annotation: dict) -> dict:
    """Return what is kept of a region to ignore, whose landmarks and masks are of no use."""
    kept = ("bbox", "bbox_mode", "category_id", "style")
    return {name: annotation[name] for name in kept if name in annotation} | {"segmentation": []}


def _model_takes_ignored(cfg: CfgNode) -> bool:
    """Check whether the parts that learn from annotations say that they take regions to ignore."""
    model = cfg.MODEL
    parts = [META_ARCH_REGISTRY.get(model.META_ARCHITECTURE)]
    if issubclass(parts[0], GeneralizedRCNN):
        proposal_generator = PROPOSAL_GENERATOR_REGISTRY.get(model.PROPOSAL_GENERATOR.NAME)
        parts = [proposal_generator, ROI_HEADS_REGISTRY.get(model.ROI_HEADS.NAME)]
    return all(getattr(part, "takes_ignored", False) for part in parts)


# --- mapped images on their way from a worker process ---

_INLINE_BYTES = 2**17  # Larger tensors arrive sooner through shared memory.


class MappedImage(dict):
    """A mapped dataset dict, whose small tensors are pickled inline for another process.

    PyTorch sends every tensor to another process as a file of shared memory, over a connection opened for it.
    For the five of a small image that takes longer than to map it. Here tensors of up to ``_INLINE_BYTES``
    are in the message itself.
    """


class _InlinePickler(ForkingPickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.nbytes <= _INLINE_BYTES:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _reduce_inline(image: MappedImage) -> tuple[Callable[[bytes], dict], tuple[bytes]]:
    message = io.BytesIO()
    _InlinePickler(message, pickle.HIGHEST_PROTOCOL).dump(dict(image))
    return pickle.loads, (message.getvalue(),)


ForkingPickler.register(MappedImage, _reduce_inline)
