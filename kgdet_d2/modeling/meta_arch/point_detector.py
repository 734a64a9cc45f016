"""What KGDet and RepPoints share around their heads, on Detectron2's dense-detector flow."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone, build_backbone
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor

from kgdet_d2.geometry.points import make_cells
from kgdet_d2.modeling.inference import KGDetPostprocessor
from kgdet_d2.modeling.losses import PointCriterion
from kgdet_d2.modeling.point_head import PointHead
from kgdet_d2.modeling.stage_output import PendingStage, StageOutput


class PointDetector(DenseDetector):
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
        return make_cells([tuple(level.shape[-2:]) for level in features], self.strides, self.device)
