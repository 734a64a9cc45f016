"""RepPoints' head (Yang et al., ICCV 2019), and RepPoints-Kp's (paper, "Baselines").

N images, H x W cells of a level, C classes, K landmarks of all classes, P points.
"""

from collections.abc import Callable
from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from kgdet_d2.modeling.heads.aggregation import KeypointEncoding, SamplingLocations, aggregation_makers
from kgdet_d2.modeling.heads.kgdet_head import KeypointStage, PointSetHead, Stage

KEYPOINTS = ("none", "parallel", "serial")


class Branch(nn.Module):
    """Features gathered at points, and a 1x1 convolution of them."""

    def __init__(self, aggregation: nn.Module, out_channels: int):
        super().__init__()
        self.aggregation = aggregation
        self.output = nn.Conv2d(aggregation.out_channels, out_channels, kernel_size=1)

    def forward(self, features: Tensor, points: SamplingLocations) -> Tensor:
        return self.output(self.aggregation(features, points))


class RepPointsStage(Stage):
    """One stage on one level: points, classes, and landmarks beside them, each by a branch of its own.

    Args:
        make_aggregation: as for :class:`~kgdet_d2.modeling.heads.kgdet_head.KeypointStage`.
        num_classes: C, None for a stage that does not classify.
        num_keypoints: K, 0 for no landmarks.
        num_points: P.
    """

    def __init__(
        self,
        make_aggregation: Callable[[], nn.Module],
        num_classes: int | None,
        num_keypoints: int,
        num_points: int,
    ):
        super().__init__()
        self.classes = Branch(make_aggregation(), num_classes) if num_classes is not None else None
        self.points = Branch(make_aggregation(), 2 * num_points)
        self.keypoints = Branch(make_aggregation(), 2 * num_keypoints) if num_keypoints else None

    def score_layers(self) -> list[nn.Conv2d]:
        """The convolutions whose sigmoid is a score."""
        return [] if self.classes is None else [self.classes.output]

    def classify(self, cls_features: Tensor, sampling_points: SamplingLocations) -> Tensor | None:
        """The logits."""
        return None if self.classes is None else self.classes(cls_features, sampling_points)

    def place(
        self,
        keypoint_features: Tensor,
        sampling_points: SamplingLocations,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, None]:
        """Keypoints, points and visibility."""
        points = previous_points + self.points(keypoint_features, sampling_points)
        keypoints = previous_keypoints
        if self.keypoints is not None:
            keypoints = previous_keypoints + self.keypoints(keypoint_features, sampling_points)
        return keypoints, points, None


class RepPointsHead(PointSetHead):
    """Towers, an initial stage that places points, and stages that classify and place them anew.

    Landmarks, if wanted, are regressed either beside the points, "parallel" (the paper's RepPoints-Kp), or
    before them, "serial": the points are then an encoding of the landmarks, as in KGDet.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        num_keypoints: int,
        num_stages: int,
        keypoints: str,
        columns: list[int],
        channels: int,
        **point_head_arguments: Any,
    ):
        """
        Args:
            num_keypoints: K; without effect where ``keypoints`` is "none".
            num_stages: the initial one included; RepPoints has 2.
            keypoints: "none", "parallel" or "serial".
            columns: points of each column of the deformable convolutions; RepPoints has one column of 9.
            channels: width of towers, first stage and columns.
            point_head_arguments: the others of :class:`PointSetHead`.
        """
        if keypoints not in KEYPOINTS:
            raise ValueError(f"keypoints: expected one of {KEYPOINTS}, got {keypoints!r}")
        num_keypoints = 0 if keypoints == "none" else num_keypoints
        num_points = sum(columns)
        makers = aggregation_makers(channels, columns, num_stages)
        classes = [None] + [num_classes] * (num_stages - 1)

        def stage(make_aggregation: Callable[[], nn.Module], num_classes: int | None) -> nn.Module:
            if keypoints == "serial":
                return KeypointStage(
                    make_aggregation, KeypointEncoding, num_classes, num_keypoints, num_points
                )
            return RepPointsStage(make_aggregation, num_classes, num_keypoints, num_points)

        super().__init__(
            map(stage, makers, classes),
            channels=channels,
            num_keypoints=num_keypoints,
            num_points=num_points,
            **point_head_arguments,
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        return {**super().from_config(cfg, input_shape), "keypoints": cfg.MODEL.REPPOINTS.KEYPOINTS}
