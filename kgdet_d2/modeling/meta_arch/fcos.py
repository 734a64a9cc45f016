"""FCOS (Tian et al., ICCV 2019): Detectron2's class, built from a config."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.meta_arch import fcos
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from kgdet_d2.modeling.ignored import leave_out, locations_ignored, split_ignored
from kgdet_d2.modeling.normalizer import GLOBAL, RunningNormalizer
from kgdet_d2.utils.catalog import schema_of_config

# The focal loss of this logit and its gradient are 0 where there is no garment.
_CERTAINLY_NONE = -1e4


class FCOS(RunningNormalizer, fcos.FCOS):
    """Detectron2's FCOS, for batches that may hold images without garments and regions to ignore.

    Its losses are ``loss_fcos_cls``, ``loss_fcos_loc`` (GIoU) and ``loss_fcos_ctr`` (centerness). A
    detection's score is the square root of its class's times its centerness. The head is Detectron2's: unlike
    the paper's, it has no factor for each level's boxes.

    Args:
        backbone: with the pyramid's levels.
        head: predicts logits, boxes and centerness of every location.
        num_classes: C, without background.
        center_sampling_radius: in strides; a location in a garment is positive if it lies less than this from
            its centre, in x and in y.
        focal_loss_alpha, focal_loss_gamma: of the focal loss of classes.
        test_score_thresh: detections score above it.
        test_topk_candidates: detections of each level before suppression, at most.
        test_nms_thresh: IoU above which, within a class, the lower score goes.
        max_detections_per_image: after suppression.
        pixel_mean, pixel_std: of each channel.
        normalizer_scope: whose positives the losses are divided by, see :mod:`kgdet_d2.modeling.normalizer`.
    """

    takes_ignored = True

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        num_classes: int,
        center_sampling_radius: float,
        focal_loss_alpha: float,
        focal_loss_gamma: float,
        test_score_thresh: float,
        test_topk_candidates: int,
        test_nms_thresh: float,
        max_detections_per_image: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        normalizer_scope: str = GLOBAL,
    ):
        super().__init__(
            backbone=backbone,
            head=head,
            num_classes=num_classes,
            center_sampling_radius=center_sampling_radius,
            focal_loss_alpha=focal_loss_alpha,
            focal_loss_gamma=focal_loss_gamma,
            test_score_thresh=test_score_thresh,
            test_topk_candidates=test_topk_candidates,
            test_nms_thresh=test_nms_thresh,
            max_detections_per_image=max_detections_per_image,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            normalizer_scope=normalizer_scope,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor's arguments from ``MODEL.FCOS``."""
        backbone = build_backbone(cfg)
        shapes = sorted(backbone.output_shape().values(), key=lambda shape: shape.stride)
        keys, num_classes = cfg.MODEL.FCOS, schema_of_config(cfg).num_classes
        head = fcos.FCOSHead(
            input_shape=shapes,
            num_classes=num_classes,
            conv_dims=[shapes[0].channels] * keys.NUM_CONVS,
            norm=_group_norm if keys.NORM == "GN" else keys.NORM,
            prior_prob=keys.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "num_classes": num_classes,
            "center_sampling_radius": keys.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": keys.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": keys.FOCAL_LOSS_GAMMA,
            "test_score_thresh": keys.SCORE_THRESH_TEST,
            "test_topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": keys.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER,
        }

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label as Detectron2 does, and with -1 the locations in regions to ignore.

        v0.6 fails on an image without garments: all of it is background.
        """
        all_garments, regions = split_ignored(gt_instances)
        labels, boxes = super().label_anchors(anchors, list(map(_with_garments, all_garments)))
        locations = Boxes.cat(anchors).get_centers()
        labels = [
            leave_out(image_labels, locations_ignored(locations, image_regions), background=self.num_classes)
            for image_labels, image_regions in zip(labels, regions, strict=True)
        ]
        return labels, boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Any],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute Detectron2's losses, to which locations with the label -1 add nothing."""
        ignored = torch.stack(gt_labels) < 0  # (N, L)
        if ignored.any():
            per_level = ignored[..., None].split([len(level) for level in anchors], dim=1)
            pred_logits = [
                logits.masked_fill(level, _CERTAINLY_NONE)
                for logits, level in zip(pred_logits, per_level, strict=True)
            ]
            gt_labels = [labels.where(labels >= 0, self.num_classes) for labels in gt_labels]
        return super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, pred_centerness)


def _group_norm(channels: int) -> nn.GroupNorm:
    """Build Detectron2's "GN". Its v0.6 tries it on one channel, too, which PyTorch cannot divide by 32."""
    return nn.GroupNorm(min(32, channels), channels)


def _with_garments(instances: Instances) -> Instances:
    """Return the garments or, where there are none, one without area, in which no location lies."""
    if len(instances):
        return instances
    boxes, classes = instances.gt_boxes.tensor, instances.gt_classes
    return Instances(
        instances.image_size, gt_boxes=Boxes(boxes.new_zeros(1, 4)), gt_classes=classes.new_zeros(1)
    )


# A Detectron2 that has an FCOS of its own under this name keeps it; v0.6 has not.
if "FCOS" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(FCOS)
