"""KGDet: Keypoint-Guided Fashion Detection (AAAI 2021); and RepPoints (Yang et al., ICCV 2019) on its flow.

N images, L locations of all levels.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling.flip_fusion import FlipFusion
from kgdet_d2.modeling.heads.kgdet_head import KGDetHead, PointSetHead
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.heads.reppoints_head import RepPointsHead
from kgdet_d2.modeling.losses import KGDetCriterion, PointSetCriterion, RepPointsCriterion
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor


class PointSetDetector(DenseDetector):
    """A dense detector whose head regresses points at every location, and whose boxes are their moments.

    Inputs and outputs are Detectron2's: in training a dict of losses; in inference, for every image,
    ``{"instances": Instances(pred_boxes, scores, pred_classes)}`` in the original image's pixels. Where the
    head regresses keypoints there are ``pred_keypoints`` (n, K, 3) over the slots of all classes, too.
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

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build what all detectors of this kind have in common."""
        return {
            "backbone": build_backbone(cfg),
            "postprocessor": KGDetPostprocessor(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Run Detectron2's flow; in inference the head regresses only at locations that can be garments."""
        if self.training:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        instances = self.inference(images, [features[name] for name in self.head_in_features])
        results = []
        for image_instances, record, image_size in zip(
            instances, batched_inputs, images.image_sizes, strict=True
        ):
            height, width = record.get("height", image_size[0]), record.get("width", image_size[1])
            results.append({"instances": detector_postprocess(image_instances, height, width)})
        return results

    def extract_features(self, images: Tensor) -> list[Tensor]:
        """Compute the head's feature maps of images (N, 3, H, W), a level each."""
        features = self.backbone(images)
        return [features[name] for name in self.head_in_features]

    def inference(self, images: ImageList, features: list[Tensor]) -> list[Instances]:
        """Score all locations, select the best, regress there, suppress; in pixels of the network's input."""
        locations, strides = self._locations(features)
        inside = None
        if self.head.sparse_cells:  # what lies in the batch's padding comes last
            sizes = locations.new_tensor([(width, height) for height, width in images.image_sizes])
            inside = (locations < sizes[:, None]).all(dim=-1)  # (N, L)
        predictions = self.head.predict(features, self.postprocessor.select_locations, inside)
        return self.postprocessor.detect(predictions, locations, strides, images.image_sizes)

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses; an image's own padding counts as its background, the batch's is ignored."""
        unit = max(self.backbone.size_divisibility, 1)
        padded_sizes = []
        for height, width in images.image_sizes:
            padded_sizes.append((-(-height // unit) * unit, -(-width // unit) * unit))  # rounded up
        return self.criterion(predictions, *self._locations(features), padded_sizes, gt_instances)

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[StageOutput]
    ) -> list[Instances]:
        """Detect with the last of stages computed at all locations, in pixels of the network's input."""
        return self.postprocessor(predictions[-1], *self._locations(features), images.image_sizes)

    def _locations(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        sizes = [(level.shape[-2], level.shape[-1]) for level in features]
        return make_locations(sizes, self.strides, self.device)


@META_ARCH_REGISTRY.register()
class KGDet(PointSetDetector):
    """A detector that regresses keypoints at every location, and samples the feature map at them again.

    In inference every garment has ``pred_keypoints``.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: KGDetHead,
        criterion: KGDetCriterion,
        postprocessor: KGDetPostprocessor,
        pixel_mean: list[float],
        pixel_std: list[float],
        flip_fusion: FlipFusion | None = None,
    ):
        """Build the detector of its parts; ``flip_fusion`` is None for one pass."""
        super().__init__(
            backbone=backbone,
            head=head,
            criterion=criterion,
            postprocessor=postprocessor,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.flip_fusion = flip_fusion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.KGDET``."""
        parts = super().from_config(cfg)
        parts["head"] = KGDetHead(cfg, parts["backbone"].output_shape())
        parts["criterion"] = KGDetCriterion(cfg)
        parts["flip_fusion"] = FlipFusion(cfg) if cfg.MODEL.KGDET.FLIP_FUSION.ENABLED else None
        return parts

    def inference(self, images: ImageList, features: list[Tensor]) -> list[Instances]:
        """Detect; two passes are averaged at all locations, whichever each of them would select."""
        if self.flip_fusion is None:
            return super().inference(images, features)
        stages = self.fuse_flipped(images, features, self.head(features))
        return self.forward_inference(images, features, stages)

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses (paper, eq. 1), of two passes' mean where they are fused in training."""
        stages = self.fuse_flipped(images, features, predictions)
        return super().forward_training(images, features, stages, gt_instances)

    def fuse_flipped(
        self, images: ImageList, features: list[Tensor], stages: list[StageOutput]
    ) -> list[StageOutput]:
        """Average the stages with those of the mirrored images, as far as flip fusion is wanted."""
        if self.flip_fusion is None:
            return stages
        return self.flip_fusion(
            images, features, stages, strides=self.strides, extract=self.extract_features, head=self.head
        )


@META_ARCH_REGISTRY.register()
class RepPoints(PointSetDetector):
    """RepPoints, and the paper's RepPoints-Kp (paper, "Baselines").

    Points are supervised by the boxes alone. With ``MODEL.REPPOINTS.KEYPOINTS`` there are keypoints, too:
    RepPoints-Kp.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.KGDET`` and ``MODEL.REPPOINTS``."""
        parts = super().from_config(cfg)
        parts["head"] = RepPointsHead(cfg, parts["backbone"].output_shape())
        parts["criterion"] = RepPointsCriterion(cfg)
        return parts
