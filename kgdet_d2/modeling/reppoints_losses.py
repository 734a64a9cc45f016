"""RepPoints' training objective (Yang et al., ICCV 2019).

N images, L cells of all levels.
"""

from typing import Any

import torch
from detectron2.config import configurable

from kgdet_d2.geometry.points import boxes_to_pixels
from kgdet_d2.modeling.assigner import assign_cells, assign_proposals
from kgdet_d2.modeling.losses import PointCriterion, Targets, make_targets, over_cells, valid_cells


class RepPointsCriterion(PointCriterion):
    """First the cells nearest to a garment's centre answer for it, in later stages those whose box fits it.

    A stage's boxes are the proposals by which the next stage's cells are assigned. Landmarks, where there
    are any, are learned at the same cells as the boxes of their stage.
    """

    @configurable
    def __init__(self, *, background_iou: float, positive_iou: float, **point_criterion_arguments: Any):
        """
        Args:
            background_iou, positive_iou: see :func:`assign_proposals`.
            point_criterion_arguments: those of :class:`PointCriterion`.
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
        valid = valid_cells(cells, padded_sizes)
        matched = [
            [
                assign_cells(boxes, cells, strides, cell_valid, self.num_positives)
                for boxes, cell_valid in zip(gt_boxes, valid, strict=True)
            ]
        ]
        for stage in stages[:-1]:
            proposals = boxes_to_pixels(over_cells(stage.boxes), cells, strides)  # (N, L, 4)
            matched.append(
                [
                    assign_proposals(
                        *image, background_iou=self.background_iou, positive_iou=self.positive_iou
                    )
                    for image in zip(gt_boxes, proposals, valid, strict=True)
                ]
            )
        with_keypoints = stages[0].keypoints is not None
        return [make_targets(each, gt_instances, with_keypoints=with_keypoints) for each in matched]
