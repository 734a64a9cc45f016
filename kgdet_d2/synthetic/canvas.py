"""What drawings are made with: a camera, outlines, and a canvas that remembers whose pixels are whose."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import cv2
import numpy as np

_CENTRE = np.array([0.0, 3.0])  # body coordinates; about this point the person is rotated


@dataclass(frozen=True)
class Camera:
    """Attributes:
    turn: about the vertical axis, radians.
    roll: in the image plane, radians, clockwise on screen.
    tilt: (2,) perspective: relative shrinking per head of distance from the centre, along x and y.
    waves: (n, 6) smooth warp: amplitude x, amplitude y, wave numbers x, y, phase x, phase y.
    scale: pixels per head.
    shift: (2,) pixels; where the centre comes to lie.
    """

    turn: float
    roll: float
    tilt: np.ndarray
    waves: np.ndarray
    scale: float = 1.0
    shift: np.ndarray | float = 0.0

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) or (n, 3) points in body coordinates -> (n, 2) pixels."""
        depth = points[:, 2] if points.shape[1] == 3 else np.zeros(len(points))
        x = points[:, 0] * np.cos(self.turn) + depth * np.sin(self.turn)
        flat = np.stack([x, points[:, 1]], axis=1) - _CENTRE
        angle = flat @ self.waves[:, 2:4].T
        flat = flat + np.sin(angle + self.waves[:, 4]) @ self.waves[:, :1] * [1, 0]
        flat = flat + np.sin(angle + self.waves[:, 5]) @ self.waves[:, 1:2] * [0, 1]
        flat = flat / (1 + flat @ self.tilt)[:, None]
        sin, cos = np.sin(self.roll), np.cos(self.roll)
        return flat @ np.array([[cos, sin], [-sin, cos]]) * self.scale + self.shift

    def framed(self, points: np.ndarray, target: np.ndarray) -> "Camera":
        """The same view, scaled and moved so that the points' box fits the box x1 y1 x2 y2, centred."""
        seen = replace(self, scale=1.0, shift=0.0)(points)
        low, high = seen.min(axis=0), seen.max(axis=0)
        scale = float(((target[2:] - target[:2]) / (high - low)).min())
        return replace(self, scale=scale, shift=0.5 * (target[:2] + target[2:]) - scale * 0.5 * (low + high))


def random_camera(rng: np.random.Generator, *, turn: float, flat: bool) -> Camera:
    """A view still to be framed; garments laid flat may lie at larger angles."""
    amplitudes, numbers = rng.normal(0, 0.03, (3, 2)), rng.uniform(-1.6, 1.6, (3, 2))
    waves = np.concatenate([amplitudes, numbers, rng.uniform(0, 2 * np.pi, (3, 2))], axis=1)
    return Camera(
        turn=turn,
        roll=np.deg2rad(np.clip(rng.normal(0, 12 if flat else 6), -30, 30)),
        tilt=rng.normal(0, 0.015, 2),
        waves=waves,
    )


def smooth_outline(points: np.ndarray, corners: np.ndarray, *, samples: int = 6) -> np.ndarray:
    """Closed cubic Hermite curve through points, with Catmull-Rom directions.

    Args:
        points: (n, d), in order around the outline.
        corners: (n,) bool; the curve may bend sharply there.
        samples: points per segment.

    Returns:
        (n * samples, d); row ``i * samples`` is ``points[i]``.
    """
    after = np.roll(np.arange(len(points)), -1)
    before = np.roll(after, 2)
    following = points[after]
    chord, through = following - points, following - points[before]
    length = np.linalg.norm(chord, axis=1, keepdims=True)
    through = through / np.maximum(np.linalg.norm(through, axis=1, keepdims=True), 1e-9)
    # Tangents as long as the segment itself: unequal spacing then makes no loops.
    start = np.where(corners[:, None], chord, through * length)
    end = np.where(corners[after, None], chord, through[after] * length)
    t = (np.arange(samples) / samples)[:, None, None]
    curve = (
        (1 + 2 * t) * (1 - t) ** 2 * points
        + t * (1 - t) ** 2 * start
        + t**2 * (3 - 2 * t) * following
        + t**2 * (t - 1) * end
    )
    return curve.transpose(1, 0, 2).reshape(-1, points.shape[1])


_SUBPIXEL_BITS = 4
NOBODY = 0  # owner of pixels that show no cloth


class Layer(IntEnum):
    """From the back of the scene to the front."""

    HAIR = 0
    OUTWEAR_BACK = 1
    COLLAR_BACK = 2
    ARM_BEHIND = 3
    SLEEVE_BEHIND = 4
    OUTWEAR_SLEEVE_BEHIND = 5
    SKIN = 6
    INNER = 7
    MIDDLE = 8
    OUTER = 9
    HEAD = 10
    ARM = 11
    SLEEVE = 12
    OUTWEAR_SLEEVE = 13
    OBJECT = 14


@dataclass(frozen=True)
class Shape:
    """A filled shape: (n, 2) outline in body coordinates, smooth; BGR colour (3,)."""

    layer: Layer
    outline: np.ndarray
    colour: np.ndarray


def ellipse(centre: tuple[float, float] | np.ndarray, width: float, height: float) -> np.ndarray:
    """(12, 2) outline points; half width and half height."""
    angle = np.arange(12) * np.pi / 6
    return np.asarray(centre) + np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1)


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
