"""What an R-CNN learns from: anchors and proposals, without those in regions to ignore.

Detectron2 divides the losses of the RPN by a fixed number of anchors an image, the same in all processes, and
those of boxes by the proposals that there are.

R anchors, n proposals of an image.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from kgdet_d2.modeling.ignored import boxes_ignored, leave_out, split_ignored
from kgdet_d2.modeling.normalizer import GLOBAL, share_of_mean


@PROPOSAL_GENERATOR_REGISTRY.register()
class FashionRPN(RPN):
    """Detectron2's RPN, for batches with regions to ignore; else the same, state dict included."""

    takes_ignored = True

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label as Detectron2 does, and sample among the anchors that are not in a region to ignore.

        Returns:
            For each image 1, 0 or -1 (ignored) of the anchors (R,), and the garments' boxes (R, 4).
        """
        garments, regions = split_ignored(gt_instances)
        labels, boxes = super().label_and_sample_anchors(anchors, garments)  # no sample yet, see below
        all_anchors = Boxes.cat(anchors)
        sampled = []
        for image_labels, image_regions in zip(labels, regions, strict=True):
            image_labels = leave_out(image_labels, boxes_ignored(all_anchors, image_regions), background=0)
            sampled.append(super()._subsample_labels(image_labels))
        return sampled, boxes

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Return all labels: Detectron2 would sample before it is known which of them to ignore."""
        return label


@ROI_HEADS_REGISTRY.register()
class FashionROIHeads(StandardROIHeads):
    """Detectron2's heads, for batches with regions to ignore and of many processes; else the same.

    The state dict is Detectron2's.

    Args:
        normalizer_scope: whose proposals the boxes' losses are means over, see
            :mod:`kgdet_d2.modeling.normalizer`.
        detectron2_arguments: those of ``StandardROIHeads``.
    """

    takes_ignored = True

    @configurable
    def __init__(self, *, normalizer_scope: str = GLOBAL, **detectron2_arguments: Any):
        super().__init__(**detectron2_arguments)
        self.normalizer_scope = normalizer_scope

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return Detectron2's arguments, and ``MODEL.LOSS_NORMALIZER``."""
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER}

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """Do as Detectron2, whose losses are means over this process's proposals."""
        outputs = super()._forward_box(features, proposals)
        if not self.training:
            return outputs
        share = share_of_mean(sum(map(len, proposals)), self.normalizer_scope, proposals[0].gt_classes.device)
        return {name: loss * share for name, loss in outputs.items()}

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Label and sample as Detectron2 does, among the proposals that are not in a region to ignore."""
        all_garments, regions = split_ignored(targets)
        kept = [
            self._without_ignored(*of_image)
            for of_image in zip(proposals, all_garments, regions, strict=True)
        ]
        return super().label_and_sample_proposals(kept, all_garments)

    def _without_ignored(self, proposals: Instances, garments: Instances, regions: Boxes) -> Instances:
        """Leave out the n proposals in a region that are no garment's positive."""
        if not len(regions):
            return proposals
        overlaps = pairwise_iou(garments.gt_boxes, proposals.proposal_boxes)
        labels = self.proposal_matcher(overlaps)[1]  # (n,), 0 for background
        in_region = boxes_ignored(proposals.proposal_boxes, regions)
        return proposals[~(in_region & (labels == 0))]
