"""RepPoints' head (Yang et al., ICCV 2019), and RepPoints-Kp's (paper, "Baselines").

N images, H x W locations of a level, C classes, K keypoints of all classes, P points.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from kgdet_d2.modeling.heads.aggregation import SamplingLocations, build_aggregation
from kgdet_d2.modeling.heads.kgdet_head import KeypointStage, PointSetHead


class Branch(nn.Module):
    """Features aggregated at points, and a 1x1 convolution of them.

    Args:
        index: the stage's number, from 0.
        channels: width of the tower and of each column.
        columns: points of each column.
        out_channels: of the convolution.
    """

    def __init__(self, index: int, channels: int, columns: list[int], out_channels: int):
        super().__init__()
        self.aggregation = build_aggregation(index, channels, columns)
        self.output = nn.Conv2d(self.aggregation.out_channels, out_channels, kernel_size=1)

    def forward(self, features: Tensor, sampling: SamplingLocations) -> Tensor:
        """Predict (N, out_channels, H, W), or of the locations that sample."""
        return self.output(self.aggregation(features, sampling))


class RepPointsStage(nn.Module):
    """A stage of RepPoints, with the methods of :class:`KeypointStage`.

    Points, classes, and keypoints beside them each have a branch of their own.

    Args:
        index: the stage's number, from 0.
        channels: width of the towers and of each column.
        columns: points of each column; their sum is P.
        num_classes: C, None for a stage that does not classify.
        num_keypoints: K, 0 for no keypoints.
    """

    def __init__(
        self, index: int, *, channels: int, columns: list[int], num_classes: int | None, num_keypoints: int
    ):
        super().__init__()

        def branch(out_channels: int) -> Branch:
            return Branch(index, channels, columns, out_channels)

        self.classes = branch(num_classes) if num_classes is not None else None
        self.points = branch(2 * sum(columns))
        self.keypoints = branch(2 * num_keypoints) if num_keypoints else None

    def score_layers(self) -> list[nn.Conv2d]:
        """Return the convolution of the classes' scores, if there is one."""
        return [] if self.classes is None else [self.classes.output]

    def classify(self, cls_features: Tensor, sampling: SamplingLocations) -> Tensor | None:
        """Predict the logits."""
        return None if self.classes is None else self.classes(cls_features, sampling)

    def regress(
        self,
        features: Tensor,
        sampling: SamplingLocations,
        previous_keypoints: Tensor,
        previous_points: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predict keypoints and points, each its predecessor plus a residual."""
        points = previous_points + self.points(features, sampling)
        keypoints = previous_keypoints
        if self.keypoints is not None:
            keypoints = previous_keypoints + self.keypoints(features, sampling)
        return keypoints, points, None


class RepPointsHead(PointSetHead):
    """Towers, an initial stage that regresses points, and stages that classify and refine them.

    Keypoints, if wanted, are regressed either beside the points, "parallel" (the paper's RepPoints-Kp), or
    before them, "serial": the points are then an encoding of the keypoints, as in KGDet.

    Args:
        num_classes: C.
        num_keypoints: K; without effect where ``keypoints`` is "none".
        num_stages: the initial one included; RepPoints has 2.
        keypoints: "none", "parallel" or "serial".
        columns: points of each column of the deformable convolutions; RepPoints has one column of 9.
        channels: width of towers, first stage and columns.
        prior_prob: score of every class before training.
        others: as in :class:`~kgdet_d2.modeling.heads.kgdet_head.PointSetHead`.
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
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: str,
        prior_prob: float,
        points_gradient: float,
        moment_gradient: float,
    ):
        if keypoints not in ("none", "parallel", "serial"):
            raise ValueError(f"keypoints: expected 'none', 'parallel' or 'serial', got {keypoints!r}")
        num_keypoints = 0 if keypoints == "none" else num_keypoints
        super().__init__(
            in_channels=in_channels,
            channels=channels,
            num_convs=num_convs,
            norm=norm,
            num_keypoints=num_keypoints,
            num_points=sum(columns),
            points_gradient=points_gradient,
            moment_gradient=moment_gradient,
        )
        stages: list[nn.Module] = []
        for index in range(num_stages):
            arguments: dict[str, Any] = {
                "channels": channels,
                "columns": columns,
                "num_classes": num_classes if index else None,
                "num_keypoints": num_keypoints,
            }
            if keypoints == "serial":
                stages.append(KeypointStage(index, aggregation="encoding", **arguments))
            else:
                stages.append(RepPointsStage(index, **arguments))
        self.stages = nn.ModuleList(stages)
        self.init_weights(prior_prob)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.KGDET`` and ``MODEL.REPPOINTS``."""
        return {**super().from_config(cfg, input_shape), "keypoints": cfg.MODEL.REPPOINTS.KEYPOINTS}
