"""From the last stage's maps to garments (paper, "Inference Details").

N images, H x W cells of a level, C classes, K landmarks.
"""

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances
from torch import Tensor

from kgdet_d2.geometry.points import boxes_to_pixels, offsets_to_points
from kgdet_d2.layers.numerics import to_float32
from kgdet_d2.modeling.heads.kgdet_head import PendingStage, StageOutput


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
        self,
        stage: StageOutput | PendingStage,
        cells: Tensor,
        strides: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The garments of each image.

        Args:
            stage: the last stage's output. Boxes and landmarks are asked for at those cells only that are
                among the best of their level and score above the threshold in some class.
            cells, strides: (L, 2) and (L,) in pixels, see :func:`make_locations`.
            image_sizes: (height, width) without padding; boxes and landmarks are clamped to them.

        Returns:
            Instances with pred_boxes, scores, pred_classes and, where the stage places landmarks,
            pred_keypoints (n, K, 3): x, y in pixels of the network's input, and the detection's score.
        """
        scores = to_float32(cat([level.flatten(2) for level in stage.logits], dim=2)).sigmoid()
        best = self._topk_per_level(scores, [level.shape[-2:].numel() for level in stage.logits])
        above = (scores.amax(dim=1).gather(1, best) > self.score_threshold).nonzero(as_tuple=True)
        image, cell = above[0], best[above]
        boxes, keypoints = stage.at(image, cell)
        boxes = boxes_to_pixels(boxes, cells[cell], strides[cell])
        found = []
        for number, size in enumerate(image_sizes):
            own = (image == number).nonzero().flatten()
            kept, instances = self._suppress(scores[number][:, cell[own]].T, boxes[own], size)
            kept = own[kept]
            if keypoints is not None:
                offsets = to_float32(keypoints[kept])
                points = offsets_to_points(offsets, cells[cell[kept]], strides[cell[kept]])
                instances.pred_keypoints = _clipped_keypoints(points, instances.scores, size)
            found.append(instances)
        return found

    def _topk_per_level(self, scores: Tensor, cells_per_level: list[int]) -> Tensor:
        """The cells (N, l) of each level to look at, by scores (N, C, L)."""
        kept, start = [], 0
        for best in scores.amax(dim=1).split(cells_per_level, dim=1):
            kept.append(best.topk(min(self.topk_candidates, best.shape[1])).indices + start)
            start += best.shape[1]
        return torch.cat(kept, dim=1)

    def _suppress(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Instances]:
        """Of one image's cells with scores (n, C) and boxes (n, 4): which are left, and as what."""
        row, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        scores, boxes = scores[row, classes], Boxes(boxes[row])
        boxes.clip(size)
        keep = batched_nms(boxes.tensor, scores, classes, self.nms_threshold)[: self.max_detections]
        found = Instances(size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=classes[keep])
        return row[keep], found


def _clipped_keypoints(points: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (n, K, 2) inside the image, with their detection's score: (n, K, 3)."""
    height, width = size
    limits = points.new_tensor([width, height])
    clipped = points.clamp(min=0).minimum(limits)
    return torch.cat([clipped, scores[:, None, None].expand(*points.shape[:2], 1)], dim=2)
