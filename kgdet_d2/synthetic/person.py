"""The person in the clothes: skin, hair and shoes as plain shapes."""

from dataclasses import dataclass

import numpy as np

from kgdet_d2.synthetic.body import ARMPIT, CHIN, CROTCH, HIP, SHOULDER, WAIST, Body, Limb
from kgdet_d2.synthetic.cloth import random_colour
from kgdet_d2.synthetic.pieces import Layer

_SKIN_TONES = np.array([[190, 210, 240], [150, 180, 225], [110, 150, 205], [80, 115, 170], [50, 75, 120]])
_HAIR_TONES = np.array([[20, 20, 25], [30, 45, 70], [60, 90, 130], [90, 150, 200], [110, 110, 115]])


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


def _arm(arm: Limb, skin: np.ndarray, sleeve: float) -> list[Shape]:
    """The upper arm's beginning belongs to the trunk: clothes of the trunk cover it.

    What a sleeve of the given length covers is left out: it would show between sleeve and trunk.
    """
    root = arm.ribbon(((-0.05, 0.12), (0.1, 0.17), (0.3, 0.16), (0.6, 0.15)))
    start = max(0.36, sleeve - 0.12)
    widths = ((0.36, 0.155), (0.6, 0.15), (0.95, 0.13), (1.05, 0.13), (1.5, 0.12), (1.95, 0.09))
    width = float(np.interp(start, *np.transpose(widths)))
    rest = ((start, width), *(pair for pair in widths if pair[0] > start + 0.05))
    hand = ((2.1, 0.13), (2.22, 0.11), (2.3, 0.05))
    layers = (Layer.ARM_BEHIND, Layer.ARM_BEHIND) if arm.behind else (Layer.SKIN, Layer.ARM)
    return [Shape(layers[0], root, skin), Shape(layers[1], arm.ribbon(rest + hand), skin)]


def _leg(leg: Limb, skin: np.ndarray, shoe: np.ndarray) -> list[Shape]:
    ribbon = leg.ribbon(((0.0, 0.33), (0.5, 0.27), (1.0, 0.19), (1.4, 0.19), (2.0, 0.1)))
    foot = leg.at(2.05) + np.array([0.05 * leg.side, 0.05])
    return [Shape(Layer.SKIN, ribbon, skin), Shape(Layer.SKIN, ellipse(foot, 0.17, 0.15), shoe)]


def _trunk(body: Body, skin: np.ndarray) -> list[Shape]:
    heights = np.array([SHOULDER - 0.12, SHOULDER + 0.05, ARMPIT, WAIST, HIP, CROTCH])
    widths = np.array([0.22, body.shoulder - 0.14, body.bust - 0.06, body.waist, body.hip, 0.3 * body.hip])
    side = np.stack([widths, heights], axis=1)
    trunk = np.concatenate([side, side[::-1] * [-1, 1]])
    high, low = CHIN - 0.25, SHOULDER - 0.1
    neck = np.array([[-0.2, high], [0.2, high], [0.22, low], [-0.22, low]])
    return [Shape(Layer.SKIN, neck, 0.88 * skin), Shape(Layer.SKIN, trunk, skin)]


def _head(rng: np.random.Generator, skin: np.ndarray, turn: float) -> list[Shape]:
    hair = _HAIR_TONES[rng.integers(len(_HAIR_TONES))] * rng.uniform(0.8, 1.2)
    aside = 0.3 * np.sin(turn)  # where the face looks
    shapes = [Shape(Layer.HAIR, ellipse((0, 0.42), 0.44, 0.48), hair)]
    length = rng.uniform(1.1, 2.3) if rng.random() < 0.5 else 0.0
    if length:
        fall = np.array([[-0.42, 0.3], [0.42, 0.3], [0.5, 1.0], [0.4, length], [-0.4, length], [-0.5, 1.0]])
        shapes.append(Shape(Layer.HAIR, fall, hair))
    shapes.append(Shape(Layer.HEAD, ellipse((aside * 0.5, 0.52), 0.35, 0.48), skin))
    fringe = np.array([[-0.4, 0.5], [-0.38, 0.1], [0, -0.05], [0.38, 0.1], [0.4, 0.5], [aside, 0.2]])
    shapes.append(Shape(Layer.HEAD, fringe, hair))
    for x in (-0.14, 0.14):
        shapes.append(Shape(Layer.HEAD, ellipse((aside + x, 0.52), 0.045, 0.03), 0.25 * skin))
    shapes.append(Shape(Layer.HEAD, ellipse((aside, 0.78), 0.09, 0.03), skin * [0.6, 0.6, 0.9]))
    if length > 1.5 and rng.random() < 0.35:  # a strand in front of one shoulder
        side = rng.choice([-1, 1])
        strand = np.array([[0.42, 0.35], [0.5, 1.0], [0.42, length], [0.26, length - 0.1], [0.3, 1.0]])
        shapes.append(Shape(Layer.HEAD, strand * [side, 1], hair))
    return shapes


def person(rng: np.random.Generator, body: Body, *, sleeve: float) -> list[Shape]:
    """Everything of the person that is not one of the 13 classes.

    Args:
        sleeve: length of the longest sleeve worn, in bones of the arm (see Limb.at); 0 for bare arms.
    """
    skin = _SKIN_TONES[rng.integers(len(_SKIN_TONES))] * rng.uniform(0.92, 1.06, 3)
    shoe = random_colour(rng, dull=True)
    shapes = [shape for leg in body.legs for shape in _leg(leg, skin, shoe)]
    shapes += _trunk(body, skin) + _head(rng, skin, body.turn)
    return shapes + [shape for arm in body.arms for shape in _arm(arm, skin, sleeve)]
