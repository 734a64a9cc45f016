"""The one rule by which photos become the input of an exported model."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image


@dataclass(frozen=True)
class SizeRule:
    """Photos are scaled by Pillow's bilinear filter and put at the top left of a frame.

    Attributes:
        shortest_edge: the shorter side is scaled to it,
        longest_edge: unless the longer one would be longer than this: then that is scaled to it.
        multiple_of: the frame's sides are the smallest multiples that hold the photos of a batch.
        frame: (height, width) of a frame that is fixed; photos then are as large as fits, whatever the edges.
    """

    shortest_edge: int
    longest_edge: int
    multiple_of: int
    frame: tuple[int, int] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, multiple_of: int, frame: tuple[int, int] | None) -> "SizeRule":
        """Read ``INPUT``."""
        return cls(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, multiple_of, frame)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, and the filter."""
        return {**asdict(self), "filter": "bilinear (Pillow)", "place": "top left"}

    def resize(self, photo: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Scale a photo uint8 (H, W, 3), to a share of what the rule says."""
        height, width = photo.shape[:2]
        if self.frame is not None:
            scale = min(self.frame[0] / height, self.frame[1] / width) * share
            size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        else:
            short, long = (round(edge * share) for edge in (self.shortest_edge, self.longest_edge))
            size = T.ResizeShortestEdge.get_output_shape(height, width, short, long)
        return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR))

    def batch(self, photos: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Put scaled photos, uint8 (h, w, 3), into a frame each.

        Returns:
            images uint8 (N, 3, H, W), and int64 (N, 2) height and width of the photo in each.
        """
        sizes = np.array([photo.shape[:2] for photo in photos])
        frame = self.frame or -(-sizes.max(axis=0) // self.multiple_of) * self.multiple_of
        images = np.zeros((len(photos), 3, *frame), np.uint8)
        for image, photo in zip(images, photos, strict=True):
            image[:, : photo.shape[0], : photo.shape[1]] = photo.transpose(2, 0, 1)
        return images, sizes
