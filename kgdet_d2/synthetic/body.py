"""A person as joints and widths, in body coordinates.

Unit: one head's height. x runs to the image's right, y down (0 at the crown), z towards the camera. The
side -1 is the image's left, +1 its right.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

CHIN, SHOULDER, ARMPIT, WAIST, HIP, CROTCH = 1.0, 1.5, 2.02, 2.85, 3.5, 3.85
SIDES = (-1, 1)


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
        """(2,): the point at t bones from the root (0 root, 1 middle joint, 2 end), moved sideways."""
        bone = 0 if t < 1 else 1
        along = self.joints[bone] + (t - bone) * (self.joints[bone + 1] - self.joints[bone])
        return along + offset * self._normals[2 if t == 1 else bone]

    @cached_property
    def _normals(self) -> np.ndarray:
        """(3, 2): unit vectors away from the body: of the upper bone, of the lower, of their joint."""
        bones = np.diff(self.joints, axis=0)
        normals = np.stack([bones[:, 1], -bones[:, 0]], axis=1) * self.side
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        joint = normals.sum(axis=0)
        return np.concatenate([normals, joint[None] / np.linalg.norm(joint)])

    def ribbon(self, profile: tuple[tuple[float, float], ...]) -> np.ndarray:
        """(2n, 2) outline from n pairs (t, half width): down the outer side, up the inner."""
        outer = [self.at(t, width) for t, width in profile]
        inner = [self.at(t, -width) for t, width in reversed(profile)]
        return np.array(outer + inner)


@dataclass(frozen=True)
class Body:
    """Half widths, limbs (side -1 first) and the turn about the vertical axis (radians)."""

    shoulder: float
    bust: float
    waist: float
    hip: float
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]
    turn: float
    flat: bool

    def half_width(self, y: float | np.ndarray) -> float | np.ndarray:
        """Half the torso's width at height y; constant below the hip."""
        return np.interp(y, [SHOULDER, ARMPIT, WAIST, HIP], [self.shoulder, self.bust, self.waist, self.hip])

    def shoulder_line(self, x: float) -> float:
        """y of the line from the neck to the shoulder at distance x from the middle."""
        return float(np.interp(x, [0.2, self.shoulder], [SHOULDER - 0.2, SHOULDER + 0.02]))


# Angles in degrees from straight down, positive away from the body: (upper arm, forearm) ranges, weight.
_ARM_POSES = {
    "hanging": ((6, 24), (0, 22), 5),
    "away": ((25, 60), (15, 60), 3),
    "hand on hip": ((35, 52), (-58, -35), 2),
    "across": ((4, 18), (-88, -45), 1.5),
    "raised": ((60, 105), (110, 165), 1),
}


def _direction(degrees: float, side: int) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.array([side * np.sin(angle), np.cos(angle)])


def _arm(rng: np.random.Generator, shoulder: float, side: int, *, flat: bool, far: bool) -> Limb:
    poses = list(_ARM_POSES)
    weights = np.array([_ARM_POSES[pose][2] for pose in poses], dtype=float)
    pose = "away" if flat else poses[rng.choice(len(poses), p=weights / weights.sum())]
    upper, fore = (rng.uniform(*limits) for limits in _ARM_POSES[pose][:2])
    if flat:
        fore = upper + rng.uniform(-12, 12)
    root = np.array([side * (shoulder - 0.1), SHOULDER + 0.16])
    elbow = root + rng.uniform(1.1, 1.3) * _direction(upper, side)
    wrist = elbow + rng.uniform(1.0, 1.15) * _direction(fore, side)
    behind = not flat and (far or (pose in ("hanging", "hand on hip") and rng.random() < 0.2))
    return Limb(np.stack([root, elbow, wrist]), side, behind)


def _leg(rng: np.random.Generator, hip: float, side: int, spread: float) -> Limb:
    root = np.array([side * hip * 0.5, CROTCH - 0.15])
    knee = root + 1.4 * _direction(spread + rng.uniform(-2, 4), side)
    ankle = knee + 1.35 * _direction(spread + rng.uniform(-6, 3), side)
    return Limb(np.stack([root, knee, ankle]), side)


def random_body(rng: np.random.Generator, *, flat: bool, sideways: bool) -> Body:
    """A person in a random pose.

    Args:
        flat: the pose of a garment laid out on a table: facing up, arms spread.
        sideways: turned by 40 to 58 degrees; the far arm is behind the body then.
    """
    shoulder = rng.uniform(0.78, 0.93)
    hip = shoulder * rng.uniform(0.82, 0.98)
    turn = 0.0
    if not flat:
        turn = np.deg2rad(rng.uniform(40, 58) if sideways else rng.uniform(0, 18)) * rng.choice(SIDES)
    spread = rng.uniform(3, 14)
    return Body(
        shoulder=shoulder,
        bust=shoulder * rng.uniform(0.84, 0.92),
        waist=shoulder * rng.uniform(0.64, 0.82),
        hip=hip,
        arms=tuple(_arm(rng, shoulder, side, flat=flat, far=sideways and side * turn > 0) for side in SIDES),
        legs=tuple(_leg(rng, hip, side, spread) for side in SIDES),
        turn=turn,
        flat=flat,
    )
