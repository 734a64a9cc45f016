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
from kgdet_d2.modeling.backbone.fpn import FINE
from kgdet_d2.modeling.flip_fusion import FlipFusion
from kgdet_d2.modeling.heads.keypoint_refiner import KeypointRefiner
from kgdet_d2.modeling.heads.kgdet_head import KGDetHead, PointSetHead
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.heads.reppoints_head import RepPointsHead
from kgdet_d2.modeling.losses import KGDetCriterion, PointSetCriterion, RepPointsCriterion
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor
from kgdet_d2.modeling.refinement import RefinerCriterion, refine_detections


class PointSetDetector(DenseDetector):
    """A dense detector whose head regresses points at every location, and whose boxes are their moments.

    Inputs and outputs are Detectron2's: in training a dict of losses; in inference, for every image,
    ``{"instances": Instances(pred_boxes, scores, pred_classes)}`` in the original image's pixels. Where the
    head regresses keypoints there are ``pred_keypoints`` (n, K, 3) over the slots of all classes, too.
    """

    takes_ignored = True

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
        shapes = backbone.output_shape()
        levels = [name for name in sorted(shapes, key=lambda name: shapes[name].stride) if name != FINE]
        super().__init__(backbone, head, levels, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.criterion = criterion
        self.postprocessor = postprocessor
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
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if self.training:
            gt_instances = [record["instances"].to(self.device) for record in batched_inputs]
            predictions = self.predict_to_train(images, features, gt_instances)
            return self.forward_training(images, features, predictions, gt_instances)
        results = []
        for instances, record in zip(self.detect(images, features), batched_inputs, strict=True):
            instances = self.postprocessor.suppress_across_classes(instances)
            height = record.get("height", instances.image_size[0])
            width = record.get("width", instances.image_size[1])
            results.append({"instances": detector_postprocess(instances, height, width)})
        return results

    def predict_to_train(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances]
    ) -> list[StageOutput]:
        """Predict with every stage what the losses need."""
        return self.head(self._levels(features))

    def detect(self, images: ImageList, features: dict[str, Tensor]) -> list[Instances]:
        """Detect garments in the backbone's outputs; in pixels of the network's input."""
        return self.inference(images, self._levels(features))

    def extract_features(self, images: Tensor) -> list[Tensor]:
        """Compute the head's feature maps of images (N, 3, H, W), a level each."""
        return self._levels(self.backbone(images))

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
        features: dict[str, Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses; an image's own padding counts as its background, the batch's is ignored."""
        locations = self._locations(self._levels(features))
        return self.criterion(predictions, *locations, self._padded_sizes(images), gt_instances)

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[StageOutput]
    ) -> list[Instances]:
        """Detect with the last of stages computed at all locations, in pixels of the network's input."""
        return self.postprocessor(predictions[-1], *self._locations(features), images.image_sizes)

    def _levels(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.head_in_features]

    def _padded_sizes(self, images: ImageList) -> list[tuple[int, int]]:
        """Return each image's (height, width), rounded up to what the backbone divides."""
        unit = max(self.backbone.size_divisibility, 1)
        return [(-(-height // unit) * unit, -(-width // unit) * unit) for height, width in images.image_sizes]

    def _locations(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        sizes = [(level.shape[-2], level.shape[-1]) for level in features]
        return make_locations(sizes, self.strides, self.device)


@META_ARCH_REGISTRY.register()
class KGDet(PointSetDetector):
    """A detector that regresses keypoints at every location, and samples the feature map at them again.

    In inference every garment has ``pred_keypoints``. With ``MODEL.KGDET.REFINER``, beyond the paper, those
    of the detections are located again on the fine map, see :class:`KeypointRefiner`.
    """

    criterion: KGDetCriterion

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
        refiner: KeypointRefiner | None = None,
        refiner_criterion: RefinerCriterion | None = None,
    ):
        """Build the detector of its parts; ``flip_fusion`` is None for one pass, ``refiner`` for none."""
        super().__init__(
            backbone=backbone,
            head=head,
            criterion=criterion,
            postprocessor=postprocessor,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.flip_fusion = flip_fusion
        self.refiner = refiner
        self.refiner_criterion = refiner_criterion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.KGDET``."""
        parts = super().from_config(cfg)
        shapes = parts["backbone"].output_shape()
        fine_shape = shapes.pop(FINE, None)
        parts["head"] = KGDetHead(cfg, shapes)
        parts["criterion"] = KGDetCriterion(cfg)
        parts["flip_fusion"] = FlipFusion(cfg) if cfg.MODEL.KGDET.FLIP_FUSION.ENABLED else None
        if cfg.MODEL.KGDET.REFINER.ENABLED:
            parts["refiner"] = KeypointRefiner(cfg, fine_shape)
            parts["refiner_criterion"] = RefinerCriterion(cfg)
        return parts

    def predict_to_train(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances]
    ) -> list[StageOutput]:
        """Predict with every stage; with ``SPARSE_TRAINING``, later ones at positives and likely garments."""
        levels = self._levels(features)
        if not self.head.sparse_training:
            return self.head(levels)
        targets = self.criterion.targets(*self._locations(levels), self._padded_sizes(images), gt_instances)
        return self.head(levels, targets.matched_idxs >= 0)

    def detect(self, images: ImageList, features: dict[str, Tensor]) -> list[Instances]:
        """Detect garments, and refine their keypoints; in pixels of the network's input."""
        detections = super().detect(images, features)
        if self.refiner is not None:
            detections = refine_detections(self.refiner, features[FINE], detections)
        return detections

    def inference(self, images: ImageList, features: list[Tensor]) -> list[Instances]:
        """Detect; two passes are averaged at all locations, whichever each of them would select."""
        if self.flip_fusion is None:
            return super().inference(images, features)
        stages = self.fuse_flipped(images, features, self.head(features))
        return self.forward_inference(images, features, stages)

    def forward_training(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        predictions: list[StageOutput],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses (paper, eq. 1), of two passes' mean where they are fused, and the refiner's."""
        levels = self._levels(features)
        stages = self.fuse_flipped(images, levels, predictions)
        locations, strides = self._locations(levels)
        targets = self.criterion.targets(locations, strides, self._padded_sizes(images), gt_instances)
        losses = self.criterion.losses(stages, locations, strides, [targets] * len(stages))
        if self.refiner is not None and self.refiner_criterion is not None:
            losses |= self.refiner_criterion(
                self.refiner, features[FINE], stages[-1], locations, strides, targets
            )
        return losses

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
