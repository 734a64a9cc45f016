"""RetinaNet (Lin et al., ICCV 2017): Detectron2's class, which learns nothing from regions to ignore."""

import torch
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.structures import Boxes, Instances
from torch import Tensor

from kgdet_d2.modeling.ignored import boxes_ignored, leave_out, split_ignored
from kgdet_d2.modeling.normalizer import RunningNormalizer


@META_ARCH_REGISTRY.register()
class FashionRetinaNet(RunningNormalizer, RetinaNet):
    """Detectron2's RetinaNet, for batches with regions to ignore and of many processes; else the same.

    The state dict is Detectron2's.
    """

    takes_ignored = True

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label as Detectron2 does, and with -1 (ignored) the background in regions to ignore."""
        garments, regions = split_ignored(gt_instances)
        labels, boxes = super().label_anchors(anchors, garments)
        all_anchors = Boxes.cat(anchors)
        labels = [
            leave_out(image_labels, boxes_ignored(all_anchors, image_regions), background=self.num_classes)
            for image_labels, image_regions in zip(labels, regions, strict=True)
        ]
        return labels, boxes
