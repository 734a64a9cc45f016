"""Flip fusion (paper, Table 4, "flip"): the mean of the predictions for an image and for its mirror image.

N images, H x W locations of a level, K keypoints.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import ImageList
from torch import Tensor, nn

from kgdet_d2.geometry.flip import mirror_boxes, mirror_columns, mirror_offsets
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.schema import DEEPFASHION2, KeypointSchema
from kgdet_d2.utils.catalog import schema_of_config

# Landmarks of short sleeve outwear, from 1, that the release's table exchanges.
_RELEASED_PAIRS = ((2, 26), (4, 6))


class FlipFusion(nn.Module):
    """A second pass on the mirror image, and the mean of logits, offsets and boxes at each location.

    Mode "image" is the paper's: each image is mirrored within its own width, rounded up to the largest stride
    so that locations fall on locations at every level; the whole network runs twice. A location at x = 0
    falls on the right edge, where no location is; it keeps the first pass's predictions, as do locations in
    the batch's padding.

    Mode "feature" is the release's: each level's map is mirrored as it is, padding included, so that the last
    column becomes the first; the head alone runs twice.
    """

    flip_map: Tensor

    @configurable
    def __init__(self, *, on_images: bool, in_training: bool, flip_map: Tensor):
        """Set the mode.

        Args:
            on_images: mode "image", else "feature".
            in_training: fuse in training too; the gradient then flows through both passes.
            flip_map: (K,), entry i is the slot of keypoint i in the mirror image.
        """
        super().__init__()
        self.on_images = on_images
        self.in_training = in_training
        self.register_buffer("flip_map", flip_map, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.KGDET.FLIP_FUSION`` and ``MODEL.KGDET.SCHEMA``."""
        flip = cfg.MODEL.KGDET.FLIP_FUSION
        return {
            "on_images": flip.MODE == "image",
            "in_training": flip.IN_TRAINING,
            "flip_map": keypoint_flip_map(schema_of_config(cfg), flip.PERMUTATION),
        }

    def forward(
        self,
        images: ImageList,
        features: list[Tensor],
        stages: list[StageOutput],
        *,
        strides: list[int],
        extract: Callable[[Tensor], list[Tensor]],
        head: Callable[[list[Tensor]], list[StageOutput]],
    ) -> list[StageOutput]:
        """Fuse the stages' outputs with those of a second pass.

        Args:
            images: of the first pass.
            features: of the first pass, (N, C, H, W) per level.
            stages: of the first pass.
            strides: pixels per location, of each level.
            extract: images (N, 3, H, W) -> features, a level each.
            head: features -> stages.
        """
        if self.training and not self.in_training:
            return stages
        if self.on_images:
            mirrored_images, widths = mirror_images(images, max(strides))
            mirrored = extract(mirrored_images)
            axes = [widths // stride for stride in strides]
        else:
            mirrored, axes = mirror_features(features)
        return fuse_flipped(stages, head(mirrored), axes, self.flip_map)


def mirror_images(images: ImageList, unit: int) -> tuple[Tensor, Tensor]:
    """Mirror each image within its own width, rounded up to ``unit`` pixels: x becomes width - x.

    Returns:
        (N, 3, H, W) with W the largest of the widths, zero where no image is, and the widths (N,).
    """
    widths = [-(-width // unit) * unit for _, width in images.image_sizes]
    axis = torch.tensor(widths, device=images.tensor.device)
    # The pixel in column c covers x from c to c + 1.
    return mirror_columns(images.tensor, axis - 1, max(widths))[0], axis


def mirror_features(features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Mirror each level (N, C, H, W) as a whole.

    Returns:
        The mirrored levels, and per level the axes (N,), its last column.
    """
    axes = [level.new_full((len(level),), level.shape[-1] - 1, dtype=torch.long) for level in features]
    return [level.flip(-1) for level in features], axes


def fuse_flipped(
    stages: list[StageOutput], mirrored: list[StageOutput], axes: list[Tensor], flip_map: Tensor
) -> list[StageOutput]:
    """Compute the mean of two passes, the second one brought back to the first one's frame.

    Args:
        stages: the head's outputs for the images.
        mirrored: its outputs for their mirror images.
        axes: per level (N,); the location in column j is the mirror's in column axis - j.
        flip_map: (K,), entry i is the slot of keypoint i in the mirror image.

    Returns:
        Stages like the first pass's; locations without a partner, and the informative points, which have no
        names to pair them by, are the first pass's own.
    """
    unmirror: dict[str, Callable[[Tensor], Tensor]] = {
        "logits": lambda level: level,
        "keypoints": lambda level: mirror_offsets(level, flip_map),
        "boxes": mirror_boxes,
        "visibility": lambda level: level[:, flip_map],
    }
    fused = []
    for stage, mirrored_stage in zip(stages, mirrored, strict=True):
        fields = {}
        for name, function in unmirror.items():
            levels, mirrored_levels = getattr(stage, name), getattr(mirrored_stage, name)
            if levels is not None:
                fields[name] = [
                    _mean(level, function(mirrored_level), axis)
                    for level, mirrored_level, axis in zip(levels, mirrored_levels, axes, strict=True)
                ]
        fused.append(replace(stage, **fields))
    return fused


def _mean(level: Tensor, mirrored_level: Tensor, axis: Tensor) -> Tensor:
    partner, has_partner = mirror_columns(mirrored_level, axis, level.shape[-1])
    return torch.where(has_partner, (level + partner) / 2, level)


def keypoint_flip_map(schema: KeypointSchema, permutation: str) -> Tensor:
    """Return the slot of each keypoint in the mirror image, int64 (K,).

    Args:
        schema: the classes and their keypoints.
        permutation: "corrected", the schema's, or "released", DeepFashion2's as in the released system.

    Raises:
        ValueError: the schema has no such permutation.
    """
    flip = torch.tensor(schema.flip_map)
    if permutation == "released" and schema is DEEPFASHION2:
        slots = schema.slots[schema.class_names.index("short sleeve outwear")]
        for a, b in _RELEASED_PAIRS:
            flip[slots[a - 1]], flip[slots[b - 1]] = slots[b - 1], slots[a - 1]
    elif permutation != "corrected":
        raise ValueError(
            f"MODEL.KGDET.FLIP_FUSION.PERMUTATION: {schema.name} has no permutation {permutation!r}"
        )
    return flip
