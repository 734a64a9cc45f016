"""What KGDet and RepPoints share around their heads, on Detectron2's dense-detector flow."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling.flip_fusion import FlipFusion
from kgdet_d2.modeling.heads.kgdet_head import KGDetHead, PendingStage, PointSetHead, StageOutput
from kgdet_d2.modeling.heads.reppoints_head import RepPointsHead
from kgdet_d2.modeling.losses import KGDetCriterion, PointSetCriterion, RepPointsCriterion
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor


class PointSetDetector(DenseDetector):
    """A detector whose head places points at every cell and makes its boxes of them, in stages.

    Inputs and outputs are Detectron2's: in training a dict of losses; in inference, for every image,
    ``{"instances": Instances(pred_boxes, scores, pred_classes)}`` in the original image's pixels. Where the
    head places landmarks there are ``pred_keypoints`` (n, K, 3) over the slots of all classes, too.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: PointSetHead,
        criterion: PointSetCriterion,
        postprocessor: KGDetPostprocessor,
        pixel_mean: list[float],
        pixel_std: list[float],
    ):
        super().__init__(backbone, head, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.criterion = criterion
        self.postprocessor = postprocessor
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.head_in_features]

    @staticmethod
    def parts(cfg: CfgNode, head: type[PointSetHead], criterion: type[PointSetCriterion]) -> dict[str, Any]:
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
        found = self.forward_inference(images, features, self._predict(images, features))
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

    def _predict(self, images: ImageList, features: list[Tensor]) -> list[StageOutput] | list[PendingStage]:
        """What the head says in inference; only the last counts."""
        inside = self._inside(images, features) if self.head.sparse_cells else None
        return [self.head.last_stage(features, inside)]

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

    def _inside(self, images: ImageList, features: list[Tensor]) -> Tensor:
        """Which cells stand in their image, not in the batch's padding, (N, L)."""
        cells, _ = self._cells(features)
        sizes = cells.new_tensor([(width, height) for height, width in images.image_sizes])
        return (cells < sizes[:, None]).all(dim=-1)

    def _cells(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        return make_locations([tuple(level.shape[-2:]) for level in features], self.strides, self.device)


@META_ARCH_REGISTRY.register()
class KGDet(PointSetDetector):
    """A detector that places landmarks at every cell, makes its boxes of them and looks again where they lie.

    In inference every garment has ``pred_keypoints``.
    """

    @configurable
    def __init__(self, *, flip_fusion: FlipFusion | None = None, **parts: Any):
        """
        Args:
            flip_fusion: None for one pass.
            parts: the arguments of :class:`PointSetDetector`.
        """
        super().__init__(**parts)
        self.flip_fusion = flip_fusion

    @classmethod
    def from_config(cls, cfg):
        flip_fusion = FlipFusion(cfg) if cfg.MODEL.KGDET.FLIP_FUSION.ENABLED else None
        return {**cls.parts(cfg, KGDetHead, KGDetCriterion), "flip_fusion": flip_fusion}

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        predictions = self._flip_fused(images, features, predictions)
        return super().forward_training(images, features, predictions, gt_instances)

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput] | list[PendingStage],
    ) -> list[Instances]:
        predictions = self._flip_fused(images, features, predictions)
        return super().forward_inference(images, features, predictions)

    def _flip_fused(
        self, images: ImageList, features: list[Tensor], predictions: list[StageOutput]
    ) -> list[StageOutput]:
        if self.flip_fusion is None:
            return predictions
        return self.flip_fusion(
            images, features, predictions, strides=self.strides, extract=self._features, head=self.head
        )

    def _predict(self, images: ImageList, features: list[Tensor]) -> list[StageOutput] | list[PendingStage]:
        # Two passes are averaged cell by cell, whichever cells they say to be garments.
        return super()._predict(images, features) if self.flip_fusion is None else self.head(features)


@META_ARCH_REGISTRY.register()
class RepPoints(PointSetDetector):
    """A detector that places points as it likes, makes its boxes of them and looks again where they lie.

    With ``MODEL.REPPOINTS.KEYPOINTS`` it places landmarks, too: RepPoints-Kp.
    """

    @classmethod
    def from_config(cls, cfg):
        return cls.parts(cfg, RepPointsHead, RepPointsCriterion)
