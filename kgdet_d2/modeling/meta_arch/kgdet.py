"""KGDet: Keypoint-Guided Fashion Detection (AAAI 2021), on Detectron2's dense-detector flow."""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor

from kgdet_d2.geometry.points import make_cells
from kgdet_d2.modeling.flip_fusion import FlipFusion
from kgdet_d2.modeling.head import KGDetHead, StageOutput
from kgdet_d2.modeling.inference import KGDetPostprocessor
from kgdet_d2.modeling.losses import KGDetCriterion


@META_ARCH_REGISTRY.register()
class KGDet(DenseDetector):
    """A detector that places landmarks at every cell, makes its boxes of them and looks again where they lie.

    Inputs and outputs are Detectron2's: in training a dict of losses; in inference, for every image,
    ``{"instances": Instances(pred_boxes, scores, pred_classes, pred_keypoints)}`` in the original image's
    pixels, ``pred_keypoints`` being (n, K, 3) over the slots of all classes.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: KGDetHead,
        criterion: KGDetCriterion,
        postprocessor: KGDetPostprocessor,
        flip_fusion: FlipFusion | None = None,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__(backbone, head, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.flip_fusion = flip_fusion
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.head_in_features]

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "head": KGDetHead(cfg, backbone.output_shape()),
            "criterion": KGDetCriterion(cfg),
            "postprocessor": KGDetPostprocessor(cfg),
            "flip_fusion": FlipFusion(cfg) if cfg.MODEL.KGDET.FLIP_FUSION.ENABLED else None,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """As Detectron2's dense detectors.

        Raises:
            FloatingPointError: in training, when a loss is not finite; names the losses and the photos.
        """
        outputs = super().forward(batched_inputs)
        # All losses at once: each look at a value makes the host wait for the device.
        if self.training and not torch.stack(list(outputs.values())).isfinite().all():
            bad = {name: loss.item() for name, loss in outputs.items() if not loss.isfinite()}
            photos = [photo.get("file_name", "(no file name)") for photo in batched_inputs]
            raise FloatingPointError(f"losses that are not finite: {bad}, for the photos {photos}")
        return outputs

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses; an image's own padding counts as its background, the batch's is ignored."""
        predictions = self._flip_fused(images, features, predictions)
        cells, strides = self._cells(features)
        unit = max(self.backbone.size_divisibility, 1)
        padded_sizes = [
            (-(-height // unit) * unit, -(-width // unit) * unit) for height, width in images.image_sizes
        ]
        return self.criterion(predictions, cells, strides, padded_sizes, gt_instances)

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[StageOutput]
    ) -> list[Instances]:
        """Detections of the last stage, in pixels of the network's input."""
        predictions = self._flip_fused(images, features, predictions)
        cells, strides = self._cells(features)
        return self.postprocessor(predictions[-1], cells, strides, images.image_sizes)

    def _flip_fused(
        self, images: ImageList, features: list[Tensor], predictions: list[StageOutput]
    ) -> list[StageOutput]:
        if self.flip_fusion is None:
            return predictions
        return self.flip_fusion(
            images, features, predictions, strides=self.strides, extract=self._features, head=self.head
        )

    def _features(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        return [features[name] for name in self.head_in_features]

    def _cells(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return make_cells([tuple(level.shape[-2:]) for level in features], self.strides, self.device)
