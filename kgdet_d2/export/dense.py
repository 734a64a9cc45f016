"""Predictions at all places of a batch, whichever of them become detections.

N images, L places of all levels (locations, or anchors), C classes, K keypoints of all classes.
"""

from typing import NamedTuple

import torch
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.fcos import FCOS
from torch import Tensor, nn

from kgdet_d2.geometry.points import boxes_to_pixels, make_locations, offsets_to_points
from kgdet_d2.modeling.backbone.fpn import FINE
from kgdet_d2.modeling.meta_arch.kgdet import PointSetDetector


class DensePredictions(NamedTuple):
    """What a network predicts at all places, in pixels of its input.

    Attributes:
        scores: (N, l, C), 0..1, of the l places of each level.
        boxes: (N, L, 4) x1, y1, x2, y2, not clamped to the image.
        keypoints: (N, L, K, 2) x, y, likewise; None where the system has none.
        fine: (N, D, H, W), the fine map of the refiner; None where there is none.
    """

    scores: list[Tensor]
    boxes: Tensor
    keypoints: Tensor | None
    fine: Tensor | None


class DensePointSets(nn.Module):
    """KGDet or RepPoints, without the choice of locations."""

    def __init__(self, model: PointSetDetector):
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head
        self.levels = model.head_in_features
        self.strides = model.strides

    def forward(self, images: Tensor) -> DensePredictions:
        """Predict for normalised images (N, 3, H, W), whose sides are multiples of the backbone's divisor."""
        maps = self.backbone(images)
        features = [maps[name] for name in self.levels]
        sizes = [(level.shape[-2], level.shape[-1]) for level in features]
        locations, strides = make_locations(sizes, self.strides, images.device)
        stage = self.head(features)[-1]
        keypoints = None
        if stage.keypoints is not None:
            keypoints = offsets_to_points(torch.cat(list(map(_rows, stage.keypoints)), 1), locations, strides)
        return DensePredictions(
            scores=[_rows(level).sigmoid() for level in stage.logits],
            boxes=boxes_to_pixels(torch.cat(list(map(_rows, stage.boxes)), 1), locations, strides),
            keypoints=keypoints,
            fine=maps.get(FINE),
        )


class DenseAnchors(nn.Module):
    """Detectron2's RetinaNet or FCOS, without the choice of anchors."""

    def __init__(self, model: RetinaNet | FCOS):
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head
        self.levels = model.head_in_features
        self.box_transform = model.box2box_transform
        generator = model.anchor_generator
        self.strides, self.offset = generator.strides, generator.offset
        self.cell_anchors = generator.cell_anchors
        self.has_centerness = isinstance(model, FCOS)

    def forward(self, images: Tensor) -> DensePredictions:
        """Predict for normalised images (N, 3, H, W), whose sides are multiples of the backbone's divisor."""
        maps = self.backbone(images)
        features = [maps[name] for name in self.levels]
        logits, deltas, *centerness = self.head(features)
        places = [
            _anchor_rows(level, len(anchors))
            for level, anchors in zip(deltas, self.cell_anchors, strict=True)
        ]
        scores = [
            _anchor_rows(level, len(anchors)).sigmoid()
            for level, anchors in zip(logits, self.cell_anchors, strict=True)
        ]
        if self.has_centerness:
            scores = [
                (level * _rows(center).sigmoid()).sqrt()
                for level, center in zip(scores, centerness[0], strict=True)
            ]
        anchors = torch.cat(list(map(self._anchors, features, self.strides, self.cell_anchors)))  # (L, 4)
        batch = torch.cat(places, dim=1)  # (N, L, 4)
        boxes = self.box_transform.apply_deltas(
            batch.flatten(0, 1), anchors.expand(batch.shape[0], -1, -1).flatten(0, 1)
        )
        return DensePredictions(scores, boxes.unflatten(0, batch.shape[:2]), None, None)

    def _anchors(self, level: Tensor, stride: int, cell_anchors: Tensor) -> Tensor:
        """Return the anchors of a level, location by location, as Detectron2's generator orders them.

        Its own arange takes the bounds in pixels, which has no length for a size that is not known.
        """
        y, x = ((torch.arange(size, dtype=torch.float32) + self.offset) * stride for size in level.shape[-2:])
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        places = torch.stack([xx, yy, xx, yy], dim=-1).view(-1, 1, 4)
        return (places + cell_anchors).flatten(0, 1)


def _rows(level: Tensor) -> Tensor:
    """Turn a level's map (N, D, H, W) into rows (N, H W, D)."""
    return level.flatten(2).transpose(1, 2)


def _anchor_rows(level: Tensor, anchors: int) -> Tensor:
    """Turn a level's map (N, A D, H, W) into rows (N, H W A, D)."""
    return level.unflatten(1, (anchors, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)
