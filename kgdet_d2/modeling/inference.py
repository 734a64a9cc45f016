"""From the last stage's maps to garments (paper, "Inference Details").

N images, H x W cells of a level, C classes, K landmarks.
"""

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances
from torch import Tensor

from kgdet_d2.geometry.numerics import full_precision
from kgdet_d2.geometry.points import boxes_to_pixels, offsets_to_points
from kgdet_d2.modeling.point_head import StageOutput


class KGDetPostprocessor:
    """Scores, suppresses and limits detections; landmarks go where their box goes."""

    @configurable
    def __init__(
        self, *, score_threshold: float, topk_candidates: int, nms_threshold: float, max_detections: int
    ):
        """
        Args:
            score_threshold: detections score above it.
            topk_candidates: cells of a level that are looked at, by the best of their classes.
            nms_threshold: of two boxes of one class with a greater IoU the lower score goes.
            max_detections: kept for an image, by score.
        """
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

    @classmethod
    def from_config(cls, cfg):
        return {
            "score_threshold": cfg.MODEL.KGDET.SCORE_THRESH_TEST,
            "topk_candidates": cfg.MODEL.KGDET.TOPK_CANDIDATES_TEST,
            "nms_threshold": cfg.MODEL.KGDET.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def __call__(
        self, stage: StageOutput, cells: Tensor, strides: Tensor, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """The garments of each image.

        Args:
            stage: the last stage's output.
            cells, strides: (L, 2) and (L,) in pixels, see :func:`make_cells`.
            image_sizes: (height, width) without padding; boxes and landmarks are clamped to them.

        Returns:
            Instances with pred_boxes, scores, pred_classes and, where the stage places landmarks,
            pred_keypoints (n, K, 3): x, y in pixels of the network's input, and the detection's score.
        """
        return [self._one_image(stage, index, cells, strides, size) for index, size in enumerate(image_sizes)]

    def _one_image(
        self, stage: StageOutput, image: int, cells: Tensor, strides: Tensor, size: tuple[int, int]
    ) -> Instances:
        scores = full_precision(cat([_over_cells(level[image]) for level in stage.logits])).sigmoid()
        kept = self._topk_per_level(scores, [level.shape[-2:].numel() for level in stage.logits])
        row, classes = (scores[kept] > self.score_threshold).nonzero(as_tuple=True)
        cell = kept[row]
        scores = scores[cell, classes]
        offsets = cat([_over_cells(level[image]) for level in stage.boxes])[cell]
        boxes = Boxes(boxes_to_pixels(offsets, cells[cell], strides[cell]))
        boxes.clip(size)

        keep = batched_nms(boxes.tensor, scores, classes, self.nms_threshold)[: self.max_detections]
        cell, scores = cell[keep], scores[keep]
        found = Instances(size, pred_boxes=boxes[keep], scores=scores, pred_classes=classes[keep])
        if stage.keypoints is not None:
            offsets = full_precision(cat([_over_cells(level[image]) for level in stage.keypoints])[cell])
            points = offsets_to_points(offsets, cells[cell], strides[cell])
            found.pred_keypoints = _clipped_keypoints(points, scores, size)
        return found

    def _topk_per_level(self, scores: Tensor, cells_per_level: list[int]) -> Tensor:
        """Indices of the cells (L,) to look at, of scores (L, C)."""
        kept, start = [], 0
        for best in scores.amax(dim=1).split(cells_per_level):
            kept.append(best.topk(min(self.topk_candidates, len(best))).indices + start)
            start += len(best)
        return torch.cat(kept)


def _over_cells(level: Tensor) -> Tensor:
    """One image's map (D, H, W) -> (H W, D), a view."""
    return level.flatten(1).transpose(0, 1)


def _clipped_keypoints(points: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (n, K, 2) inside the image, with their detection's score: (n, K, 3)."""
    height, width = size
    limits = points.new_tensor([width, height])
    clipped = points.clamp(min=0).minimum(limits)
    return torch.cat([clipped, scores[:, None, None].expand(*points.shape[:2], 1)], dim=2)
