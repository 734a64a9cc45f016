"""What the heads of KGDet and RepPoints share: towers, a cascade of stages that place points, boxes of them.

N images, H x W cells of a level, C classes, K landmarks of all classes, P points that boxes are made of.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from kgdet_d2.geometry.moment import moment_box
from kgdet_d2.geometry.numerics import full_precision, scale_gradient
from kgdet_d2.geometry.points import split_points
from kgdet_d2.modeling.aggregation import SamplingPoints, pick
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

    def at(self, images: Tensor, cells: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes (n, 4) and keypoints (n, 2K), as far as there are any, at chosen cells.

        Args:
            images, cells: (n,) each; cells are counted through all levels.
        """
        keypoints = self.keypoints or [None] * len(self.boxes)
        readers = [partial(_read_maps, *level) for level in zip(self.boxes, keypoints, strict=True)]
        return _read_levels(readers, [level.shape[-2:] for level in self.boxes], images, cells)


# Images, rows and columns (n,) of one level's cells -> boxes (n, 4), keypoints (n, 2K) or None.
CellReader = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


class PendingStage:
    """A stage that has told its classes; the rest is worked out by :meth:`at` where it is asked for.

    Attributes:
        logits: (N, C, H, W) of each level, as in :class:`StageOutput`.
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


class Stage(nn.Module):
    """One stage on one level: from feature maps, and what the stage before says, to classes and points.

    All fields are as in :class:`StageOutput`. The points tell which cells are wanted; maps from before are of
    these, see :class:`~kgdet_d2.modeling.aggregation.SamplingPoints`.
    """

    def score_layers(self) -> list[nn.Conv2d]:
        """The convolutions whose sigmoid is a score."""
        raise NotImplementedError

    def classify(self, cls_features: Tensor, sampling_points: SamplingPoints) -> Tensor | None:
        """The logits, None where the stage does not classify."""
        raise NotImplementedError

    def place(
        self,
        keypoint_features: Tensor,
        sampling_points: SamplingPoints,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keypoints, points and visibility."""
        raise NotImplementedError

    def forward(
        self,
        cls_features: Tensor,
        keypoint_features: Tensor,
        sampling_points: SamplingPoints,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Logits, keypoints, points and visibility."""
        logits = self.classify(cls_features, sampling_points)
        return logits, *self.place(keypoint_features, sampling_points, previous_keypoints, previous_points)


class PointHead(nn.Module):
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

    def last_stage(self, features: list[Tensor]) -> PendingStage:
        """What inference wants of :meth:`forward`: the last stage, with the classes alone of all cells."""
        return PendingStage(*map(list, zip(*map(self._pending_level, features), strict=True)))

    def _forward_level(self, features: Tensor) -> list[tuple[Tensor | None, ...]]:
        """Of each stage the fields of :class:`StageOutput`, on one level."""
        cls_features, keypoint_features = self.cls_tower(features), self.keypoint_tower(features)
        keypoints, points = self._nowhere(features)
        outputs = []
        for stage in self.stages:
            sampling_points = SamplingPoints(scale_gradient(points, self.points_gradient))
            # A stage adds to what came before without gradient to it.
            logits, keypoints, points, visibility = stage(
                cls_features, keypoint_features, sampling_points, keypoints.detach(), points.detach()
            )
            told = keypoints if self.num_keypoints else None
            outputs.append((logits, told, points, self._boxes(points), visibility))
        return outputs

    def _pending_level(self, features: Tensor) -> tuple[Tensor, CellReader]:
        """Of the last stage the logits, and what works out the rest, on one level."""
        *stages, last = self.stages
        keypoint_features = self.keypoint_tower(features)
        keypoints, points = self._nowhere(features)
        for stage in stages:
            keypoints, points, _ = stage.place(keypoint_features, SamplingPoints(points), keypoints, points)

        def reader(*cells: Tensor) -> tuple[Tensor, Tensor | None]:
            before = [pick(maps, cells) for maps in (keypoints, points)]
            if not len(before[0]):  # all shapes are known
                return before[1].new_zeros(0, 4), before[0].flatten(1) if self.num_keypoints else None
            told, placed, _ = last.place(keypoint_features, SamplingPoints(points, cells), *before)
            return self._boxes(placed).flatten(1), told.flatten(1) if self.num_keypoints else None

        return last.classify(self.cls_tower(features), SamplingPoints(points)), reader

    def _nowhere(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints and points before the first stage: on the cell."""
        num, _, height, width = features.shape
        keypoints = features.new_zeros(num, 2 * self.num_keypoints, height, width)
        return keypoints, features.new_zeros(num, 2 * self.num_points, height, width)

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
