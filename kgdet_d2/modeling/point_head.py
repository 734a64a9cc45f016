"""What the heads of KGDet and RepPoints share: towers, a cascade of stages that place points, boxes of them.

N images, H x W cells of a level, C classes, K landmarks of all classes, P points that boxes are made of.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from kgdet_d2.geometry.moment import moment_box
from kgdet_d2.geometry.numerics import full_precision, scale_gradient
from kgdet_d2.geometry.points import split_points
from kgdet_d2.modeling.deform_conv import DeformConv


@dataclass
class StageOutput:
    """What one stage says, a tensor per level in each field. Offsets are relative to the cell, in strides.

    Attributes:
        logits: (N, C, H, W), before the sigmoid; None where the stage does not classify.
        keypoints: (N, 2K, H, W) offsets, y first; None where the head places no landmarks.
        points: (N, 2P, H, W) offsets of the (informative) points, y first.
        boxes: (N, 4, H, W) x1, y1, x2, y2, the moments of the points.
        visibility: (N, K, H, W) of each landmark, before the sigmoid; only with keypoint selection.
    """

    logits: list[Tensor] | None
    keypoints: list[Tensor] | None
    points: list[Tensor]
    boxes: list[Tensor]
    visibility: list[Tensor] | None = None


class PointHead(nn.Module):
    """Towers for classification and for points, and stages of refinement, shared by all levels.

    A stage is a module (cls_features, keypoint_features, sampling_points, previous_keypoints,
    previous_points) -> logits, keypoints, points and visibility as in :class:`StageOutput`, on one level. Its
    ``score_layers()`` are the convolutions whose sigmoid is a score.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: str,
        num_keypoints: int,
        num_points: int,
        prior_prob: float,
        points_gradient: float,
        moment_gradient: float,
    ):
        """
        Args:
            stages: in order.
            in_channels: channels of the feature maps.
            channels: width of the towers.
            num_convs: 3x3 convolutions in each tower.
            norm: normalisation in the towers, by Detectron2's names.
            num_keypoints: K, 0 where the stages place no landmarks.
            num_points: P.
            prior_prob: what ``score_layers`` say at every cell before training.
            points_gradient: share of the gradient that flows from an aggregation back into its points.
            moment_gradient: the same for the moment transform's two scales.
        """
        super().__init__()
        self.points_gradient = points_gradient
        self.moment_gradient = moment_gradient
        self.num_keypoints = num_keypoints
        self.num_points = num_points
        self.cls_tower = _tower(in_channels, channels, num_convs, norm)
        self.keypoint_tower = _tower(in_channels, channels, num_convs, norm)  # of landmarks and points
        self.stages = nn.ModuleList(stages)
        self.moment_scale = nn.Parameter(torch.zeros(2))
        self._init_weights(prior_prob)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        """What all heads of this kind take from ``MODEL.KGDET``."""
        kgdet = cfg.MODEL.KGDET
        (in_channels,) = {shape.channels for shape in input_shape.values()}
        return {
            "in_channels": in_channels,
            "num_classes": kgdet.NUM_CLASSES,
            "num_keypoints": kgdet.NUM_KEYPOINTS,
            "num_stages": kgdet.NUM_STAGES,
            "columns": kgdet.COLUMNS,
            "channels": kgdet.CONV_DIM,
            "num_convs": kgdet.NUM_CONVS,
            "norm": kgdet.NORM,
            "prior_prob": kgdet.PRIOR_PROB,
            "points_gradient": kgdet.POINTS_GRADIENT,
            "moment_gradient": kgdet.MOMENT_GRADIENT,
        }

    def _init_weights(self, prior_prob: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | DeformConv):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for stage in self.stages:
            for layer in stage.score_layers():
                nn.init.constant_(layer.bias, math.log(prior_prob / (1 - prior_prob)))

    def forward(self, features: list[Tensor]) -> list[StageOutput]:
        """Feature maps (N, in_channels, H, W), a level each -> the stages' outputs, in order."""
        per_level = [self._forward_level(level) for level in features]
        return [
            StageOutput(*map(_over_levels, zip(*levels, strict=True)))
            for levels in zip(*per_level, strict=True)
        ]

    def _forward_level(self, features: Tensor) -> list[tuple[Tensor | None, ...]]:
        """Of each stage the fields of :class:`StageOutput`, on one level."""
        cls_features, keypoint_features = self.cls_tower(features), self.keypoint_tower(features)
        num, _, height, width = features.shape
        keypoints = features.new_zeros(num, 2 * self.num_keypoints, height, width)
        points = features.new_zeros(num, 2 * self.num_points, height, width)
        outputs = []
        for stage in self.stages:
            sampling_points = scale_gradient(points, self.points_gradient)
            # A stage adds to what came before without gradient to it.
            logits, keypoints, points, visibility = stage(
                cls_features, keypoint_features, sampling_points, keypoints.detach(), points.detach()
            )
            told = keypoints if self.num_keypoints else None
            outputs.append((logits, told, points, self._boxes(points), visibility))
        return outputs

    def _boxes(self, points: Tensor) -> Tensor:
        x, y = split_points(full_precision(points), dim=1)
        return moment_box(x, y, scale_gradient(self.moment_scale, self.moment_gradient), dim=1)


def _over_levels(maps: tuple[Tensor | None, ...]) -> list[Tensor] | None:
    """One field's maps of all levels, None where the stage has no such field."""
    return None if maps[0] is None else list(maps)


def _tower(in_channels: int, channels: int, num_convs: int, norm: str) -> nn.Sequential:
    inputs = [in_channels] + [channels] * (num_convs - 1)
    return nn.Sequential(
        *(
            Conv2d(
                inputs_i,
                channels,
                kernel_size=3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, channels),
                activation=nn.ReLU(),
            )
            for inputs_i in inputs
        )
    )
