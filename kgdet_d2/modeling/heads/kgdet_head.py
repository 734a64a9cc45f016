"""KGDet's head (paper, "KGDet Network", "Keypoint-Guided Feature Aggregation", "The Cascade Strategy").

Two towers, then a cascade of stages on every level. A stage classifies and regresses all keypoints from
features that it aggregates at the informative points of the stage before, and condenses its keypoints into
informative points of its own. The moments of these are the box.

N images, H x W locations of a level, L locations of all levels, C classes, K keypoints of all classes,
P informative points, n chosen locations. Offsets are relative to the location, in strides, y first.
"""

import math
from typing import Any, NamedTuple, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from kgdet_d2.geometry.points import (
    GridIndex,
    flatten_grid_indices,
    gather_locations,
    moment_box,
    scale_gradient,
    split_points,
    to_float32,
)
from kgdet_d2.layers.deform_conv import DeformConv
from kgdet_d2.modeling.heads.aggregation import SamplingLocations, build_aggregation
from kgdet_d2.modeling.heads.keypoint_selection import KeypointSelection
from kgdet_d2.modeling.heads.outputs import (
    LocationPredictions,
    SelectLocations,
    StageOutput,
    choose_best_locations,
)
from kgdet_d2.utils.catalog import schema_of_config

_NO_SCORE = -20.0  # the logit of 2e-9


class StageMaps(NamedTuple):
    """Predictions of a stage on one level; the fields are those of :class:`StageOutput`, a map each."""

    logits: Tensor | None
    keypoints: Tensor
    points: Tensor
    boxes: Tensor
    visibility: Tensor | None


class KeypointStage(nn.Module):
    """One stage on one level; the same weights serve all levels.

    Previous maps and returned maps are of the locations that sample: (N, D, H, W), or (n, D, 1, 1).

    Args:
        index: the stage's number, from 0.
        channels: width of the towers and of each column.
        columns: informative points of each column; their sum is P.
        num_classes: C, None for a stage that does not classify.
        num_keypoints: K.
        aggregation: "encoding" or "selection".
        norm: normalisation of both branches' features, by Detectron2's names.
    """

    def __init__(
        self,
        index: int,
        *,
        channels: int,
        columns: list[int],
        num_classes: int | None,
        num_keypoints: int,
        aggregation: str,
        norm: str = "",
    ):
        super().__init__()
        self.classifies = num_classes is not None
        if num_classes is not None:
            self.cls_aggregation = build_aggregation(index, channels, columns, norm)
        self.keypoint_aggregation = build_aggregation(index, channels, columns, norm)
        channels = self.keypoint_aggregation.out_channels
        if num_classes is not None:
            self.cls_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.keypoint_offsets = nn.Conv2d(channels, 2 * num_keypoints, kernel_size=1)
        self.encode_points: nn.Conv2d | KeypointSelection
        if aggregation == "encoding":
            self.encode_points = nn.Conv2d(2 * num_keypoints, 2 * sum(columns), kernel_size=1)
        elif aggregation == "selection":
            self.encode_points = KeypointSelection(channels, num_keypoints, sum(columns))
        else:
            raise ValueError(f"aggregation: expected 'encoding' or 'selection', got {aggregation!r}")

    def score_layers(self) -> list[nn.Conv2d]:
        """Return the convolutions of the classes' scores and of the keypoints' visibility."""
        layers = [self.cls_score] if self.classifies else []
        if isinstance(self.encode_points, KeypointSelection):
            layers.append(self.encode_points.visibility)
        return layers

    def classify(self, cls_features: Tensor, sampling: SamplingLocations) -> Tensor | None:
        """Predict the logits (C), None where the stage does not classify."""
        return self.cls_score(self.cls_aggregation(cls_features, sampling)) if self.classifies else None

    def regress(
        self,
        features: Tensor,
        sampling: SamplingLocations,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predict keypoints (2K), informative points (2P) and, with selection, the keypoints' visibility (K).

        Keypoints are the stage's residuals on the previous ones; so are points, by the residuals' encoding.
        """
        features = self.keypoint_aggregation(features, sampling)
        residual = self.keypoint_offsets(features)
        keypoints = previous_keypoints + residual
        if isinstance(self.encode_points, KeypointSelection):
            return keypoints, *self.encode_points(features, keypoints)
        return keypoints, previous_points + self.encode_points(residual), None


class PointSetHead(nn.Module):
    """Towers for classification and for points, and a cascade of stages, shared by all levels.

    Subclasses build ``stages``, modules with the methods of :class:`KeypointStage`, and initialise all.

    Args:
        in_channels: channels of the feature maps.
        channels: width of the towers.
        num_convs: 3x3 convolutions in each tower.
        norm: normalisation in the towers, by Detectron2's names.
        num_keypoints: K, 0 where the stages regress no keypoints.
        num_points: P.
        points_gradient: share of the gradient that flows from an aggregation back into its points.
        moment_gradient: the same for the moment transform's two scales.
        sparse_cells: see :meth:`predict`; 0 for all. It needs a first stage that classifies.
        sparse_training: the same in training, beside the positive locations: of those that stages after the
            first compute, so many have the first stage's best scores.
    """

    stages: Any  # an nn.ModuleList

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: str,
        num_keypoints: int,
        num_points: int,
        points_gradient: float,
        moment_gradient: float,
        sparse_cells: int = 0,
        sparse_training: int = 0,
    ):
        super().__init__()
        self.sparse_training = sparse_training
        self.points_gradient = points_gradient
        self.moment_gradient = moment_gradient
        self.sparse_cells = sparse_cells
        self.num_keypoints = num_keypoints
        self.num_points = num_points
        self.cls_tower = _tower(in_channels, channels, num_convs, norm)
        self.keypoint_tower = _tower(in_channels, channels, num_convs, norm)  # of keypoints and points
        self.moment_scale = nn.Parameter(torch.zeros(2))  # logarithms of lambda_x, lambda_y

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that all heads of this kind take from ``MODEL.KGDET``."""
        kgdet, schema = cfg.MODEL.KGDET, schema_of_config(cfg)
        (in_channels,) = {shape.channels for shape in input_shape.values()}
        return {
            "in_channels": in_channels,
            "num_classes": schema.num_classes,
            "num_keypoints": schema.num_keypoints,
            "num_stages": kgdet.NUM_STAGES,
            "columns": kgdet.COLUMNS,
            "channels": kgdet.CONV_DIM,
            "num_convs": kgdet.NUM_CONVS,
            "norm": kgdet.NORM,
            "prior_prob": kgdet.PRIOR_PROB,
            "points_gradient": kgdet.POINTS_GRADIENT,
            "moment_gradient": kgdet.MOMENT_GRADIENT,
        }

    def init_weights(self, prior_prob: float, init: str = "normal") -> None:
        """Initialise all layers.

        Args:
            prior_prob: the score at every location before training.
            init: of the layers that compute features (towers, first stage, aggregations): "normal", as all
                others are, of standard deviation 0.01, or "kaiming", which keeps their activations' variance.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | DeformConv):
                nn.init.normal_(module.weight, std=0.01)
                if init == "kaiming" and module.weight.shape[-1] > 1:  # the others predict
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for stage in self.stages:
            for layer in stage.score_layers():
                nn.init.constant_(layer.bias, math.log(prior_prob / (1 - prior_prob)))

    def forward(self, features: list[Tensor], positive: Tensor | None = None) -> list[StageOutput]:
        """Predict with every stage, in order, at all locations of each level (N, in_channels, H, W).

        Args:
            features: of each level.
            positive: (N, L) bool, locations that later stages must compute, see ``sparse_training``; None:
                they compute all.
        """
        cls_features = [self.cls_tower(level) for level in features]
        keypoint_features = [self.keypoint_tower(level) for level in features]
        previous = [self._zero_offsets(level) for level in features]
        chosen: list[GridIndex] | list[None] = [None] * len(features)  # all locations
        outputs = []
        for index, stage in enumerate(self.stages):
            levels = []
            for level, (keypoints, points) in enumerate(previous):
                sampling = SamplingLocations(scale_gradient(points, self.points_gradient), chosen[level])
                maps = self._stage_maps(
                    stage, cls_features[level], keypoint_features[level], sampling, keypoints, points
                )
                levels.append(maps)
            outputs.append(_stage_output(levels, with_keypoints=self.num_keypoints > 0))
            previous = [(maps.keypoints, maps.points) for maps in levels]
            if index == 0 and positive is not None:
                chosen = self._choose_to_train(cast(list[Tensor], outputs[0].logits), positive)
        return outputs

    def _stage_maps(
        self,
        stage: Any,
        cls_features: Tensor,
        keypoint_features: Tensor,
        sampling: SamplingLocations,
        keypoints: Tensor,
        points: Tensor,
    ) -> StageMaps:
        """Predict with a stage on one level.

        Where nothing is computed scores are next to 0, which costs nothing, and the rest is 0.
        """
        logits = stage.classify(cls_features, sampling)
        # A stage adds to the predictions before it without a gradient to them.
        keypoints, points = sampling.select(keypoints.detach()), sampling.select(points.detach())
        keypoints, points, visibility = stage.regress(keypoint_features, sampling, keypoints, points)
        boxes = self._boxes(points)
        logits = None if logits is None else sampling.to_maps(logits, elsewhere=_NO_SCORE)
        visibility = None if visibility is None else sampling.to_maps(visibility)
        keypoints, points, boxes = (sampling.to_maps(values) for values in (keypoints, points, boxes))
        return StageMaps(logits, keypoints, points, boxes, visibility)

    def _choose_to_train(self, logits: list[Tensor], positive: Tensor) -> list[GridIndex]:
        """Choose the positive locations and the best of the others, as many for each image."""
        scores = [level.detach().amax(dim=1) for level in logits]
        return choose_best_locations(scores, int(positive.sum(dim=1).max()) + self.sparse_training, positive)

    def predict(
        self, features: list[Tensor], select: SelectLocations, inside: Tensor | None = None
    ) -> LocationPredictions:
        """Predict with the last stage, boxes and keypoints only at the locations that ``select`` keeps.

        With ``sparse_cells`` stages after the first are computed at so many locations of each image, those
        that the first stage scores best in all levels. Elsewhere the logits are -inf.

        Args:
            features: (N, in_channels, H, W) per level.
            select: the last stage's logits (N, C, H, W) per level -> the locations to keep, per level.
            inside: (N, L) bool, locations that come first whatever their scores; None for all alike.
        """
        cls_features = [self.cls_tower(level) for level in features]
        keypoint_features = [self.keypoint_tower(level) for level in features]
        chosen: list[GridIndex] | list[None] = [None] * len(features)  # all locations
        if self.sparse_cells:
            scores = []  # of the first stage, per level
            for level in cls_features:
                sampling = SamplingLocations(self._zero_offsets(level)[1])
                scores.append(self.stages[0].classify(level, sampling).amax(dim=1))  # (N, H, W)
            chosen = choose_best_locations(scores, self.sparse_cells, inside)

        logits, previous = [], []
        for level, grid_index in enumerate(chosen):
            keypoints, points = self._regress_before_last(keypoint_features[level], grid_index)
            sampling = SamplingLocations(points, grid_index)
            level_logits = self.stages[-1].classify(cls_features[level], sampling)
            logits.append(sampling.to_maps(level_logits, elsewhere=-torch.inf))
            previous.append((keypoints, points))

        kept = select(logits)
        kept_logits = torch.cat(list(map(gather_locations, logits, kept)))
        boxes, offsets = [], []
        for level, grid_index in enumerate(kept):
            regressed = self._regress_last(keypoint_features[level], *previous[level], grid_index)
            boxes.append(regressed[0])
            offsets.append(regressed[1])
        image, location_ids = flatten_grid_indices(kept, features)
        kept_keypoints = torch.cat(offsets) if self.num_keypoints else None
        return LocationPredictions(image, location_ids, kept_logits, torch.cat(boxes), kept_keypoints)

    def _regress_before_last(self, features: Tensor, grid_index: GridIndex | None) -> tuple[Tensor, Tensor]:
        """Predict the keypoints (N, 2K, H, W) and points (N, 2P, H, W) that the last stage adds to.

        Args:
            features: (N, channels, H, W) of the tower, of one level.
            grid_index: the locations to compute; elsewhere the offsets are 0. None for all.
        """
        keypoints, points = self._zero_offsets(features)
        for stage in self.stages[:-1]:
            sampling = SamplingLocations(points, grid_index)
            keypoints, points, _ = stage.regress(
                features, sampling, sampling.select(keypoints), sampling.select(points)
            )
            keypoints, points = sampling.to_maps(keypoints), sampling.to_maps(points)
        return keypoints, points

    def _regress_last(
        self, features: Tensor, keypoints: Tensor, points: Tensor, grid_index: GridIndex
    ) -> tuple[Tensor, Tensor]:
        """Predict boxes (n, 4) and keypoints (n, 2K) of the last stage at chosen locations of one level."""
        sampling = SamplingLocations(points, grid_index)
        keypoints, points = sampling.select(keypoints), sampling.select(points)  # (n, ..., 1, 1)
        if not len(points):
            return points.new_zeros(0, 4), keypoints.flatten(1)
        keypoints, points, _ = self.stages[-1].regress(features, sampling, keypoints, points)
        return self._boxes(points).flatten(1), keypoints.flatten(1)

    def _zero_offsets(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keypoints (2K) and points (2P) before the first stage: on the location."""
        num, _, *size = features.shape
        keypoints = features.new_zeros(num, 2 * self.num_keypoints, *size)
        return keypoints, features.new_zeros(num, 2 * self.num_points, *size)

    def _boxes(self, points: Tensor) -> Tensor:
        """Compute B_ij (N, 4, H, W), the moments of the points (N, 2P, H, W) (paper, "Box Regression")."""
        x, y = split_points(to_float32(points), dim=1)
        return moment_box(x, y, scale_gradient(self.moment_scale, self.moment_gradient), dim=1)


class KGDetHead(PointSetHead):
    """KGDet's towers and stages.

    Args:
        num_classes: C.
        num_keypoints: K.
        num_stages: T, the first stage included.
        aggregation: the informative points are an "encoding" of all keypoints or a "selection" of some.
        columns: informative points of each column of the aggregation; their sum is P.
        channels: width of towers, first stage and columns.
        prior_prob: score of every class, and visibility of every keypoint, before training.
        stage_norm: normalisation of the stages' features, of each location by itself in inference.
        init: see :meth:`PointSetHead.init_weights`.
        others: as in :class:`PointSetHead`.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        num_keypoints: int,
        num_stages: int,
        aggregation: str,
        columns: list[int],
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: str,
        prior_prob: float,
        points_gradient: float,
        moment_gradient: float,
        sparse_cells: int = 0,
        sparse_training: int = 0,
        stage_norm: str = "",
        init: str = "normal",
    ):
        super().__init__(
            in_channels=in_channels,
            channels=channels,
            num_convs=num_convs,
            norm=norm,
            num_keypoints=num_keypoints,
            num_points=sum(columns),
            points_gradient=points_gradient,
            moment_gradient=moment_gradient,
            sparse_cells=sparse_cells,
            sparse_training=sparse_training,
        )
        self.stages = nn.ModuleList(
            KeypointStage(
                index,
                channels=channels,
                columns=columns,
                num_classes=num_classes,
                num_keypoints=num_keypoints,
                aggregation=aggregation,
                norm=stage_norm,
            )
            for index in range(num_stages)
        )
        self.init_weights(prior_prob, init)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.KGDET``."""
        kgdet = cfg.MODEL.KGDET
        arguments: dict[str, Any] = {"aggregation": kgdet.AGGREGATION, "sparse_cells": kgdet.SPARSE_CELLS}
        arguments["sparse_training"] = kgdet.SPARSE_TRAINING
        arguments |= {"stage_norm": kgdet.STAGE_NORM, "init": kgdet.INIT}
        return {**super().from_config(cfg, input_shape), **arguments}


def _stage_output(levels: list[StageMaps], *, with_keypoints: bool) -> StageOutput:
    """Collect a stage's maps of all levels."""
    first = levels[0]
    return StageOutput(
        logits=None if first.logits is None else [cast(Tensor, maps.logits) for maps in levels],
        keypoints=[maps.keypoints for maps in levels] if with_keypoints else None,
        points=[maps.points for maps in levels],
        boxes=[maps.boxes for maps in levels],
        visibility=None if first.visibility is None else [cast(Tensor, maps.visibility) for maps in levels],
    )


def _tower(in_channels: int, channels: int, num_convs: int, norm: str) -> nn.Sequential:
    layers = []
    for _ in range(num_convs):
        norm_layer = get_norm(norm, channels)
        layers.append(
            Conv2d(in_channels, channels, 3, padding=1, bias=not norm, norm=norm_layer, activation=nn.ReLU())
        )
        in_channels = channels
    return nn.Sequential(*layers)
