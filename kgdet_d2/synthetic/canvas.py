"""Painting filled outlines, and remembering which of them each pixel shows."""

from collections.abc import Callable

import cv2
import numpy as np

_SUBPIXEL_BITS = 4
NOBODY = 0  # owner of pixels that show no cloth


class Canvas:
    """A photo in the making.

    Attributes:
        image: uint8 (H, W, 3) BGR.
        owner: int32 (H, W), the number of the piece of cloth each pixel shows, or NOBODY.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.owner = np.full(image.shape[:2], NOBODY, dtype=np.int32)

    def fill(
        self,
        outline: np.ndarray,
        colour: np.ndarray | Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
        *,
        owner: int | None = NOBODY,
    ) -> np.ndarray:
        """Fill a closed outline, with soft edges.

        Args:
            outline: (n, 2) pixels; may lie outside the frame.
            colour: (3,) BGR, or a function of the pixels' x (1, w), y (h, 1) and the mask 0..1 (h, w)
                that returns (h, w, 3).
            owner: number of the piece of cloth, or NOBODY; None leaves the owners as they are.

        Returns:
            bool (H, W): the pixels painted.
        """
        height, width = self.owner.shape
        painted = np.zeros((height, width), dtype=bool)
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (width, height))
        if (low >= high).any():
            return painted
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros((high - low)[::-1], dtype=np.uint8)
        fixed = np.round((outline - low) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        alpha = mask.astype(np.float32)[..., None] / 255
        if callable(colour):
            x, y = (np.arange(*limits, dtype=np.float32) for limits in zip(low, high, strict=True))
            colour = colour(x[None], y[:, None], alpha[..., 0])
        below = self.image[window].astype(np.float32)
        self.image[window] = np.clip(below + alpha * (colour - below), 0, 255)
        painted[window] = mask > 127
        if owner is not None:
            self.owner[painted] = owner
        return painted

    def line(self, points: np.ndarray, colour: np.ndarray, *, thickness: int = 1, closed=False) -> None:
        """A line through (n, 2) pixels; owners stay."""
        fixed = np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        ink = tuple(map(float, colour))
        cv2.polylines(self.image, [fixed], closed, ink, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
