"""KGDet: Keypoint-Guided Fashion Detection (AAAI 2021)."""

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from torch import Tensor

from kgdet_d2.modeling.flip_fusion import FlipFusion
from kgdet_d2.modeling.head import KGDetHead
from kgdet_d2.modeling.losses import KGDetCriterion
from kgdet_d2.modeling.meta_arch.point_detector import PointDetector
from kgdet_d2.modeling.stage_output import PendingStage, StageOutput


@META_ARCH_REGISTRY.register()
class KGDet(PointDetector):
    """A detector that places landmarks at every cell, makes its boxes of them and looks again where they lie.

    In inference every garment has ``pred_keypoints``.
    """

    @configurable
    def __init__(self, *, flip_fusion: FlipFusion | None = None, **parts: Any):
        """
        Args:
            flip_fusion: None for one pass.
            parts: the arguments of :class:`PointDetector`.
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
