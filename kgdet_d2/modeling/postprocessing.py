"""Post-processing: the garments of the last stage's predictions (paper, "Inference Details").

N images, H x W locations of a level, L locations of all levels, C classes, K keypoints, n chosen locations.
"""

from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms, nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

from kgdet_d2.geometry.points import GridIndex, boxes_to_pixels, offsets_to_points, to_float32
from kgdet_d2.modeling.heads.outputs import LocationPredictions, StageOutput


class KGDetPostprocessor:
    """Select locations by score, then suppress and limit their detections; keypoints follow their box."""

    @configurable
    def __init__(
        self,
        *,
        score_threshold: float,
        topk_candidates: int,
        nms_threshold: float,
        max_detections: int,
        class_agnostic_nms_threshold: float = 1.0,
    ):
        """Set the limits.

        Args:
            score_threshold: detections score above it.
            topk_candidates: locations selected in each level, by the best of their classes.
            nms_threshold: of two boxes of one class with a greater IoU the one with the lower score goes.
            max_detections: kept for an image, by score.
            class_agnostic_nms_threshold: the same as ``nms_threshold`` for boxes of any classes; 1 for none.
        """
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.class_agnostic_nms_threshold = class_agnostic_nms_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.KGDET`` and ``TEST``."""
        return {
            "score_threshold": cfg.MODEL.KGDET.SCORE_THRESH_TEST,
            "topk_candidates": cfg.MODEL.KGDET.TOPK_CANDIDATES_TEST,
            "nms_threshold": cfg.MODEL.KGDET.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "class_agnostic_nms_threshold": cfg.MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST,
        }

    def __call__(
        self, stage: StageOutput, locations: Tensor, strides: Tensor, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Detect the garments of a stage that is computed at all locations; see :meth:`detect`."""
        selected = self.select_locations(cast(list[Tensor], stage.logits))
        return self.detect(stage.gather(selected), locations, strides, image_sizes)

    def select_locations(self, logits: list[Tensor]) -> list[GridIndex]:
        """Select the best locations of each level that score above the threshold in some class.

        Args:
            logits: (N, C, H, W) per level.

        Returns:
            Per level image, row and column, image by image, the best score first.
        """
        selected = []
        for level_logits in logits:
            width = level_logits.shape[-1]
            scores = to_float32(level_logits).flatten(2).sigmoid().amax(dim=1)  # (N, H W)
            top_scores, location_ids = scores.topk(min(self.topk_candidates, scores.shape[1]))
            image, rank = (top_scores > self.score_threshold).nonzero(as_tuple=True)
            location_ids = location_ids[image, rank]  # (n,), in this level
            selected.append((image, location_ids // width, location_ids % width))
        return selected

    def detect(
        self,
        predictions: LocationPredictions,
        locations: Tensor,
        strides: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Detect the garments of each image.

        Args:
            predictions: at the selected locations.
            locations: (L, 2) in pixels, see :func:`make_locations`.
            strides: (L,) in pixels.
            image_sizes: (height, width) without padding; boxes and keypoints are clamped to them.

        Returns:
            Instances with pred_boxes, scores, pred_classes and, where the stage regresses keypoints,
            pred_keypoints (n, K, 3): x, y in pixels of the network's input, and the detection's score.
        """
        location_ids = predictions.location_ids
        locations, strides = locations[location_ids], strides[location_ids]  # (n, 2), (n,)
        boxes = boxes_to_pixels(predictions.boxes, locations, strides)  # (n, 4)
        points = None
        if predictions.keypoints is not None:
            points = offsets_to_points(to_float32(predictions.keypoints), locations, strides)  # (n, K, 2)
        scores = to_float32(predictions.logits).sigmoid()  # (n, C)
        detections = []
        for number, size in enumerate(image_sizes):
            rows = (predictions.image == number).nonzero().flatten()
            kept, instances = self._nms(scores[rows], boxes[rows], size)
            if points is not None:
                instances.pred_keypoints = _clip_keypoints(points[rows[kept]], instances.scores, size)
            detections.append(instances)
        return detections

    def suppress_across_classes(self, detections: Instances) -> Instances:
        """Keep, of one image's detections of whatever class that overlap, the one with the best score."""
        if self.class_agnostic_nms_threshold >= 1:
            return detections
        keep = nms(detections.pred_boxes.tensor, detections.scores, self.class_agnostic_nms_threshold)
        return detections[keep]

    def _nms(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Instances]:
        """Suppress within each class one image's scores (n, C) and boxes (n, 4).

        Returns:
            The kept detections' rows of n, and the detections.
        """
        row, classes = (scores > self.score_threshold).nonzero(as_tuple=True)
        scores, candidates = scores[row, classes], Boxes(boxes[row])
        candidates.clip(size)
        keep = batched_nms(candidates.tensor, scores, classes, self.nms_threshold)[: self.max_detections]
        instances = Instances(
            size, pred_boxes=candidates[keep], scores=scores[keep], pred_classes=classes[keep]
        )
        return row[keep], instances


def _clip_keypoints(points: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Clamp points (n, K, 2) to the image and append their detection's score: (n, K, 3)."""
    height, width = size
    clipped = points.clamp(min=0).minimum(points.new_tensor([width, height]))
    return torch.cat([clipped, scores[:, None, None].expand(*points.shape[:2], 1)], dim=2)
