"""Training objectives of KGDet (paper, eq. 1) and of RepPoints.

N images, L locations of all levels, M positive locations of the batch, C classes, K keypoints.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import cat
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from fvcore.nn import sigmoid_focal_loss, smooth_l1_loss
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from kgdet_d2.geometry.points import boxes_to_pixels, offsets_to_points, to_float32
from kgdet_d2.modeling.assigners import BACKGROUND, IGNORED, assign_by_center, assign_by_iou
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.ignored import leave_out, locations_ignored, split_ignored
from kgdet_d2.modeling.normalizer import GLOBAL, normalizers, sum_over_processes


@dataclass
class Targets:
    """Targets of a stage at the locations of a batch.

    Attributes:
        matched_idxs: (N, L) index of the location's garment among its image's, BACKGROUND or IGNORED.
        classes: (M,) of the positive locations, in the order of ``matched_idxs >= 0``.
        boxes: (M, 4) x1, y1, x2, y2 in pixels.
        keypoints: (M, K, 3) x, y in pixels and visibility; None where keypoints are not learned.
        normalizer: number of positives, at least one an image; of this process.
    """

    matched_idxs: Tensor
    classes: Tensor
    boxes: Tensor
    keypoints: Tensor | None
    normalizer: int


class PointSetCriterion:
    """Losses of stages that predict points, given the targets of each stage.

    Subclasses compute the targets in ``stage_targets``.

    Args:
        num_positives: k of the assignment of locations.
        stage_weights: factor of every stage's losses.
        cls_weight, box_weight, keypoint_weight: 1, lambda_2 and lambda_1 of eq. 1.
        keypoint_weighting: "per_garment" gives every garment the weight of one box, 4 coordinates, by
            4 / (2 x its labelled keypoints), as the release does; "per_landmark" sums over its labelled
            keypoints, as the paper does.
        visibility_weight: of the keypoints' visibility, where stages predict it (keypoint selection).
        focal_alpha, focal_gamma: of the focal loss of classes and of visibility.
        smooth_l1_beta: where smooth L1 becomes linear, in units of 4 strides.
        cls_loss: "focal", or "quality": see :func:`quality_focal_loss`, its target the IoU of the location's
            own box with its garment's, its exponent ``focal_gamma``.
        box_loss: "smooth_l1" or "giou".
        normalizer_scope: whose positives the losses are divided by, see :mod:`kgdet_d2.modeling.normalizer`.
    """

    @configurable
    def __init__(
        self,
        *,
        num_positives: int,
        stage_weights: list[float],
        cls_weight: float,
        box_weight: float,
        keypoint_weight: float,
        keypoint_weighting: str,
        visibility_weight: float,
        focal_alpha: float,
        focal_gamma: float,
        smooth_l1_beta: float,
        cls_loss: str = "focal",
        box_loss: str = "smooth_l1",
        normalizer_scope: str = GLOBAL,
    ):
        self.num_positives = num_positives
        self.stage_weights = stage_weights
        self.weights = {
            "cls": cls_weight,
            "box": box_weight,
            "keypoint": keypoint_weight,
            "visibility": visibility_weight,
        }
        self.keypoint_weighting = keypoint_weighting
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.cls_loss = cls_loss
        self.box_loss = box_loss
        self.normalizer_scope = normalizer_scope

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from ``MODEL.KGDET``."""
        loss = cfg.MODEL.KGDET.LOSS
        return {
            "num_positives": cfg.MODEL.KGDET.NUM_POSITIVES,
            "stage_weights": loss.STAGE_WEIGHTS,
            "cls_weight": loss.CLS_WEIGHT,
            "box_weight": loss.BOX_WEIGHT,
            "keypoint_weight": loss.KEYPOINT_WEIGHT,
            "keypoint_weighting": loss.KEYPOINT_WEIGHTING,
            "visibility_weight": loss.VISIBILITY_WEIGHT,
            "focal_alpha": loss.FOCAL_ALPHA,
            "focal_gamma": loss.FOCAL_GAMMA,
            "smooth_l1_beta": loss.SMOOTH_L1_BETA,
            "cls_loss": loss.CLS_LOSS,
            "box_loss": loss.BOX_LOSS,
            "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER,
        }

    def __call__(
        self,
        stages: list[StageOutput],
        locations: Tensor,
        strides: Tensor,
        padded_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses of every stage.

        Args:
            stages: the head's outputs.
            locations: (L, 2) x, y in pixels, see :func:`make_locations`.
            strides: (L,) pixels.
            padded_sizes: each image's (height, width) after its own padding; locations beyond are ignored.
            gt_instances: with gt_boxes, gt_classes and, where the head predicts keypoints, gt_keypoints
                (n, K, 3); garments may be none. Those with gt_ignored are regions to ignore.

        Returns:
            ``loss_cls_t``, ``loss_box_t``, ``loss_keypoint_t``, ``loss_visibility_t`` for t = 1..T, scalars,
            as far as the stage predicts classes, keypoints and their visibility.
        """
        stage_targets = self.stage_targets(stages, locations, strides, padded_sizes, gt_instances)
        return self.losses(stages, locations, strides, stage_targets)

    def losses(
        self, stages: list[StageOutput], locations: Tensor, strides: Tensor, stage_targets: list[Targets]
    ) -> dict[str, Tensor]:
        """Compute the losses of every stage, given its targets; else as the call."""
        losses = {}
        counts = [targets.normalizer for targets in stage_targets]
        divisors = normalizers(counts, self.normalizer_scope, locations.device)
        per_stage = zip(stages, self.stage_weights, stage_targets, divisors, strict=True)
        for number, (stage, stage_weight, targets, divisor) in enumerate(per_stage, start=1):
            for name, loss in self._stage_losses(stage, locations, strides, targets).items():
                factor = stage_weight * self.weights[name] / divisor
                losses[f"loss_{name}_{number}"] = loss * factor
        return losses

    def stage_targets(
        self,
        stages: list[StageOutput],
        locations: Tensor,
        strides: Tensor,
        padded_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> list[Targets]:
        """Compute the targets of each stage; arguments as for the call."""
        raise NotImplementedError

    def _stage_losses(
        self, stage: StageOutput, locations: Tensor, strides: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Compute sums over the batch, not yet weighted."""
        image, location_id = (targets.matched_idxs >= 0).nonzero(as_tuple=True)  # (M,) both
        centres, stride = locations[location_id], strides[location_id]  # (M, 2) and (M,) pixels
        unit = 4 * stride
        boxes = flatten_levels(stage.boxes)[image, location_id]  # (M, 4) in strides
        boxes = boxes_to_pixels(boxes, centres, stride)
        losses = {}
        if stage.logits is not None:
            logits = to_float32(flatten_levels(stage.logits))
            losses["cls"] = self._cls_loss(logits, targets, boxes.detach())
        if self.box_loss == "giou":
            losses["box"] = generalized_box_iou_loss(boxes, targets.boxes, reduction="sum")
        else:
            losses["box"] = self._smooth_l1(boxes, targets.boxes, unit[:, None]).sum()
        if stage.keypoints is not None:
            offsets = to_float32(flatten_levels(stage.keypoints)[image, location_id])  # (M, 2K)
            points = offsets_to_points(offsets, centres, stride)  # (M, K, 2)
            losses["keypoint"] = self._keypoint_loss(points, cast(Tensor, targets.keypoints), unit)
        if stage.visibility is not None:
            visibility = to_float32(flatten_levels(stage.visibility)[image, location_id])  # (M, K)
            losses["visibility"] = self._visibility_loss(visibility, cast(Tensor, targets.keypoints))
        return losses

    def _cls_loss(self, logits: Tensor, targets: Targets, boxes: Tensor | None = None) -> Tensor:
        """Compute the loss over all locations (N, L, C) that are not ignored.

        Args:
            logits: (N, L, C).
            targets: of the stage.
            boxes: (M, 4) of the positive locations in pixels, for scores that mean quality.
        """
        one_hot = F.one_hot(targets.classes, logits.shape[-1]).to(logits)  # (M, C)
        if self.cls_loss == "quality" and boxes is not None:
            iou = matched_pairwise_iou(Boxes(boxes), Boxes(targets.boxes))
            # A garment is worth finding before its box is any good.
            one_hot = one_hot * iou.clamp(min=0.05)[:, None]
        scores = torch.zeros_like(logits)
        scores[targets.matched_idxs >= 0] = one_hot
        considered = targets.matched_idxs != IGNORED  # (N, L)
        logits, scores = logits[considered], scores[considered]
        if self.cls_loss == "quality":
            return quality_focal_loss(logits, scores, self.focal_gamma).sum()
        return self._focal(logits, scores).sum()

    def _keypoint_loss(self, points: Tensor, keypoints: Tensor, unit: Tensor) -> Tensor:
        """Compute smooth L1 of the labelled keypoints, visible or occluded.

        Args:
            points: (M, K, 2) predicted x, y in pixels.
            keypoints: (M, K, 3) targets.
            unit: (M,) pixels.
        """
        weights = (keypoints[..., 2] > 0).to(points)  # (M, K)
        if self.keypoint_weighting == "per_garment":
            weights = weights * 4 / (2 * weights.sum(dim=1, keepdim=True)).clamp(min=1)
        per_keypoint = self._smooth_l1(points, keypoints[..., :2], unit[:, None, None]).sum(dim=2)  # (M, K)
        return (per_keypoint * weights).sum()

    def _visibility_loss(self, logits: Tensor, keypoints: Tensor) -> Tensor:
        """Compute the focal loss of labelled keypoints, visible or occluded, against all other slots.

        All slots weigh the same; in all, a garment weighs as much as a class does: the sum is divided by the
        mean number of labelled keypoints. A garment without any adds nothing.

        Args:
            logits: (M, K).
            keypoints: (M, K, 3) targets.
        """
        labelled = keypoints[..., 2] > 0  # (M, K)
        has_labels = labelled.any(dim=1)  # (M,)
        counts = torch.stack([labelled.sum(), has_labels.sum()])
        total_labelled, garments = sum_over_processes(counts, self.normalizer_scope).clamp(min=1)
        mean_labelled = total_labelled / garments
        return self._focal(logits[has_labels], labelled[has_labels].to(logits)).sum() / mean_labelled

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the focal loss element by element, target 0 or 1."""
        return sigmoid_focal_loss(logits, target, self.focal_alpha, self.focal_gamma)

    def _smooth_l1(self, prediction: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Compute smooth L1 element by element, on coordinates in ``unit`` pixels."""
        return smooth_l1_loss(prediction / unit, target / unit, self.smooth_l1_beta, reduction="none")


class KGDetCriterion(PointSetCriterion):
    """Losses with the locations nearest to each garment's centre as positives, in all stages alike."""

    def stage_targets(self, stages, locations, strides, padded_sizes, gt_instances) -> list[Targets]:
        """Return the same targets for every stage; arguments as for the call."""
        return [self.targets(locations, strides, padded_sizes, gt_instances)] * len(stages)

    @torch.no_grad()
    def targets(
        self,
        locations: Tensor,
        strides: Tensor,
        padded_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> Targets:
        """Compute the batch's :class:`Targets`; arguments as for the call."""
        garments, regions = split_ignored(gt_instances)
        matched_idxs = _match_by_center(locations, strides, padded_sizes, garments, self.num_positives)
        matched_idxs = _leave_out_regions(matched_idxs, locations, regions)
        return gather_targets(matched_idxs, garments, with_keypoints=True)


class RepPointsCriterion(PointSetCriterion):
    """Losses with positives nearest to each garment's centre first, in later stages those whose box fits it.

    A stage's boxes are the proposals by which the next stage's locations are assigned. Keypoints, where there
    are any, are learned at the same locations as the boxes of their stage.

    Args:
        background_iou, positive_iou: see :func:`assign_by_iou`.

    The other arguments are those of :class:`PointSetCriterion`.
    """

    @configurable
    def __init__(
        self,
        *,
        background_iou: float,
        positive_iou: float,
        num_positives: int,
        stage_weights: list[float],
        cls_weight: float,
        box_weight: float,
        keypoint_weight: float,
        keypoint_weighting: str,
        visibility_weight: float,
        focal_alpha: float,
        focal_gamma: float,
        smooth_l1_beta: float,
        cls_loss: str = "focal",
        box_loss: str = "smooth_l1",
        normalizer_scope: str = GLOBAL,
    ):
        super().__init__(
            num_positives=num_positives,
            stage_weights=stage_weights,
            cls_weight=cls_weight,
            box_weight=box_weight,
            keypoint_weight=keypoint_weight,
            keypoint_weighting=keypoint_weighting,
            visibility_weight=visibility_weight,
            focal_alpha=focal_alpha,
            focal_gamma=focal_gamma,
            smooth_l1_beta=smooth_l1_beta,
            cls_loss=cls_loss,
            box_loss=box_loss,
            normalizer_scope=normalizer_scope,
        )
        self.background_iou = background_iou
        self.positive_iou = positive_iou

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from ``MODEL.KGDET`` and ``MODEL.REPPOINTS``."""
        arguments = super().from_config(cfg)
        arguments["background_iou"], arguments["positive_iou"] = cfg.MODEL.REPPOINTS.IOU_THRESHOLDS
        return arguments

    @torch.no_grad()
    def stage_targets(self, stages, locations, strides, padded_sizes, gt_instances) -> list[Targets]:
        """Compute the targets of each stage; arguments as for the call."""
        all_garments, regions = split_ignored(gt_instances)
        matched_idxs = _match_by_center(locations, strides, padded_sizes, all_garments, self.num_positives)
        stages_matched_idxs = [matched_idxs]
        valid = valid_locations(locations, padded_sizes)  # (N, L)
        for stage in stages[:-1]:
            proposals = boxes_to_pixels(flatten_levels(stage.boxes), locations, strides)  # (N, L, 4)
            matched_idxs = []
            for garments, image_proposals, image_valid in zip(all_garments, proposals, valid, strict=True):
                image_matched_idxs = assign_by_iou(
                    garments.gt_boxes.tensor,
                    image_proposals,
                    image_valid,
                    background_iou=self.background_iou,
                    positive_iou=self.positive_iou,
                )
                matched_idxs.append(image_matched_idxs)
            stages_matched_idxs.append(matched_idxs)
        with_keypoints = stages[0].keypoints is not None
        left = [_leave_out_regions(matched, locations, regions) for matched in stages_matched_idxs]
        return [gather_targets(matched, all_garments, with_keypoints=with_keypoints) for matched in left]


def _match_by_center(
    locations: Tensor,
    strides: Tensor,
    padded_sizes: list[tuple[int, int]],
    gt_instances: list[Instances],
    num_positives: int,
) -> list[Tensor]:
    """Assign garments to locations by their centres; ``matched_idxs`` (L,) of each image."""
    valid = valid_locations(locations, padded_sizes)
    return [
        assign_by_center(garments.gt_boxes.tensor, locations, strides, image_valid, num_positives)
        for garments, image_valid in zip(gt_instances, valid, strict=True)
    ]


def _leave_out_regions(matched_idxs: list[Tensor], locations: Tensor, regions: list[Boxes]) -> list[Tensor]:
    """Ignore each image's background in its regions, see :mod:`kgdet_d2.modeling.ignored`."""
    return [
        leave_out(idxs, locations_ignored(locations, boxes), background=BACKGROUND, ignored=IGNORED)
        for idxs, boxes in zip(matched_idxs, regions, strict=True)
    ]


def valid_locations(locations: Tensor, padded_sizes: list[tuple[int, int]]) -> Tensor:
    """Check which locations lie in an image, its own padding included.

    Args:
        locations: (L, 2) x, y in pixels.
        padded_sizes: each image's (height, width) after its own padding.

    Returns:
        (N, L) bool.
    """
    x, y = locations.unbind(dim=1)
    return torch.stack([(x < width) & (y < height) for height, width in padded_sizes])


def gather_targets(
    matched_idxs: list[Tensor], gt_instances: list[Instances], *, with_keypoints: bool
) -> Targets:
    """Gather the targets of positive locations from their garments.

    Args:
        matched_idxs: (L,) of each image, see :class:`Targets`.
        gt_instances: of each image.
        with_keypoints: gather gt_keypoints, too.

    Returns:
        The batch's targets.
    """
    classes, boxes, keypoints, normalizer = [], [], [], 0
    for image_matched_idxs, garments in zip(matched_idxs, gt_instances, strict=True):
        positive = image_matched_idxs[image_matched_idxs >= 0]  # garment of each positive location
        classes.append(garments.gt_classes[positive])
        boxes.append(garments.gt_boxes.tensor[positive])
        if with_keypoints:
            keypoints.append(garments.gt_keypoints.tensor[positive])
        normalizer += max(len(positive), 1)
    return Targets(
        matched_idxs=torch.stack(matched_idxs),
        classes=cat(classes),
        boxes=cat(boxes),
        keypoints=cat(keypoints) if with_keypoints else None,
        normalizer=normalizer,
    )


def quality_focal_loss(logits: Tensor, quality: Tensor, exponent: float) -> Tensor:
    """Compute the focal loss of scores that mean a quality (Li et al., Generalized Focal Loss, 2020, eq. 5).

    Args:
        logits: of any shape.
        quality: 0..1, likewise; 0 for another class and for background.
        exponent: beta, of the distance between score and quality.

    Returns:
        The loss of each element.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (logits.sigmoid() - quality).abs().pow(exponent) * cross_entropy


def flatten_levels(levels: list[Tensor]) -> Tensor:
    """Concatenate maps (N, D, H, W) of all levels into (N, L, D)."""
    return cat([permute_to_N_HWA_K(level, level.shape[1]) for level in levels], dim=1)
