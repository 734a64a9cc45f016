"""Masks, learned from the garments that have polygons."""

import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor


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
