"""From body coordinates to pixels: turn, smooth warp, rotation, scale, perspective."""

from dataclasses import dataclass, replace

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
