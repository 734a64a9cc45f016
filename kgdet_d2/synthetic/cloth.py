"""Colours and patterns of cloth."""

from dataclasses import dataclass

import cv2
import numpy as np

PATTERNS = ("plain", "stripes", "checks", "dots", "gradient", "noise")
_PATTERN_WEIGHTS = (0.42, 0.17, 0.13, 0.1, 0.09, 0.09)


@dataclass(frozen=True)
class Cloth:
    """The look of a garment's cloth.

    Attributes:
        pattern: one of PATTERNS.
        colours: (3, 3) BGR 0..255: ground, pattern, trimmings.
        period: of the pattern, in heads.
        angle: of the pattern against the upright, radians.
        seed: of the noise; details of the garment are chosen by it too.
        print: a motif on the chest.
    """

    pattern: str
    colours: np.ndarray
    period: float
    angle: float
    seed: int
    print: bool


def random_colour(rng: np.random.Generator, *, dull: bool = False) -> np.ndarray:
    """Return a random colour, float32 (3,) BGR 0..255.

    Args:
        rng: where the choice comes from.
        dull: whether the colour is of little saturation.
    """
    saturation = rng.uniform(0, 90) if dull else 255 * rng.beta(1.1, 1.7)
    hsv = np.array([[[rng.uniform(0, 180), saturation, rng.uniform(45, 250)]]], dtype=np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def random_cloth(rng: np.random.Generator) -> Cloth:
    """Return a random cloth."""
    ground, figure, trimmings = random_colour(rng), random_colour(rng), random_colour(rng)
    if rng.random() < 0.5:  # tone in tone
        figure = np.clip(ground * rng.choice([0.55, 1.5]) + rng.uniform(-15, 15), 0, 255)
    if rng.random() < 0.6:
        trimmings = ground * 0.7
    return Cloth(
        pattern=str(rng.choice(PATTERNS, p=_PATTERN_WEIGHTS)),
        colours=np.stack([ground, figure, trimmings]).astype(np.float32),
        period=float(rng.uniform(0.16, 0.5)),
        angle=float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])),
        seed=int(rng.integers(2**31)),
        print=bool(rng.random() < 0.35),
    )


def draw_pattern(cloth: Cloth, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Compute the cloth's colour at each pixel.

    Args:
        cloth: colours, pattern, its period and angle.
        u: (h, w) float32, cloth coordinates across, in heads.
        v: (h, w) float32, along.

    Returns:
        float32 (h, w, 3) BGR.
    """
    sin, cos = np.float32(np.sin(cloth.angle)), np.float32(np.cos(cloth.angle))
    # a, b: the same coordinates turned by the pattern's angle, in periods.
    a, b = (u * cos + v * sin) / cloth.period, (v * cos - u * sin) / cloth.period
    # mix: 0 where the ground's colour is, 1 where the pattern's is; the factor 8 makes edges soft.
    if cloth.pattern == "plain":
        mix: np.ndarray = np.zeros_like(a)
    elif cloth.pattern == "stripes":
        mix = np.clip(8 * (np.abs(b % 1 - 0.5) - 0.25) + 0.5, 0, 1)
    elif cloth.pattern == "checks":
        mix = 0.5 * ((a % 1 < 0.4).astype(np.float32) + (b % 1 < 0.4))
    elif cloth.pattern == "dots":
        mix = np.clip(8 * (0.3 - np.hypot(a % 1 - 0.5, b % 1 - 0.5)) + 0.5, 0, 1)
    elif cloth.pattern == "gradient":
        mix = np.clip(0.25 * cloth.period * b + 0.3, 0, 1)
    else:  # noise: a random grid of 15 x 15 that repeats itself, with linear interpolation
        grid = np.random.default_rng(cloth.seed).random((15, 15), dtype=np.float32)
        grid = np.pad(grid, (0, 1), mode="wrap")
        mix = cv2.remap(grid, (a * 2) % 15, (b * 2) % 15, cv2.INTER_LINEAR)
    ground, figure = cloth.colours[:2]
    return ground + mix[..., None] * (figure - ground)
