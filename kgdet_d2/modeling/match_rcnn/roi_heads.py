"""Landmarks by heat maps, of each garment's own class alone.

N garments, K landmarks of all classes, K_c of one class, P labelled landmarks, maps of S x S cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances, heatmaps_to_keypoints
from torch import Tensor

from kgdet_d2.geometry.points import to_float32
from kgdet_d2.schema import get_schema


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class GarmentKeypointHead(KRCNNConvDeconvUpsampleHead):
    """Detectron2's head of Keypoint R-CNN with the landmarks of many classes.

    Layers, state dict, loss and decoded places are Detectron2's. But of the K maps only those that somebody
    asks for are upsampled, and decoded: labelled landmarks in training, the predicted class's in inference.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, slots: Sequence[Sequence[int]], **detectron2_arguments):
        """
        Args:
            input_shape: of the pooled features.
            slots: per class, the maps of its landmarks.
            detectron2_arguments: those of Detectron2's head.
        """
        super().__init__(input_shape, **detectron2_arguments)
        self.slots = [list(own) for own in slots]

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return Detectron2's arguments, and the slots of ``MODEL.KGDET.SCHEMA``."""
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "slots": get_schema(cfg.MODEL.KGDET.SCHEMA).slots}

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Pooled features (N, C, H, W) of the instances -> the loss or, in inference, the same instances.

        Args:
            x: features.
            instances: of each image; in training with proposal_boxes and gt_keypoints, in inference with
                pred_boxes and pred_classes. These get ``pred_keypoints`` (n, K, 3): x and y in the boxes'
                frame, continuous pixels, and the landmark's score; zeros in other classes' slots.
        """
        for layer in self:
            x = layer(x)
        if self.training:
            return {"loss_keypoint": self._loss(x, instances) * self.loss_weight}
        boxes = cat([garments.pred_boxes.tensor for garments in instances])
        keypoints = self._decode(x, boxes, cat([garments.pred_classes for garments in instances]))
        for garments, own in zip(instances, keypoints.split([len(g) for g in instances]), strict=True):
            garments.pred_keypoints = own
        return instances

    def _loss(self, maps: Tensor, instances: list[Instances]) -> Tensor:
        """Cross-entropy over the S x S cells of each labelled landmark inside its proposal."""
        side = int(self.up_scale * maps.shape[-1])
        targets = [
            garments.gt_keypoints.to_heatmap(garments.proposal_boxes.tensor, side)
            for garments in instances
            if len(garments)  # photos without garments have no gt_keypoints
        ]
        if not targets:
            return maps.sum() * 0
        cells, inside = (torch.cat(parts) for parts in zip(*targets, strict=True))  # (N, K) both
        labelled = inside.nonzero(as_tuple=True)  # rows and slots, (P,) both
        logits = self._upsampled(maps[labelled][:, None]).flatten(1)  # (P, S * S)
        loss = F.cross_entropy(to_float32(logits), cells[labelled], reduction="sum")
        if self.loss_normalizer == "visible":
            return loss / max(len(logits), 1)
        return loss / (self.loss_normalizer * len(instances))

    def _decode(self, maps: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
        """(N, K, H, W), (N, 4), (N,) -> (N, K, 3)."""
        keypoints = boxes.new_zeros(len(boxes), self.num_keypoints, 3)
        for index in classes.unique().tolist():
            rows = (classes == index).nonzero()
            own = self._upsampled(maps[rows, self.slots[index]])  # (N_c, K_c, S, S)
            x_y_logit_score = heatmaps_to_keypoints(to_float32(own), boxes[rows[:, 0]])
            keypoints[rows, self.slots[index]] = x_y_logit_score[..., [0, 1, 3]]
        return keypoints

    def _upsampled(self, maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=self.up_scale, mode="bilinear", align_corners=False)


@ROI_MASK_HEAD_REGISTRY.register()
class GarmentMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head; a garment without polygons was not outlined, and teaches no empty mask."""

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """As Detectron2's.

        Args:
            x: pooled features (N, C, H, W).
            instances: of each image; in training with proposal_boxes, gt_classes and gt_masks, in inference
                with pred_classes. These get ``pred_masks`` (n, 1, S, S), probabilities.
        """
        if self.training:
            outlined = [_outlined(garments).to(x.device) for garments in instances]
            instances = [garments[has] for garments, has in zip(instances, outlined, strict=True)]
            x = x[torch.cat(outlined)]
        return super().forward(x, instances)


def _outlined(garments: Instances) -> Tensor:
    """bool (n,), which have a mask. Photos without garments have no gt_masks."""
    return garments.gt_masks.nonempty() if len(garments) else torch.zeros(0, dtype=torch.bool)
