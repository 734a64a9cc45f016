"""What the heads of KGDet and RepPoints share: towers, a cascade of stages that place points, boxes of them.

N images, H x W cells of a level, L cells of all levels, C classes, K landmarks of all classes, P points that
boxes are made of.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from kgdet_d2.geometry.points import moment_box, split_points
from kgdet_d2.layers.deform_conv import DeformConv
from kgdet_d2.layers.numerics import scale_gradient, to_float32
from kgdet_d2.modeling.heads.aggregation import (
    KeypointEncoding,
    KeypointSelection,
    SamplingLocations,
    aggregation_makers,
    pick,
)
from kgdet_d2.schema import get_schema

# Images, rows and columns (n,) of some of one level's cells.
Cells = tuple[Tensor, Tensor, Tensor]
# These -> boxes (n, 4), keypoints (n, 2K) or None.
CellReader = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


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

    def at(self, images: Tensor, cells: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes (n, 4) and keypoints (n, 2K), as far as there are any, at chosen cells.

        Args:
            images, cells: (n,) each; cells are counted through all levels.
        """
        keypoints = self.keypoints or [None] * len(self.boxes)
        readers = [partial(_read_maps, *level) for level in zip(self.boxes, keypoints, strict=True)]
        return _read_levels(readers, [level.shape[-2:] for level in self.boxes], images, cells)


class PendingStage:
    """A stage that has told its classes; the rest is worked out by :meth:`at` where it is asked for.

    Attributes:
        logits: (N, C, H, W) of each level, as in :class:`StageOutput`; -inf at cells that are not looked at.
    """

    def __init__(self, logits: list[Tensor], readers: list[CellReader]):
        self.logits = logits
        self._readers = readers

    def at(self, images: Tensor, cells: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`StageOutput.at`."""
        return _read_levels(self._readers, [level.shape[-2:] for level in self.logits], images, cells)


def _read_maps(boxes: Tensor, keypoints: Tensor | None, *cells: Tensor) -> tuple[Tensor, Tensor | None]:
    """A :data:`CellReader` of maps that are there."""
    return pick(boxes, cells).flatten(1), None if keypoints is None else pick(keypoints, cells).flatten(1)


def _read_levels(
    readers: list[CellReader], sizes: list[torch.Size], images: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor | None]:
    """What each level's reader says of its own ones of the cells, in the order of the cells."""
    start, chosen, parts = 0, [], []
    for reader, (height, width) in zip(readers, sizes, strict=True):
        chosen.append(((cells >= start) & (cells < start + height * width)).nonzero().flatten())
        own = cells[chosen[-1]] - start
        parts.append(reader(images[chosen[-1]], own // width, own % width))
        start += height * width
    order = torch.cat(chosen).argsort()
    return tuple(None if part[0] is None else torch.cat(part)[order] for part in zip(*parts, strict=True))


def as_maps(values: Tensor, cells: Cells | None, features: Tensor, elsewhere: float = 0.0) -> Tensor:
    """The reverse of :func:`pick`: values (n, D, 1, 1) of the cells -> (N, D, H, W), as the features are.

    Where ``cells`` is None the values are maps of all cells, and stay so.
    """
    if cells is None:
        return values
    images, rows, columns = cells
    maps = values.new_full((len(features), values.shape[1], *features.shape[-2:]), elsewhere)
    maps[images, :, rows, columns] = values.flatten(1)
    return maps


class Stage(nn.Module):
    """One stage on one level: from feature maps, and what the stage before says, to classes and points.

    All fields are as in :class:`StageOutput`. The points tell which cells are wanted; maps from before are of
    these, see :class:`~kgdet_d2.modeling.heads.aggregation.SamplingLocations`.
    """

    def score_layers(self) -> list[nn.Conv2d]:
        """The convolutions whose sigmoid is a score."""
        raise NotImplementedError

    def classify(self, cls_features: Tensor, sampling_points: SamplingLocations) -> Tensor | None:
        """The logits, None where the stage does not classify."""
        raise NotImplementedError

    def place(
        self,
        keypoint_features: Tensor,
        sampling_points: SamplingLocations,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keypoints, points and visibility."""
        raise NotImplementedError

    def forward(
        self,
        cls_features: Tensor,
        keypoint_features: Tensor,
        sampling_points: SamplingLocations,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Logits, keypoints, points and visibility."""
        logits = self.classify(cls_features, sampling_points)
        return logits, *self.place(keypoint_features, sampling_points, previous_keypoints, previous_points)


class PointSetHead(nn.Module):
    """Towers for classification and for points, and stages of refinement, shared by all levels."""

    def __init__(
        self,
        stages: Iterable[Stage],
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
        sparse_cells: int = 0,
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
            sparse_cells: cells of an image at which :meth:`last_stage` computes stages after the first; 0 for
                all. It needs a first stage that classifies.
        """
        super().__init__()
        self.points_gradient = points_gradient
        self.moment_gradient = moment_gradient
        self.sparse_cells = sparse_cells
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
        kgdet, schema = cfg.MODEL.KGDET, get_schema(cfg.MODEL.KGDET.SCHEMA)
        (in_channels,) = {shape.channels for shape in input_shape.values()}
        return {
            "in_channels": in_channels,
            "num_classes": kgdet.NUM_CLASSES or schema.num_classes,
            "num_keypoints": kgdet.NUM_KEYPOINTS or schema.num_keypoints,
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

    def last_stage(self, features: list[Tensor], inside: Tensor | None = None) -> PendingStage:
        """What inference wants of :meth:`forward`: the last stage, with the classes alone of all cells.

        With ``sparse_cells`` later stages are computed at so many cells of each image, those that the first
        stage scores best, of all levels together. There they say the same.

        Args:
            inside: (N, L) bool, the cells that come first whatever their scores; None for all alike.
        """
        cls_features = [self.cls_tower(level) for level in features]
        cells = self._best_cells(cls_features, inside) if self.sparse_cells else [None] * len(features)
        levels = map(self._pending_level, features, cls_features, cells)
        return PendingStage(*map(list, zip(*levels, strict=True)))

    def _forward_level(self, features: Tensor) -> list[tuple[Tensor | None, ...]]:
        """Of each stage the fields of :class:`StageOutput`, on one level."""
        cls_features, keypoint_features = self.cls_tower(features), self.keypoint_tower(features)
        keypoints, points = self._nowhere(features)
        outputs = []
        for stage in self.stages:
            sampling_points = SamplingLocations(scale_gradient(points, self.points_gradient))
            # A stage adds to what came before without gradient to it.
            logits, keypoints, points, visibility = stage(
                cls_features, keypoint_features, sampling_points, keypoints.detach(), points.detach()
            )
            told = keypoints if self.num_keypoints else None
            outputs.append((logits, told, points, self._boxes(points), visibility))
        return outputs

    def _best_cells(self, cls_features: list[Tensor], inside: Tensor | None) -> list[Cells]:
        """Each level's share of the ``sparse_cells`` that the first stage scores best in each image."""
        levels = [
            self.stages[0].classify(level, SamplingLocations(self._nowhere(level)[1])).amax(dim=1)
            for level in cls_features
        ]
        scores = torch.cat([level.flatten(1) for level in levels], dim=1)
        if inside is not None:
            scores = scores.masked_fill(~inside, -torch.inf)
        best = scores.topk(min(self.sparse_cells, scores.shape[1])).indices
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
        chosen = chosen.split([level[0].numel() for level in levels], dim=1)
        return [own.view_as(level).nonzero(as_tuple=True) for own, level in zip(chosen, levels, strict=True)]

    def _pending_level(
        self, features: Tensor, cls_features: Tensor, cells: Cells | None
    ) -> tuple[Tensor, CellReader]:
        """Of the last stage the logits, and what works out the rest; of a level, at these cells or at all."""
        *stages, last = self.stages
        keypoint_features = self.keypoint_tower(features)
        keypoints, points = self._nowhere(features)
        for stage in stages:
            looks = SamplingLocations(points, cells)
            told, placed, _ = stage.place(keypoint_features, looks, looks.of(keypoints), looks.of(points))
            keypoints, points = (as_maps(values, cells, features) for values in (told, placed))

        def reader(*cells: Tensor) -> tuple[Tensor, Tensor | None]:
            before = [pick(maps, cells) for maps in (keypoints, points)]
            if not len(before[0]):  # all shapes are known
                return before[1].new_zeros(0, 4), before[0].flatten(1) if self.num_keypoints else None
            told, placed, _ = last.place(keypoint_features, SamplingLocations(points, cells), *before)
            return self._boxes(placed).flatten(1), told.flatten(1) if self.num_keypoints else None

        logits = last.classify(cls_features, SamplingLocations(points, cells))
        return as_maps(logits, cells, features, elsewhere=-torch.inf), reader

    def _nowhere(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints and points before the first stage: on the cell."""
        num, _, height, width = features.shape
        keypoints = features.new_zeros(num, 2 * self.num_keypoints, height, width)
        return keypoints, features.new_zeros(num, 2 * self.num_points, height, width)

    def _boxes(self, points: Tensor) -> Tensor:
        x, y = split_points(to_float32(points), dim=1)
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


AGGREGATIONS = {"encoding": KeypointEncoding, "selection": KeypointSelection}


class KeypointStage(Stage):
    """One stage of KGDet on one level: landmarks, informative points of them, and classes.

    Args:
        make_aggregation: called once a branch; gives a module (features, points) -> features that has
            ``out_channels``.
        make_points: given the channels of the features, K and P, makes the module that turns landmarks into
            informative points, :class:`KeypointEncoding` or :class:`KeypointSelection`.
        num_classes: C, None for a stage that does not classify.
        num_points: P.
    """

    def __init__(
        self,
        make_aggregation: Callable[[], nn.Module],
        make_points: Callable[[int, int, int], nn.Module],
        num_classes: int | None,
        num_keypoints: int,
        num_points: int,
    ):
        super().__init__()
        self.classifies = num_classes is not None
        if self.classifies:
            self.cls_aggregation = make_aggregation()
        self.keypoint_aggregation = make_aggregation()
        channels = self.keypoint_aggregation.out_channels
        if self.classifies:
            self.cls_score = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.keypoint_offsets = nn.Conv2d(channels, 2 * num_keypoints, kernel_size=1)
        self.encode_points = make_points(channels, num_keypoints, num_points)

    def score_layers(self) -> list[nn.Conv2d]:
        """The convolutions whose sigmoid is a score: of classes, and of landmarks in view."""
        layers = [self.cls_score] if self.classifies else []
        if isinstance(self.encode_points, KeypointSelection):
            layers.append(self.encode_points.visibility)
        return layers

    def classify(self, cls_features: Tensor, sampling_points: SamplingLocations) -> Tensor | None:
        """The logits."""
        if not self.classifies:
            return None
        return self.cls_score(self.cls_aggregation(cls_features, sampling_points))

    def place(
        self,
        keypoint_features: Tensor,
        sampling_points: SamplingLocations,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keypoints, points and visibility."""
        features = self.keypoint_aggregation(keypoint_features, sampling_points)
        residual = self.keypoint_offsets(features)
        keypoints = previous_keypoints + residual
        return keypoints, *self.encode_points(features, residual, keypoints, previous_points)


class KGDetHead(PointSetHead):
    """Towers for classification and for landmarks, and ``num_stages`` stages, shared by all levels."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        num_keypoints: int,
        num_stages: int,
        aggregation: str,
        columns: list[int],
        channels: int,
        **point_head_arguments: Any,
    ):
        """
        Args:
            num_stages: T, the first stage included.
            aggregation: whence the informative points: "encoding" of all landmarks, or "selection" of some.
            columns: informative points of each column of the aggregation.
            channels: width of towers, first stage and columns.
            point_head_arguments: the others of :class:`PointSetHead`.
        """
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation: expected one of {sorted(AGGREGATIONS)}, got {aggregation!r}")
        makers = aggregation_makers(channels, columns, num_stages)
        super().__init__(
            (
                KeypointStage(make, AGGREGATIONS[aggregation], num_classes, num_keypoints, sum(columns))
                for make in makers
            ),
            channels=channels,
            num_keypoints=num_keypoints,
            num_points=sum(columns),
            **point_head_arguments,
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        kgdet = cfg.MODEL.KGDET
        own = {"aggregation": kgdet.AGGREGATION, "sparse_cells": kgdet.SPARSE_CELLS}
        return {**super().from_config(cfg, input_shape), **own}
