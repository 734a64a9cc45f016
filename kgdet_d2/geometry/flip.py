"""Mirrored feature maps, offsets and boxes, brought back to the frame of the image that was mirrored.

N images, H x W locations of a map, K keypoints.

A mirror takes x to a - x, in whatever unit x is counted. For locations, which lie at whole numbers,
column j becomes column a - j; offsets and boxes relative to their location then change their sign and nothing
is added.
"""

import torch
from torch import Tensor

from kgdet_d2.geometry.points import split_points


def mirror_columns(maps: Tensor, axis: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return maps whose column j is column axis - j of the given maps.

    Args:
        maps: (N, D, H, W).
        axis: (N,) whole numbers, one for each image.
        width: columns of the result.

    Returns:
        (N, D, H, width), zero in columns whose source lies outside the maps, and (N, 1, 1, width), true in
        the others. With width W a second mirror restores all columns that the first did not lose.
    """
    source = axis[:, None] - torch.arange(width, device=maps.device)  # (N, width)
    inside = ((source >= 0) & (source < maps.shape[-1]))[:, None, None]  # (N, 1, 1, width)
    source = source.clamp(0, maps.shape[-1] - 1)[:, None, None].expand(*maps.shape[:-1], width)
    return maps.gather(-1, source).masked_fill(~inside, 0), inside


def mirror_offsets(offsets: Tensor, flip_map: Tensor) -> Tensor:
    """Mirror keypoint offsets: x changes its sign, left and right keypoints change places.

    Args:
        offsets: (N, 2K, H, W), y first.
        flip_map: (K,), entry i is the keypoint that keypoint i becomes in a mirror.

    Returns:
        (N, 2K, H, W).
    """
    mirrored = offsets.unflatten(1, (-1, 2))[:, flip_map].flatten(1, 2)
    x, _ = split_points(mirrored, dim=1)
    x.neg_()
    return mirrored


def mirror_boxes(boxes: Tensor) -> Tensor:
    """Mirror boxes (N, 4, H, W), x1 y1 x2 y2 relative to their location: -x2, y1, -x1, y2."""
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([-x2, y1, -x1, y2], dim=1)
