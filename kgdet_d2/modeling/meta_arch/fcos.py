"""FCOS (Tian et al., ICCV 2019): Detectron2's class, made of a config."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch import fcos
from detectron2.structures import Boxes, Instances
from torch import nn

from kgdet_d2.schema import get_schema


class FCOS(fcos.FCOS):
    """Detectron2's FCOS, for batches in which photos without garments may be, too.

    Its losses are ``loss_fcos_cls``, ``loss_fcos_loc`` (GIoU) and ``loss_fcos_ctr`` (centerness). A
    detection's score is the square root of its class's times its centerness. The head is Detectron2's: unlike
    the paper's, it has no factor for each level's boxes.
    """

    @configurable
    def __init__(self, **arguments: Any):
        """
        Args:
            arguments: those of Detectron2's ``FCOS``.
        """
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        shapes = sorted(backbone.output_shape().values(), key=lambda shape: shape.stride)
        own = cfg.MODEL.FCOS
        num_classes = own.NUM_CLASSES or get_schema(cfg.MODEL.KGDET.SCHEMA).num_classes
        head = fcos.FCOSHead(
            input_shape=shapes,
            num_classes=num_classes,
            conv_dims=[shapes[0].channels] * own.NUM_CONVS,
            norm=_group_norm if own.NORM == "GN" else own.NORM,
            prior_prob=own.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "num_classes": num_classes,
            "center_sampling_radius": own.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": own.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": own.FOCAL_LOSS_GAMMA,
            "test_score_thresh": own.SCORE_THRESH_TEST,
            "test_topk_candidates": own.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": own.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """As Detectron2's, which v0.6 cannot do for a photo without garments: all of it is background."""
        return super().label_anchors(anchors, [_with_garments(each) for each in gt_instances])


def _group_norm(channels: int) -> nn.GroupNorm:
    """Detectron2's "GN". Its v0.6 tries it on one channel, too, which PyTorch refuses to divide by 32."""
    return nn.GroupNorm(min(32, channels), channels)


def _with_garments(instances: Instances) -> Instances:
    """Where there are none, one without area: no cell lies in it."""
    if len(instances):
        return instances
    boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
    return Instances(
        instances.image_size, gt_boxes=Boxes(boxes.new_zeros(1, 4)), gt_classes=classes.new_zeros(1)
    )


# A Detectron2 that has an FCOS of its own under this name keeps it; v0.6 has not.
if "FCOS" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(FCOS)
