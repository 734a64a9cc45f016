"""Predictions of a stage, at all locations or at chosen ones.

N images, H x W locations of a level, L locations of all levels, C classes, K keypoints of all classes,
P informative points, n chosen locations. Offsets are relative to the location, in strides, y first.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kgdet_d2.geometry.points import GridIndex, flatten_grid_indices, gather_locations, to_float32

# A stage's logits (N, C, H, W) per level -> the locations to keep, per level.
SelectLocations = Callable[[list[Tensor]], list[GridIndex]]


@dataclass
class LocationPredictions:
    """Predictions of one stage at n chosen locations, level after level.

    Attributes:
        image: (n,) index of the location's image.
        location_ids: (n,), counted through the L locations of all levels.
        logits: (n, C), before the sigmoid.
        boxes: (n, 4) x1, y1, x2, y2 from the location in strides.
        keypoints: (n, 2K) offsets; None where the head regresses no keypoints.
    """

    image: Tensor
    location_ids: Tensor
    logits: Tensor
    boxes: Tensor
    keypoints: Tensor | None


@dataclass
class StageOutput:
    """Predictions of one stage at all locations, a tensor per level in each field.

    Attributes:
        logits: (N, C, H, W), before the sigmoid; None where the stage does not classify.
        keypoints: (N, 2K, H, W) offsets; None where the head regresses no keypoints.
        points: (N, 2P, H, W) offsets of the (informative) points.
        boxes: (N, 4, H, W) x1, y1, x2, y2 from the location in strides, the moments of the points.
        visibility: (N, K, H, W) of each keypoint, before the sigmoid; only with keypoint selection.
    """

    logits: list[Tensor] | None
    keypoints: list[Tensor] | None
    points: list[Tensor]
    boxes: list[Tensor]
    visibility: list[Tensor] | None = None

    def gather(self, grid_indices: list[GridIndex]) -> LocationPredictions:
        """Gather the predictions at chosen locations of each level.

        Raises:
            ValueError: the stage does not classify.
        """
        if self.logits is None:
            raise ValueError("StageOutput: expected a stage that classifies, got one without logits")
        image, location_ids = flatten_grid_indices(grid_indices, self.boxes)
        return LocationPredictions(
            image=image,
            location_ids=location_ids,
            logits=_gather_levels(self.logits, grid_indices),
            boxes=_gather_levels(self.boxes, grid_indices),
            keypoints=None if self.keypoints is None else _gather_levels(self.keypoints, grid_indices),
        )


def _gather_levels(levels: list[Tensor], grid_indices: list[GridIndex]) -> Tensor:
    gathered = [gather_locations(maps, index) for maps, index in zip(levels, grid_indices, strict=True)]
    return torch.cat(gathered)


def choose_best_locations(scores: list[Tensor], number: int, inside: Tensor | None = None) -> list[GridIndex]:
    """Choose the locations of each image that score best, of all levels together.

    Args:
        scores: (N, H, W) per level.
        number: locations of an image; all where there are fewer.
        inside: (N, L) bool, locations that come first whatever their scores, then the best of the others;
            None for all alike.
    """
    all_scores = torch.cat([level.flatten(1) for level in scores], dim=1)  # (N, L)
    if inside is not None:
        all_scores = to_float32(all_scores)
        spread = all_scores.max() - all_scores.min()
        all_scores = all_scores - (spread + 1) * ~inside  # the others below all of these, in their own order
    best = all_scores.topk(min(number, all_scores.shape[1])).indices
    is_best = torch.zeros_like(all_scores, dtype=torch.bool).scatter_(1, best, True)
    grid_indices = []
    for level_is_best, level in zip(
        is_best.split([s[0].numel() for s in scores], dim=1), scores, strict=True
    ):
        image, row, column = level_is_best.view_as(level).nonzero(as_tuple=True)
        grid_indices.append((image, row, column))
    return grid_indices
