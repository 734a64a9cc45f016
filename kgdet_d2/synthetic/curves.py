"""Smooth outlines through given points."""

import numpy as np


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
