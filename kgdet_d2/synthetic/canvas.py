"""The tools of drawing: a camera, outlines, and a canvas that records the owner of each pixel."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import cv2
import numpy as np

NOBODY = 0  # owner of pixels that show no cloth
_CENTRE = np.array([0.0, 3.0])  # body coordinates; about this point the person is rotated
_SUBPIXEL_BITS = 4

# Pixels' x (1, w), their y (h, 1) and the mask 0..1 (h, w) -> BGR (h, w, 3).
Shader = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Camera:
    """A map from body coordinates (see figure.py) to pixels: turn, smooth warp, perspective, rotation, scale.

    Attributes:
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
        """Project points.

        Args:
            points: (n, 2) or (n, 3) in body coordinates.

        Returns:
            (n, 2) pixels.
        """
        depth = points[:, 2] if points.shape[1] == 3 else np.zeros(len(points))
        x = points[:, 0] * np.cos(self.turn) + depth * np.sin(self.turn)
        xy = np.stack([x, points[:, 1]], axis=1) - _CENTRE  # (n, 2)
        # Both waves are functions of where a point lies before the warp.
        angle = xy @ self.waves[:, 2:4].T  # (n, waves)
        xy = xy + np.sin(angle + self.waves[:, 4]) @ self.waves[:, :1] * [1, 0]
        xy = xy + np.sin(angle + self.waves[:, 5]) @ self.waves[:, 1:2] * [0, 1]
        xy = xy / (1 + xy @ self.tilt)[:, None]
        sin, cos = np.sin(self.roll), np.cos(self.roll)
        return xy @ np.array([[cos, sin], [-sin, cos]]) * self.scale + self.shift

    def fit_to_box(self, points: np.ndarray, box: np.ndarray) -> "Camera":
        """Return the same view, scaled and moved so that points fill a box.

        Args:
            points: (n, 2) or (n, 3) in body coordinates.
            box: (4,) x1 y1 x2 y2, pixels; the points' extent fits into it, centred.
        """
        projected = replace(self, scale=1.0, shift=0.0)(points)
        low, high = projected.min(axis=0), projected.max(axis=0)
        scale = float(((box[2:] - box[:2]) / (high - low)).min())
        return replace(self, scale=scale, shift=0.5 * (box[:2] + box[2:]) - scale * 0.5 * (low + high))


def random_camera(rng: np.random.Generator, *, turn: float, flat: bool) -> Camera:
    """Return a random view, still without scale and shift.

    Args:
        rng: where the choices come from.
        turn: of the body about the vertical axis, radians.
        flat: whether the garments are laid out on a table; they may lie at larger angles then.
    """
    amplitudes, wave_numbers = rng.normal(0, 0.03, (3, 2)), rng.uniform(-1.6, 1.6, (3, 2))
    phases = rng.uniform(0, 2 * np.pi, (3, 2))
    return Camera(
        turn=turn,
        roll=np.deg2rad(np.clip(rng.normal(0, 12 if flat else 6), -30, 30)),
        tilt=rng.normal(0, 0.015, 2),
        waves=np.concatenate([amplitudes, wave_numbers, phases], axis=1),
    )


def smooth_outline(points: np.ndarray, corners: np.ndarray, *, samples: int = 6) -> np.ndarray:
    """Compute a closed cubic Hermite curve through points, with Catmull-Rom directions.

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
    curve = (  # (samples, n, d)
        (1 + 2 * t) * (1 - t) ** 2 * points
        + t * (1 - t) ** 2 * start
        + t**2 * (3 - 2 * t) * following
        + t**2 * (t - 1) * end
    )
    return curve.transpose(1, 0, 2).reshape(-1, points.shape[1])


def ellipse(centre: tuple[float, float] | np.ndarray, width: float, height: float) -> np.ndarray:
    """Return twelve points of an ellipse.

    Args:
        centre: (2,) x, y.
        width: half the width.
        height: half the height.

    Returns:
        (12, 2), in the unit of the arguments.
    """
    angle = np.arange(12) * np.pi / 6
    return np.asarray(centre) + np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1)


class Layer(IntEnum):
    """The order of painting, from the back of the scene to the front."""

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
    """A filled shape of one colour.

    Attributes:
        layer: when it is painted.
        outline: (n, 2) in body coordinates; it is painted smooth.
        colour: (3,) BGR 0..255.
    """

    layer: Layer
    outline: np.ndarray
    colour: np.ndarray


class Canvas:
    """An image in the making.

    Attributes:
        image: uint8 (H, W, 3) BGR.
        owner: int32 (H, W), the number of the piece of cloth each pixel shows, or NOBODY.
    """

    def __init__(self, image: np.ndarray) -> None:
        """Start from a backdrop, uint8 (H, W, 3) BGR, which is painted on in place."""
        self.image = image
        self.owner: np.ndarray = np.full(image.shape[:2], NOBODY, dtype=np.int32)

    def fill(
        self, outline: np.ndarray, colour: np.ndarray | Shader, *, owner: int | None = NOBODY
    ) -> np.ndarray:
        """Fill a closed outline, with soft edges.

        Args:
            outline: (n, 2) pixels; may lie outside the frame.
            colour: (3,) BGR, or a shader.
            owner: number of the piece of cloth, or NOBODY; None leaves the owners as they are.

        Returns:
            bool (H, W): the pixels painted.
        """
        height, width = self.owner.shape
        painted = np.zeros((height, width), dtype=bool)
        # Only the window of the outline is worked on: x, y of its first pixel and of the one after its last.
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (width, height))
        if (low >= high).any():
            return painted
        window = np.s_[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros((high - low)[::-1], dtype=np.uint8)
        cv2.fillPoly(mask, [_fixed_point(outline - low)], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        alpha = mask.astype(np.float32)[..., None] / 255  # (h, w, 1)
        if callable(colour):
            x = np.arange(low[0], high[0], dtype=np.float32)
            y = np.arange(low[1], high[1], dtype=np.float32)
            colour = colour(x[None], y[:, None], alpha[..., 0])
        below = self.image[window].astype(np.float32)
        self.image[window] = np.clip(below + alpha * (colour - below), 0, 255)
        painted[window] = mask > 127
        if owner is not None:
            self.owner[painted] = owner
        return painted

    def line(
        self, points: np.ndarray, colour: np.ndarray, *, thickness: int = 1, closed: bool = False
    ) -> None:
        """Draw a line; owners stay.

        Args:
            points: (n, 2) pixels that the line goes through.
            colour: (3,) BGR 0..255.
            thickness: pixels.
            closed: whether the last point is joined to the first.
        """
        ink = tuple(map(float, colour))
        cv2.polylines(self.image, [_fixed_point(points)], closed, ink, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Return pixels as the integers that OpenCV's ``shift`` expects."""
    return np.round(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
