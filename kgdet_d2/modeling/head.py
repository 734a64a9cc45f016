"""KGDet's head: towers, then a cascade of stages (paper, "KGDet Network" and "The Cascade Strategy").

N images, H x W cells of a level, C classes, K landmarks of all classes, P informative points.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from kgdet_d2.geometry.moment import moment_box
from kgdet_d2.geometry.numerics import full_precision, scale_gradient
from kgdet_d2.geometry.points import split_points
from kgdet_d2.modeling.aggregation import KeypointEncoding, KeypointSelection, PointAggregation
from kgdet_d2.modeling.deform_conv import DeformConv

AGGREGATIONS = {"encoding": KeypointEncoding, "selection": KeypointSelection}


@dataclass
class StageOutput:
    """What one stage says, a tensor per level in each field. Offsets are relative to the cell, in strides.

    Attributes:
        logits: (N, C, H, W), before the sigmoid.
        keypoints: (N, 2K, H, W) offsets, y first.
        points: (N, 2P, H, W) offsets of the informative points, y first.
        boxes: (N, 4, H, W) x1, y1, x2, y2, the moments of the points.
        visibility: (N, K, H, W) of each landmark, before the sigmoid; only with keypoint selection.
    """

    logits: list[Tensor]
    keypoints: list[Tensor]
    points: list[Tensor]
    boxes: list[Tensor]
    visibility: list[Tensor] | None = None


class InitialFeatures(nn.Module):
    """What stage 1 has in place of an aggregation, there being no points yet: a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.out_channels = channels

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        return self.conv(features).relu()


class Stage(nn.Module):
    """One stage on one level.

    Args:
        make_aggregation: called once a branch; gives a module (features, points) -> features that has
            ``out_channels``.
        make_points: given the channels of the features, K and P, makes the module that turns landmarks into
            informative points, :class:`KeypointEncoding` or :class:`KeypointSelection`.
        num_points: P.
    """

    def __init__(
        self,
        make_aggregation: Callable[[], nn.Module],
        make_points: Callable[[int, int, int], nn.Module],
        num_classes: int,
        num_keypoints: int,
        num_points: int,
    ):
        super().__init__()
        self.cls_aggregation = make_aggregation()
        self.keypoint_aggregation = make_aggregation()
        channels = self.cls_aggregation.out_channels
        self.cls_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.keypoint_offsets = nn.Conv2d(channels, 2 * num_keypoints, kernel_size=1)
        self.encode_points = make_points(channels, num_keypoints, num_points)

    def forward(
        self,
        cls_features: Tensor,
        keypoint_features: Tensor,
        sampling_points: Tensor,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Logits, keypoints, points and visibility, as in :class:`StageOutput`."""
        logits = self.cls_score(self.cls_aggregation(cls_features, sampling_points))
        features = self.keypoint_aggregation(keypoint_features, sampling_points)
        residual = self.keypoint_offsets(features)
        keypoints = previous_keypoints + residual
        return logits, keypoints, *self.encode_points(features, residual, keypoints, previous_points)


class KGDetHead(nn.Module):
    """Towers for classification and for landmarks, and ``num_stages`` stages, shared by all levels."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_keypoints: int,
        num_stages: int,
        aggregation: str,
        columns: list[int],
        channels: int,
        num_convs: int,
        norm: str,
        prior_prob: float,
        points_gradient: float,
        moment_gradient: float,
    ):
        """
        Args:
            in_channels: channels of the feature maps.
            num_stages: T, the first stage included.
            aggregation: whence the informative points: "encoding" of all landmarks, or "selection" of some.
            columns: informative points of each column of the aggregation.
            channels: width of towers, first stage and columns.
            num_convs: 3x3 convolutions in each tower.
            norm: normalisation in the towers, by Detectron2's names.
            prior_prob: score of every class, and visibility of every landmark, at every cell before training.
            points_gradient: share of the gradient that flows from an aggregation back into its points.
            moment_gradient: the same for the moment transform's two scales.
        """
        super().__init__()
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation: expected one of {sorted(AGGREGATIONS)}, got {aggregation!r}")
        self.points_gradient = points_gradient
        self.moment_gradient = moment_gradient
        self.num_keypoints = num_keypoints
        self.num_points = sum(columns)
        self.cls_tower = _tower(in_channels, channels, num_convs, norm)
        self.keypoint_tower = _tower(in_channels, channels, num_convs, norm)
        makers = [lambda: InitialFeatures(channels)]
        makers += [lambda: PointAggregation(channels, channels, columns)] * (num_stages - 1)
        self.stages = nn.ModuleList(
            Stage(make, AGGREGATIONS[aggregation], num_classes, num_keypoints, self.num_points)
            for make in makers
        )
        self.moment_scale = nn.Parameter(torch.zeros(2))
        self._init_weights(prior_prob)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        kgdet = cfg.MODEL.KGDET
        (in_channels,) = {shape.channels for shape in input_shape.values()}
        return {
            "in_channels": in_channels,
            "num_classes": kgdet.NUM_CLASSES,
            "num_keypoints": kgdet.NUM_KEYPOINTS,
            "num_stages": kgdet.NUM_STAGES,
            "aggregation": kgdet.AGGREGATION,
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
        logit = math.log(prior_prob / (1 - prior_prob))
        for stage in self.stages:
            nn.init.constant_(stage.cls_score.bias, logit)
            if isinstance(stage.encode_points, KeypointSelection):
                nn.init.constant_(stage.encode_points.visibility.bias, logit)

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
            outputs.append((logits, keypoints, points, self._boxes(points), visibility))
        return outputs

    def _boxes(self, points: Tensor) -> Tensor:
        x, y = split_points(full_precision(points), dim=1)
        return moment_box(x, y, scale_gradient(self.moment_scale, self.moment_gradient), dim=1)


def _over_levels(maps: tuple[Tensor | None, ...]) -> list[Tensor] | None:
    """One field's maps of all levels, None where the head has no such field."""
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
