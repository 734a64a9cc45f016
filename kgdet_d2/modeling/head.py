"""KGDet's head: a cascade of stages (paper, "KGDet Network" and "The Cascade Strategy").

N images, H x W cells of a level, C classes, K landmarks of all classes, P informative points.
"""

from collections.abc import Callable
from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from kgdet_d2.modeling.aggregation import (
    KeypointEncoding,
    KeypointSelection,
    SamplingPoints,
    aggregation_makers,
)
from kgdet_d2.modeling.point_head import PointHead, Stage

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

    def classify(self, cls_features: Tensor, sampling_points: SamplingPoints) -> Tensor | None:
        """The logits."""
        if not self.classifies:
            return None
        return self.cls_score(self.cls_aggregation(cls_features, sampling_points))

    def place(
        self,
        keypoint_features: Tensor,
        sampling_points: SamplingPoints,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keypoints, points and visibility."""
        features = self.keypoint_aggregation(keypoint_features, sampling_points)
        residual = self.keypoint_offsets(features)
        keypoints = previous_keypoints + residual
        return keypoints, *self.encode_points(features, residual, keypoints, previous_points)


class KGDetHead(PointHead):
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
            point_head_arguments: the others of :class:`PointHead`.
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
