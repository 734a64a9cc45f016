"""What is behind the person, what is in front, and what the camera does to it all."""

import cv2
import numpy as np

from kgdet_d2.synthetic.cloth import random_colour


def _ramp(rng: np.random.Generator, height: int, width: int, *, contrast: float) -> np.ndarray:
    """float32 (H, W, 3): a colour that changes smoothly over the frame."""
    base = random_colour(rng, dull=rng.random() < 0.7)
    corners = base + rng.normal(0, contrast, (3, 3, 1)) + rng.normal(0, 0.3 * contrast, (3, 3, 3))
    return cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def _shape(rng: np.random.Generator, image: np.ndarray) -> None:
    """A rectangle, ellipse, line or polygon anywhere."""
    height, width = image.shape[:2]
    size = np.array([width, height])
    colour = tuple(map(float, random_colour(rng, dull=rng.random() < 0.6)))
    centre = (rng.uniform(0, 1, 2) * size).astype(int)
    half = (rng.uniform(0.03, 0.3, 2) * size).astype(int) + 1
    kind = rng.integers(4)
    if kind == 0:
        cv2.rectangle(image, tuple(centre - half), tuple(centre + half), colour, rng.choice([-1, -1, 2]))
    elif kind == 1:
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(image, tuple(centre), tuple(half), angle, 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        end = (rng.uniform(0, 1, 2) * size).astype(int)
        cv2.line(image, tuple(centre), tuple(end), colour, int(rng.integers(1, 6)), cv2.LINE_AA)
    else:
        corners = centre + (rng.normal(0, 0.12, (4, 2)) * size).astype(int)
        cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def backdrop(rng: np.random.Generator, height: int, width: int, *, clean: bool) -> np.ndarray:
    """uint8 (H, W, 3) BGR: a studio's plain wall, or a room or street with clutter."""
    image = _ramp(rng, height, width, contrast=6 if clean else 22)
    if not clean:
        if rng.random() < 0.6:
            horizon = int(rng.uniform(0.5, 0.95) * height)
            image[horizon:] = _ramp(rng, height - horizon, width, contrast=15)
        for _ in range(rng.integers(2, 12)):
            _shape(rng, image)
        if rng.random() < 0.3:  # planks, tiles, blinds
            step, axis = int(rng.integers(8, 40)), rng.integers(2)
            lines = image[::step] if axis else image[:, ::step]
            lines *= rng.uniform(0.6, 0.9)
        if rng.random() < 0.6:
            cell = int(rng.integers(2, 12))
            grain = rng.normal(0, rng.uniform(3, 14), (height // cell + 1, width // cell + 1, 1))
            image += cv2.resize(grain.astype(np.float32), (width, height))[..., None]
        if rng.random() < 0.5:
            image = cv2.blur(image, (int(rng.integers(2, 6)),) * 2)
    return np.clip(image, 0, 255).astype(np.uint8)


def develop(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light, tint, blur and sensor noise: uint8 (H, W, 3) -> the same."""
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.3, 0.8)))
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(rng.uniform(0, 6))
    out = image * gain.astype(np.float32) + np.float32(rng.uniform(-12, 12)) + noise
    return np.clip(out, 0, 255).astype(np.uint8)
