"""A person: joints and widths in a random pose, and skin, hair and shoes as plain shapes.

Body coordinates: the unit is one head's height. x runs to the image's right, y down (0 at the crown), z
towards the camera. The side -1 is the image's left, +1 its right.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kgdet_d2.synthetic.canvas import Layer, Shape, ellipse
from kgdet_d2.synthetic.cloth import random_colour

CHIN, SHOULDER, ARMPIT, WAIST, HIP, CROTCH = 1.0, 1.5, 2.02, 2.85, 3.5, 3.85  # y of each
SIDES = (-1, 1)

# Angles in degrees from straight down, positive away from the body: (upper arm, forearm) ranges, weight.
_ARM_POSES = {
    "hanging": ((6, 24), (0, 22), 5),
    "away": ((25, 60), (15, 60), 3),
    "hand on hip": ((35, 52), (-58, -35), 2),
    "across": ((4, 18), (-88, -45), 1.5),
    "raised": ((60, 105), (110, 165), 1),
}
# BGR.
_SKIN_TONES = np.array([[190, 210, 240], [150, 180, 225], [110, 150, 205], [80, 115, 170], [50, 75, 120]])
_HAIR_TONES = np.array([[20, 20, 25], [30, 45, 70], [60, 90, 130], [90, 150, 200], [110, 110, 115]])


@dataclass(frozen=True)
class Limb:
    """An arm or a leg: two straight bones.

    Attributes:
        joints: (3, 2) shoulder, elbow, wrist or hip, knee, ankle.
        side: -1 or +1; a positive offset points away from the body on that side.
        behind: drawn behind the torso.
    """

    joints: np.ndarray
    side: int
    behind: bool = False

    def at(self, t: float, offset: float = 0.0) -> np.ndarray:
        """Return a point along the limb, moved sideways.

        Args:
            t: bones from the root: 0 root, 1 middle joint, 2 end.
            offset: heads, positive away from the body.

        Returns:
            (2,) x, y.
        """
        bone = 0 if t < 1 else 1
        along = self.joints[bone] + (t - bone) * (self.joints[bone + 1] - self.joints[bone])
        return along + offset * self._normals[2 if t == 1 else bone]

    @cached_property
    def _normals(self) -> np.ndarray:
        """Unit vectors away from the body, (3, 2): of the upper bone, of the lower, of their joint."""
        bones = np.diff(self.joints, axis=0)
        normals = np.stack([bones[:, 1], -bones[:, 0]], axis=1) * self.side
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        joint = normals.sum(axis=0)
        return np.concatenate([normals, joint[None] / np.linalg.norm(joint)])

    def ribbon(self, profile: tuple[tuple[float, float], ...]) -> np.ndarray:
        """Return the outline of a limb of given widths.

        Args:
            profile: n pairs (t, half width), from the root to the end.

        Returns:
            (2n, 2) x, y: down the outer side, up the inner.
        """
        outer = [self.at(t, width) for t, width in profile]
        inner = [self.at(t, -width) for t, width in reversed(profile)]
        return np.array(outer + inner)


@dataclass(frozen=True)
class Body:
    """A body in a pose.

    Attributes:
        shoulder: half the width there; bust, waist and hip likewise.
        bust: at the height of the armpits.
        waist: at the height WAIST.
        hip: at the height HIP.
        arms: side -1 first.
        legs: side -1 first.
        turn: about the vertical axis, radians.
        flat: the pose of a garment laid out on a table.
    """

    shoulder: float
    bust: float
    waist: float
    hip: float
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]
    turn: float
    flat: bool

    def half_width(self, y: float | np.ndarray) -> np.ndarray:
        """Return half the torso's width at the heights y, in y's shape; constant below the hip."""
        heights, widths = [SHOULDER, ARMPIT, WAIST, HIP], [self.shoulder, self.bust, self.waist, self.hip]
        return np.asarray(np.interp(y, heights, widths))

    def shoulder_line(self, x: float) -> float:
        """Return y of the line from the neck to the shoulder at distance x from the middle."""
        return float(np.interp(x, [0.2, self.shoulder], [SHOULDER - 0.2, SHOULDER + 0.02]))


def random_body(rng: np.random.Generator, *, flat: bool, sideways: bool) -> Body:
    """Return a person in a random pose.

    Args:
        rng: where the choices come from.
        flat: the pose of a garment laid out on a table: facing up, arms spread.
        sideways: turned by 40 to 58 degrees; the far arm is behind the body then.
    """
    shoulder = rng.uniform(0.78, 0.93)
    hip = shoulder * rng.uniform(0.82, 0.98)
    turn = 0.0
    if not flat:
        turn = np.deg2rad(rng.uniform(40, 58) if sideways else rng.uniform(0, 18)) * rng.choice(SIDES)
    spread = rng.uniform(3, 14)
    bust = shoulder * rng.uniform(0.84, 0.92)
    waist = shoulder * rng.uniform(0.64, 0.82)
    arms = [_random_arm(rng, shoulder, side, flat=flat, far=sideways and side * turn > 0) for side in SIDES]
    legs = [_random_leg(rng, hip, side, spread) for side in SIDES]
    return Body(
        shoulder=shoulder,
        bust=bust,
        waist=waist,
        hip=hip,
        arms=(arms[0], arms[1]),
        legs=(legs[0], legs[1]),
        turn=turn,
        flat=flat,
    )


def _random_arm(rng: np.random.Generator, shoulder: float, side: int, *, flat: bool, far: bool) -> Limb:
    """Return an arm in one of the poses.

    Args:
        rng: where the choices come from.
        shoulder: the body's half width there.
        side: -1 or +1.
        flat: of a garment laid flat: spread, and nearly straight.
        far: on the side turned away from the camera, therefore behind the torso.
    """
    poses = list(_ARM_POSES)
    weights = np.array([_ARM_POSES[pose][2] for pose in poses], dtype=float)
    pose = "away" if flat else poses[rng.choice(len(poses), p=weights / weights.sum())]
    upper_limits, fore_limits, _ = _ARM_POSES[pose]
    upper, fore = rng.uniform(*upper_limits), rng.uniform(*fore_limits)
    if flat:
        fore = upper + rng.uniform(-12, 12)
    root = np.array([side * (shoulder - 0.1), SHOULDER + 0.16])
    elbow = root + rng.uniform(1.1, 1.3) * _direction(upper, side)
    wrist = elbow + rng.uniform(1.0, 1.15) * _direction(fore, side)
    behind = not flat and (far or (pose in ("hanging", "hand on hip") and rng.random() < 0.2))
    return Limb(np.stack([root, elbow, wrist]), side, behind)


def _random_leg(rng: np.random.Generator, hip: float, side: int, spread: float) -> Limb:
    """Return a leg; ``hip`` is the body's half width there, ``spread`` in degrees from straight down."""
    root = np.array([side * hip * 0.5, CROTCH - 0.15])
    knee = root + 1.4 * _direction(spread + rng.uniform(-2, 4), side)
    ankle = knee + 1.35 * _direction(spread + rng.uniform(-6, 3), side)
    return Limb(np.stack([root, knee, ankle]), side)


def _direction(degrees: float, side: int) -> np.ndarray:
    """Return the unit vector (2,) at an angle from straight down, positive away from the body."""
    angle = np.deg2rad(degrees)
    return np.array([side * np.sin(angle), np.cos(angle)])


def person_shapes(rng: np.random.Generator, body: Body, *, sleeve: float) -> list[Shape]:
    """Return everything of the person that is not one of the 13 classes.

    Args:
        rng: where the choices come from.
        body: pose and widths.
        sleeve: length of the longest sleeve worn, in bones of the arm (see Limb.at); 0 for bare arms.
    """
    skin = _SKIN_TONES[rng.integers(len(_SKIN_TONES))] * rng.uniform(0.92, 1.06, 3)
    shoe = random_colour(rng, dull=True)
    shapes = []
    for leg in body.legs:
        shapes += _leg_shapes(leg, skin, shoe)
    shapes += _trunk_shapes(body, skin) + _head_shapes(rng, skin, body.turn)
    for arm in body.arms:
        shapes += _arm_shapes(arm, skin, sleeve)
    return shapes


def _arm_shapes(arm: Limb, skin: np.ndarray, sleeve: float) -> list[Shape]:
    """Return the arm's beginning and the rest of it with the hand.

    The upper arm's beginning belongs to the trunk: clothes of the trunk cover it. The part that a sleeve of
    the given length covers is left out: it would show between sleeve and trunk.
    """
    root = arm.ribbon(((-0.05, 0.12), (0.1, 0.17), (0.3, 0.16), (0.6, 0.15)))
    start = max(0.36, sleeve - 0.12)
    widths = ((0.36, 0.155), (0.6, 0.15), (0.95, 0.13), (1.05, 0.13), (1.5, 0.12), (1.95, 0.09))
    width = float(np.interp(start, *np.transpose(widths)))
    rest = ((start, width), *(pair for pair in widths if pair[0] > start + 0.05))
    hand = ((2.1, 0.13), (2.22, 0.11), (2.3, 0.05))
    layers = (Layer.ARM_BEHIND, Layer.ARM_BEHIND) if arm.behind else (Layer.SKIN, Layer.ARM)
    return [Shape(layers[0], root, skin), Shape(layers[1], arm.ribbon(rest + hand), skin)]


def _leg_shapes(leg: Limb, skin: np.ndarray, shoe: np.ndarray) -> list[Shape]:
    """Return a leg and its shoe."""
    ribbon = leg.ribbon(((0.0, 0.33), (0.5, 0.27), (1.0, 0.19), (1.4, 0.19), (2.0, 0.1)))
    foot = leg.at(2.05) + np.array([0.05 * leg.side, 0.05])
    return [Shape(Layer.SKIN, ribbon, skin), Shape(Layer.SKIN, ellipse(foot, 0.17, 0.15), shoe)]


def _trunk_shapes(body: Body, skin: np.ndarray) -> list[Shape]:
    """Return the neck, a little darker, and the trunk."""
    heights = np.array([SHOULDER - 0.12, SHOULDER + 0.05, ARMPIT, WAIST, HIP, CROTCH])
    widths = np.array([0.22, body.shoulder - 0.14, body.bust - 0.06, body.waist, body.hip, 0.3 * body.hip])
    side = np.stack([widths, heights], axis=1)
    trunk = np.concatenate([side, side[::-1] * [-1, 1]])
    high, low = CHIN - 0.25, SHOULDER - 0.1
    neck = np.array([[-0.2, high], [0.2, high], [0.22, low], [-0.22, low]])
    return [Shape(Layer.SKIN, neck, 0.88 * skin), Shape(Layer.SKIN, trunk, skin)]


def _head_shapes(rng: np.random.Generator, skin: np.ndarray, turn: float) -> list[Shape]:
    """Return head, face and hair; half of the heads have long hair, some a strand of it in front."""
    hair = _HAIR_TONES[rng.integers(len(_HAIR_TONES))] * rng.uniform(0.8, 1.2)
    aside = 0.3 * np.sin(turn)  # x of the face's middle
    shapes = [Shape(Layer.HAIR, ellipse((0, 0.42), 0.44, 0.48), hair)]
    length = rng.uniform(1.1, 2.3) if rng.random() < 0.5 else 0.0
    if length:
        fall = np.array([[-0.42, 0.3], [0.42, 0.3], [0.5, 1.0], [0.4, length], [-0.4, length], [-0.5, 1.0]])
        shapes.append(Shape(Layer.HAIR, fall, hair))
    shapes.append(Shape(Layer.HEAD, ellipse((aside * 0.5, 0.52), 0.35, 0.48), skin))
    fringe = np.array([[-0.4, 0.5], [-0.38, 0.1], [0, -0.05], [0.38, 0.1], [0.4, 0.5], [aside, 0.2]])
    shapes.append(Shape(Layer.HEAD, fringe, hair))
    for x in (-0.14, 0.14):
        eye = ellipse((aside + x, 0.52), 0.045, 0.03)
        shapes.append(Shape(Layer.HEAD, eye, 0.25 * skin))
    mouth = ellipse((aside, 0.78), 0.09, 0.03)
    shapes.append(Shape(Layer.HEAD, mouth, skin * [0.6, 0.6, 0.9]))
    if length > 1.5 and rng.random() < 0.35:  # a strand in front of one shoulder
        side = rng.choice([-1, 1])
        strand = np.array([[0.42, 0.35], [0.5, 1.0], [0.42, length], [0.26, length - 0.1], [0.3, 1.0]])
        shapes.append(Shape(Layer.HEAD, strand * [side, 1], hair))
    return shapes
