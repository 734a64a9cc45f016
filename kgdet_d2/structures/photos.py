"""Photos and their garments as records, one object each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Garment:
    """One garment of one photo; coordinates in continuous pixels of the photo.

    Attributes:
        category_id: class index, 0-based.
        box: float32 (4,), x1 y1 x2 y2.
        keypoints: float32 (K_c, 3), x y v of the class's own landmarks; v 0 absent, 1 occluded, 2 visible.
        polygons: float32 (V, 2) each.
        attributes: what else the dataset has for a garment (DeepFashion2: item, style, scale, occlusion,
            zoom_in, viewpoint); one that others have is 0 or "" where it is missing.
        iscrowd: the box is a region to ignore: of several garments, or of one that cannot be used.
    """

    category_id: int
    box: np.ndarray
    keypoints: np.ndarray
    polygons: Sequence[np.ndarray] = ()
    attributes: Mapping[str, int | str] = field(default_factory=dict)
    iscrowd: bool = False


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo; ``file_name`` is relative to the split's image folder, width and height are in pixels.

    ``attributes`` is what else the dataset has for a photo (DeepFashion2: source, pair_id); one that others
    have is 0 or "" where it is missing.
    """

    file_name: str
    image_id: int
    width: int
    height: int
    garments: Sequence[Garment]
    attributes: Mapping[str, int | str] = field(default_factory=dict)
