"""What KGDet and RepPoints share around their heads, on Detectron2's dense-detector flow."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from kgdet_d2.geometry.points import make_cells
from kgdet_d2.modeling.inference import KGDetPostprocessor
from kgdet_d2.modeling.losses import PointCriterion
from kgdet_d2.modeling.point_head import PendingStage, PointHead, StageOutput


class PointDetector(DenseDetector):
    """A detector whose head places points at every cell and makes its boxes of them, in stages.

    Inputs and outputs are Detectron2's: in training a dict of losses; in inference, for every image,
    ``{"instances": Instances(pred_boxes, scores, pred_classes)}`` in the original image's pixels. Where the
    head places landmarks there are ``pred_keypoints`` (n, K, 3) over the slots of all classes, too.
    A loss that is not finite raises FloatingPointError, see :func:`check_losses`.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: PointHead,
        criterion: PointCriterion,
        postprocessor: KGDetPostprocessor,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__(backbone, head, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.criterion = criterion
        self.postprocessor = postprocessor
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.head_in_features]
        self.register_forward_hook(check_losses)

    @staticmethod
    def parts(cfg: CfgNode, head: type[PointHead], criterion: type[PointCriterion]) -> dict[str, Any]:
        """The constructor's arguments with a head and a criterion of these classes."""
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": head(cfg, backbone.output_shape()),
            "criterion": criterion(cfg),
            "postprocessor": KGDetPostprocessor(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """As Detectron2's dense detectors, but for asking the head in inference for no more than is used."""
        if self.training:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self._features(images.tensor)
        found = self.forward_inference(images, features, self._predict(features))
        sizes = [
            (photo.get("height", height), photo.get("width", width))
            for photo, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        return [
            {"instances": detector_postprocess(instances, *size)}
            for instances, size in zip(found, sizes, strict=True)
        ]

    def _features(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        return [features[name] for name in self.head_in_features]

    def _predict(self, features: list[Tensor]) -> list[StageOutput] | list[PendingStage]:
        """What the head says in inference; only the last counts."""
        return [self.head.last_stage(features)]

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses; an image's own padding counts as its background, the batch's is ignored."""
        unit = max(self.backbone.size_divisibility, 1)
        padded_sizes = [
            (-(-height // unit) * unit, -(-width // unit) * unit) for height, width in images.image_sizes
        ]
        return self.criterion(predictions, *self._cells(features), padded_sizes, gt_instances)

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput] | list[PendingStage],
    ) -> list[Instances]:
        """Detections of the last stage, in pixels of the network's input."""
        return self.postprocessor(predictions[-1], *self._cells(features), images.image_sizes)

    def _cells(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return make_cells([tuple(level.shape[-2:]) for level in features], self.strides, self.device)


def check_losses(model: nn.Module, inputs: tuple[list[dict]], losses: dict[str, Tensor]) -> None:
    """Stop a training whose losses are not finite: a forward hook for any of Detectron2's models.

    Raises:
        FloatingPointError: in training; names those losses and the photos.
    """
    if not model.training:
        return
    # All losses at once: each look at a value makes the host wait for the device.
    if not torch.stack(list(losses.values())).isfinite().all():
        bad = {name: loss.item() for name, loss in losses.items() if not loss.isfinite()}
        photos = [photo.get("file_name", "(no file name)") for photo in inputs[0]]
        raise FloatingPointError(f"losses that are not finite: {bad}, for the photos {photos}")
