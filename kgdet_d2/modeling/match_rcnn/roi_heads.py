"""Heads of Match R-CNN: keypoint heat maps of each garment's own class, masks where there are outlines.

N garments, K keypoints of all classes, K_c of one class, P labelled keypoints, heat maps of S x S.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances, heatmaps_to_keypoints
from torch import Tensor

from kgdet_d2.geometry.points import to_float32
from kgdet_d2.modeling.normalizer import GLOBAL, normalizers, share_of_mean
from kgdet_d2.utils.catalog import schema_of_config


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class GarmentKeypointHead(KRCNNConvDeconvUpsampleHead):
    """Detectron2's head of Keypoint R-CNN with the keypoints of many classes.

    Layers, state dict, loss and decoded places are Detectron2's. But of the K maps only those that are used
    are upsampled and decoded: labelled keypoints in training, the predicted class's in inference.

    Args:
        input_shape: of the pooled features.
        slots: per class, the maps of its keypoints.
        num_keypoints: K.
        conv_dims: output channels of each convolution.
        loss_weight: factor of the loss.
        loss_normalizer: "visible" divides the loss by P; a number, by itself times the images.
        normalizer_scope: whose P, see :mod:`kgdet_d2.modeling.normalizer`.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        slots: Sequence[Sequence[int]],
        num_keypoints: int,
        conv_dims: list[int],
        loss_weight: float = 1.0,
        loss_normalizer: float | str = 1.0,
        normalizer_scope: str = GLOBAL,
    ):
        super().__init__(
            input_shape,
            num_keypoints=num_keypoints,
            conv_dims=conv_dims,
            loss_weight=loss_weight,
            loss_normalizer=loss_normalizer,
        )
        self.slots = [list(class_slots) for class_slots in slots]
        self.normalizer_scope = normalizer_scope

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return Detectron2's arguments, and what ``KGDET.SCHEMA`` and ``LOSS_NORMALIZER`` of MODEL say."""
        arguments = super().from_config(cfg, input_shape)
        slots, scope = schema_of_config(cfg).slots, cfg.MODEL.LOSS_NORMALIZER
        return {**arguments, "slots": slots, "normalizer_scope": scope}

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Compute the loss or, in inference, give the instances their keypoints.

        Args:
            x: pooled features (N, C, H, W) of the instances.
            instances: of each image; in training with proposal_boxes and gt_keypoints, in inference with
                pred_boxes and pred_classes.

        Returns:
            In training ``loss_keypoint``. In inference the same instances, with ``pred_keypoints`` (n, K, 3):
            x and y in the boxes' frame, continuous pixels, and the keypoint's score; zeros in other classes'
            slots.
        """
        for layer in self:
            x = layer(x)
        if self.training:
            return {"loss_keypoint": self._loss(x, instances) * self.loss_weight}
        boxes = cat([garments.pred_boxes.tensor for garments in instances])
        classes = cat([garments.pred_classes for garments in instances])
        keypoints = self._decode(x, boxes, classes).split([len(garments) for garments in instances])
        for garments, image_keypoints in zip(instances, keypoints, strict=True):
            garments.pred_keypoints = image_keypoints
        return instances

    def _loss(self, maps: Tensor, instances: list[Instances]) -> Tensor:
        """Compute cross-entropy over the S x S pixels of each labelled keypoint inside its proposal."""
        side = int(self.up_scale * maps.shape[-1])
        # Images may all be without garments.
        target_pixels = [maps.new_zeros(0, self.num_keypoints, dtype=torch.long)]
        target_inside = [maps.new_zeros(0, self.num_keypoints, dtype=torch.bool)]
        for garments in instances:
            if len(garments):  # images without garments have no gt_keypoints
                pixels, inside = garments.gt_keypoints.to_heatmap(garments.proposal_boxes.tensor, side)
                target_pixels.append(pixels)
                target_inside.append(inside)
        pixels, inside = torch.cat(target_pixels), torch.cat(target_inside)  # (N, K) both
        labelled = inside.nonzero(as_tuple=True)  # rows and slots, (P,) both
        logits = self._upsample(maps[labelled][:, None]).flatten(1)  # (P, S * S)
        loss = F.cross_entropy(to_float32(logits), pixels[labelled], reduction="sum")
        if self.loss_normalizer == "visible":
            return loss / normalizers([len(logits)], self.normalizer_scope, loss.device)[0]
        return loss / (self.loss_normalizer * len(instances))

    def _decode(self, maps: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
        """Decode maps (N, K, H, W) in boxes (N, 4), of the classes (N,) alone -> (N, K, 3)."""
        keypoints = boxes.new_zeros(len(boxes), self.num_keypoints, 3)
        for index in classes.unique().tolist():
            rows = (classes == index).nonzero()  # (N_c, 1)
            class_maps = self._upsample(maps[rows, self.slots[index]])  # (N_c, K_c, S, S)
            decoded = heatmaps_to_keypoints(to_float32(class_maps), boxes[rows[:, 0]])  # x, y, logit, score
            keypoints[rows, self.slots[index]] = decoded[..., [0, 1, 3]]
        return keypoints

    def _upsample(self, maps: Tensor) -> Tensor:
        """Upsample maps of H x W to S x S."""
        return F.interpolate(maps, scale_factor=self.up_scale, mode="bilinear", align_corners=False)


@ROI_MASK_HEAD_REGISTRY.register()
class GarmentMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, without a loss for garments that have no polygons: they were not outlined.

    Args:
        input_shape: of the pooled features.
        normalizer_scope: whose masks the loss is a mean over, see :mod:`kgdet_d2.modeling.normalizer`.
        detectron2_arguments: those of ``MaskRCNNConvUpsampleHead``.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, normalizer_scope: str = GLOBAL, **detectron2_arguments: Any
    ):
        super().__init__(input_shape, **detectron2_arguments)
        self.normalizer_scope = normalizer_scope

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return Detectron2's arguments, and ``MODEL.LOSS_NORMALIZER``."""
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER}

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """Compute the loss or, in inference, give the instances their masks, as Detectron2's head does.

        Args:
            x: pooled features (N, C, H, W).
            instances: of each image; in training with proposal_boxes, gt_classes and gt_masks, in inference
                with pred_classes.

        Returns:
            In training ``loss_mask``. In inference the same instances, with ``pred_masks`` (n, 1, S, S),
            probabilities.
        """
        if not self.training:
            return super().forward(x, instances)
        outlined = [_has_outline(garments).to(x.device) for garments in instances]
        instances = [garments[rows] for garments, rows in zip(instances, outlined, strict=True)]
        x = x[torch.cat(outlined)]
        share = share_of_mean(len(x), self.normalizer_scope, x.device)
        return {name: loss * share for name, loss in super().forward(x, instances).items()}


def _has_outline(garments: Instances) -> Tensor:
    """Check which garments have a mask, bool (n,). Images without garments have no gt_masks."""
    return garments.gt_masks.nonempty() if len(garments) else torch.zeros(0, dtype=torch.bool)
