"""KGDet's training objective (paper, eq. 1), and what RepPoints' shares with it.

N images, L cells of all levels, M positive cells of the batch, C classes, K landmarks.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Instances
from fvcore.nn import sigmoid_focal_loss, smooth_l1_loss
from torch import Tensor

from kgdet_d2.geometry.points import boxes_to_pixels, offsets_to_points, to_float32
from kgdet_d2.modeling.assigners import IGNORED, assign_by_center, assign_by_iou
from kgdet_d2.modeling.heads.outputs import StageOutput

KEYPOINT_WEIGHTINGS = ("per_garment", "per_landmark")


@dataclass
class Targets:
    """What the cells of a batch ought to say in a stage.

    Attributes:
        matched: (N, L) index of the cell's garment in its image, BACKGROUND or IGNORED.
        classes: (M,) of the positive cells, in the order of ``matched >= 0``.
        boxes: (M, 4) x1, y1, x2, y2 in pixels.
        keypoints: (M, K, 3) x, y in pixels and visibility; None where landmarks are not learned.
        normalizer: number of positives, at least one an image.
    """

    matched: Tensor
    classes: Tensor
    boxes: Tensor
    keypoints: Tensor | None
    normalizer: int


class PointSetCriterion:
    """The losses of stages that place points, given what each cell ought to say.

    Subclasses tell that by ``stage_targets``.
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
    ):
        """
        Args:
            num_positives: k of the assignment of cells.
            stage_weights: factor of every stage's losses.
            cls_weight, box_weight, keypoint_weight: 1, lambda_2 and lambda_1 of eq. 1.
            keypoint_weighting: "per_garment" gives every garment the weight of one box, 4 coordinates, by
                4 / (2 x its labelled landmarks), as the release does; "per_landmark" sums over its labelled
                landmarks, as the paper does.
            visibility_weight: of the landmarks' visibility, where stages tell it (keypoint selection).
            focal_alpha, focal_gamma: of the focal loss of classes and of visibility.
            smooth_l1_beta: where smooth L1 becomes linear, in units of 4 strides.
        """
        if keypoint_weighting not in KEYPOINT_WEIGHTINGS:
            raise ValueError(
                f"keypoint_weighting: expected one of {KEYPOINT_WEIGHTINGS}, got {keypoint_weighting!r}"
            )
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

    @classmethod
    def from_config(cls, cfg):
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
        }

    def __call__(
        self,
        stages: list[StageOutput],
        cells: Tensor,
        strides: Tensor,
        padded_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses of every stage.

        Args:
            stages: the head's outputs.
            cells, strides: (L, 2) and (L,) in pixels, see :func:`make_locations`.
            padded_sizes: each image's (height, width) after its own padding; cells beyond are ignored.
            gt_instances: with gt_boxes, gt_classes and, where the head places landmarks, gt_keypoints
                (n, K, 3); garments may be none.

        Returns:
            ``loss_cls_t``, ``loss_box_t``, ``loss_keypoint_t``, ``loss_visibility_t`` for t = 1..T, scalars,
            as far as the stage classifies, places landmarks and tells their visibility.
        """
        stage_targets = self.stage_targets(stages, cells, strides, padded_sizes, gt_instances)
        losses = {}
        per_stage = zip(stages, self.stage_weights, stage_targets, strict=True)
        for number, (stage, stage_weight, targets) in enumerate(per_stage, start=1):
            for name, loss in self._stage_losses(stage, cells, strides, targets).items():
                factor = stage_weight * self.weights[name] / targets.normalizer
                losses[f"loss_{name}_{number}"] = loss * factor
        return losses

    def stage_targets(
        self,
        stages: list[StageOutput],
        cells: Tensor,
        strides: Tensor,
        padded_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> list[Targets]:
        """What the cells ought to say in each stage; arguments as for the call."""
        raise NotImplementedError

    def _stage_losses(
        self, stage: StageOutput, cells: Tensor, strides: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Sums over the batch, not yet weighted."""
        image, cell = (targets.matched >= 0).nonzero(as_tuple=True)
        at, unit = cells[cell], 4 * strides[cell]  # (M, 2) and (M,) pixels
        losses = {}
        if stage.logits is not None:
            losses["cls"] = self._cls_loss(to_float32(flatten_levels(stage.logits)), targets)
        boxes = boxes_to_pixels(flatten_levels(stage.boxes)[image, cell], at, strides[cell])
        losses["box"] = self._smooth_l1(boxes, targets.boxes, unit[:, None]).sum()
        if stage.keypoints is not None:
            offsets = to_float32(flatten_levels(stage.keypoints)[image, cell])
            points = offsets_to_points(offsets, at, strides[cell])
            losses["keypoint"] = self._keypoint_loss(points, targets.keypoints, unit)
        if stage.visibility is not None:
            visibility = to_float32(flatten_levels(stage.visibility)[image, cell])
            losses["visibility"] = self._visibility_loss(visibility, targets.keypoints)
        return losses

    def _cls_loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """Focal loss over all cells (N, L, C) that are not ignored."""
        one_hot = torch.zeros_like(logits)
        one_hot[targets.matched >= 0] = F.one_hot(targets.classes, logits.shape[-1]).to(logits)
        considered = targets.matched != IGNORED
        return self._focal(logits[considered], one_hot[considered]).sum()

    def _keypoint_loss(self, points: Tensor, keypoints: Tensor, unit: Tensor) -> Tensor:
        """Smooth L1 of the labelled landmarks, visible or occluded; points (M, K, 2), keypoints (M, K, 3)."""
        weights = (keypoints[..., 2] > 0).to(points)
        if self.keypoint_weighting == "per_garment":
            weights = weights * 4 / (2 * weights.sum(dim=1, keepdim=True)).clamp(min=1)
        return (self._smooth_l1(points, keypoints[..., :2], unit[:, None, None]).sum(dim=2) * weights).sum()

    def _visibility_loss(self, logits: Tensor, keypoints: Tensor) -> Tensor:
        """Focal loss of what is labelled, visible or occluded, against all other slots; logits (M, K).

        All slots weigh the same; in all, a garment weighs as much as a class does: the sum is divided by the
        mean number of labelled landmarks. A garment without any says nothing about its landmarks.
        """
        labelled = keypoints[..., 2] > 0
        told = labelled.any(dim=1)
        number = labelled.sum().clamp(min=1) / told.sum().clamp(min=1)
        return self._focal(logits[told], labelled[told].to(logits)).sum() / number

    def _focal(self, logits: Tensor, target: Tensor) -> Tensor:
        """Element by element, target 0 or 1."""
        return sigmoid_focal_loss(logits, target, self.focal_alpha, self.focal_gamma)

    def _smooth_l1(self, prediction: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Element by element, on coordinates in ``unit`` pixels."""
        return smooth_l1_loss(prediction / unit, target / unit, self.smooth_l1_beta, reduction="none")


class KGDetCriterion(PointSetCriterion):
    """The cells nearest to a garment's centre answer for it, in all stages alike."""

    def stage_targets(self, stages, cells, strides, padded_sizes, gt_instances) -> list[Targets]:
        return [self.targets(cells, strides, padded_sizes, gt_instances)] * len(stages)

    @torch.no_grad()
    def targets(
        self,
        cells: Tensor,
        strides: Tensor,
        padded_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> Targets:
        """The batch's :class:`Targets`; arguments as for the call."""
        matched = [
            assign_by_center(garments.gt_boxes.tensor, cells, strides, valid, self.num_positives)
            for garments, valid in zip(gt_instances, valid_locations(cells, padded_sizes), strict=True)
        ]
        return gather_targets(matched, gt_instances, with_keypoints=True)


def valid_locations(cells: Tensor, padded_sizes: list[tuple[int, int]]) -> Tensor:
    """(N, L) bool: whether a cell (L, 2) lies in an image, its own padding to (height, width) included."""
    return torch.stack([(cells[:, 0] < width) & (cells[:, 1] < height) for height, width in padded_sizes])


def gather_targets(matched: list[Tensor], gt_instances: list[Instances], *, with_keypoints: bool) -> Targets:
    """Targets of cells that answer for the garments ``matched``, (L,) an image, see :class:`Targets`."""
    positive = [garment[garment >= 0] for garment in matched]
    images = list(zip(gt_instances, positive, strict=True))
    keypoints = [gt.gt_keypoints.tensor[garment] for gt, garment in images] if with_keypoints else None
    return Targets(
        matched=torch.stack(matched),
        classes=cat([gt.gt_classes[garment] for gt, garment in images]),
        boxes=cat([gt.gt_boxes.tensor[garment] for gt, garment in images]),
        keypoints=cat(keypoints) if with_keypoints else None,
        normalizer=sum(max(len(garment), 1) for garment in positive),
    )


def flatten_levels(levels: list[Tensor]) -> Tensor:
    """Maps (N, D, H, W) of all levels -> (N, L, D)."""
    return cat([permute_to_N_HWA_K(level, level.shape[1]) for level in levels], dim=1)


class RepPointsCriterion(PointSetCriterion):
    """First the cells nearest to a garment's centre answer for it, in later stages those whose box fits it.

    A stage's boxes are the proposals by which the next stage's cells are assigned. Landmarks, where there
    are any, are learned at the same cells as the boxes of their stage.
    """

    @configurable
    def __init__(self, *, background_iou: float, positive_iou: float, **point_criterion_arguments: Any):
        """
        Args:
            background_iou, positive_iou: see :func:`assign_by_iou`.
            point_criterion_arguments: those of :class:`PointSetCriterion`.
        """
        super().__init__(**point_criterion_arguments)
        self.background_iou = background_iou
        self.positive_iou = positive_iou

    @classmethod
    def from_config(cls, cfg):
        background_iou, positive_iou = cfg.MODEL.REPPOINTS.IOU_THRESHOLDS
        thresholds = {"background_iou": background_iou, "positive_iou": positive_iou}
        return {**super().from_config(cfg), **thresholds}

    @torch.no_grad()
    def stage_targets(self, stages, cells, strides, padded_sizes, gt_instances) -> list[Targets]:
        gt_boxes = [garments.gt_boxes.tensor for garments in gt_instances]
        valid = valid_locations(cells, padded_sizes)
        matched = [
            [
                assign_by_center(boxes, cells, strides, cell_valid, self.num_positives)
                for boxes, cell_valid in zip(gt_boxes, valid, strict=True)
            ]
        ]
        for stage in stages[:-1]:
            proposals = boxes_to_pixels(flatten_levels(stage.boxes), cells, strides)  # (N, L, 4)
            matched.append(
                [
                    assign_by_iou(*image, background_iou=self.background_iou, positive_iou=self.positive_iou)
                    for image in zip(gt_boxes, proposals, valid, strict=True)
                ]
            )
        with_keypoints = stages[0].keypoints is not None
        return [gather_targets(each, gt_instances, with_keypoints=with_keypoints) for each in matched]
