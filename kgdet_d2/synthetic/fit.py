"""A design on a body: where each named landmark comes to lie.

All functions return Points: ``{name: (3,) array}`` in body coordinates (see figure.py). Beside DeepFashion2's
landmarks there are a few auxiliary points that outlines need: ``armhole_*``, ``strap_*``, ``sleeve_root_*``.
"""

import numpy as np

from kgdet_d2.synthetic.figure import ARMPIT, CROTCH, HIP, SHOULDER, SIDES, Body, Limb
from kgdet_d2.synthetic.garments import Design, Points

_SIDE_NAMES = {-1: "left", 1: "right"}
_FRONT, _BACK = 0.28, -0.2  # z of the body's middle line


def fit(design: Design, body: Body) -> Points:
    """Place all landmarks of the design's class, and the auxiliary points of its outlines."""
    if design.kind != "bottom":
        return _fit_top(design, body)
    return _fit_skirt(design, body) if design.name == "skirt" else _fit_legs(design, body)


def _point(x: float, y: float, z: float = 0.0) -> np.ndarray:
    """Return a point, (3,)."""
    return np.array([x, y, z])


def _on(limb: Limb, t: float, offset: float) -> np.ndarray:
    """Return a point on a limb, (3,) with z 0; see Limb.at."""
    return np.append(limb.at(t, offset), 0.0)


def _neck(design: Design, body: Body) -> Points:
    """Place the neckline of a top or a dress.

    It is a V at neck_round 0.5, a square near 1; a sling's straps end at the bodice.
    """
    cut, width = design.cut, design.cut["neck_width"]
    top = body.shoulder_line(width)
    if "bodice" in cut:
        bottom, back = cut["bodice"], cut["bodice"] - 0.14
        front_x, front_y = width, bottom - 0.25 * cut["neck_round"]
    else:
        bottom, back = top + cut["neck_depth"], SHOULDER - 0.14
        front_x = (0.5 + 0.3 * cut["neck_round"]) * width
        front_y = top + cut["neck_round"] * cut["neck_depth"]
    points = {"neck_back": _point(0, back, _BACK), "neck_front": _point(0, bottom, _FRONT)}
    for side in SIDES:
        name = _SIDE_NAMES[side]
        points[f"neck_{name}"] = _point(side * width, top)
        points[f"neck_front_{name}"] = _point(side * front_x, front_y, 0.8 * _FRONT)
    return points


def _opening(design: Design, body: Body) -> Points:
    """Place neck and front edges of outwear."""
    cut = design.cut
    width, gap = cut["neck_width"], cut["opening"]
    top = body.shoulder_line(width)
    points = {"neck_back": _point(0, SHOULDER - 0.18, _BACK)}
    for side in SIDES:
        name = _SIDE_NAMES[side]
        edge_top = _point(gap, cut["opening_top"])
        edge_hem = _point(gap + cut["spread"], cut["hem"])
        edge = np.linspace(edge_top, edge_hem, 4)  # (4, 3), for the side +1
        points[f"neck_{name}"] = _point(side * width, top)
        front_x, front_y = side * (0.45 * width + 0.55 * gap), 0.5 * (top + cut["opening_top"])
        points[f"neck_front_{name}"] = _point(front_x, front_y, _FRONT * 0.8)
        for part, (x, y, _) in zip(("top", "upper", "lower", "hem"), edge, strict=True):
            points[f"opening_{part}_{name}"] = _point(side * x, y, _FRONT)
    return points


def _torso(design: Design, body: Body, side: int) -> Points:
    """Place armpit, side and hem on one side, at equal steps of height."""
    cut, name = design.cut, _SIDE_NAMES[side]
    count = sum(landmark.startswith("side_") for landmark in design.keypoint_names) // 2
    heights = np.linspace(ARMPIT + 0.3 * cut["ease"], cut["hem"], count + 2)
    body_width = body.half_width(heights)
    straight_width = np.maximum(body_width, body.bust)
    width = (1 - cut["loose"]) * body_width + cut["loose"] * straight_width + cut["ease"]
    width += cut["flare"] * np.maximum(heights - (HIP - 0.4), 0)
    labels = ["armpit", *(f"side_{number}" for number in range(1, count + 1)), "hem"]
    points = {}
    for label, x, y in zip(labels, width, heights, strict=True):
        points[f"{label}_{name}"] = _point(side * x, y)
    return points


def _shoulder(design: Design, body: Body, side: int, armpit: np.ndarray) -> Points:
    """Place the shoulder, which is where a strap begins, and an auxiliary point of the armhole or strap."""
    cut, name = design.cut, _SIDE_NAMES[side]
    if design.sleeved:
        root, elbow = body.arms[side > 0].joints[:2]
        lift = 0.08 * max(0.0, 0.6 - (elbow[1] - root[1]))  # a raised arm lifts the shoulder
        shoulder = _point(side * (body.shoulder + 0.3 * cut["ease"]), SHOULDER - lift)
        # The sleeve begins inside the trunk, so that no gap shows between the two.
        inward = 0.55 if design.kind == "outwear" else 0.72
        sleeve_root = 0.5 * (shoulder + armpit) * [inward, 1, 1]
        return {f"shoulder_{name}": shoulder, f"sleeve_root_{name}": sleeve_root}
    outer = cut["neck_width"] + cut["strap"]
    shoulder = _point(side * outer, body.shoulder_line(outer))
    if "bodice" not in cut:
        armhole = _point(side * (outer - 0.03), 0.45 * shoulder[1] + 0.55 * armpit[1], _FRONT * 0.5)
        return {f"shoulder_{name}": shoulder, f"armhole_{name}": armhole}
    strap = _point(side * outer, cut["bodice"] - 0.25 * cut["neck_round"] + 0.02, _FRONT * 0.8)
    return {f"shoulder_{name}": shoulder, f"strap_{name}": strap}


def _sleeve(design: Design, arm: Limb, armpit: np.ndarray) -> Points:
    """Place a sleeve's landmarks along the arm: a short one ends above the elbow."""
    cut, name = design.cut, _SIDE_NAMES[arm.side]
    end, upper, cuff = cut["sleeve"], 0.18 + cut["sleeve_ease"], 0.14 + cut["cuff_ease"]
    points = {f"cuff_outer_{name}": _on(arm, end, cuff), f"cuff_inner_{name}": _on(arm, end, -cuff)}
    if end < 1:
        points[f"sleeve_outer_{name}"] = _on(arm, 0.5 * end, 0.5 * (upper + cuff) + 0.02)
        points[f"sleeve_inner_{name}"] = 0.5 * (armpit + points[f"cuff_inner_{name}"])
        return points
    middle = 0.5 * (upper + cuff)
    for sign, edge in ((1, "outer"), (-1, "inner")):
        points[f"elbow_{edge}_{name}"] = _on(arm, 1, sign * middle)
        points[f"sleeve_{edge}_lower_{name}"] = _on(arm, 0.5 * (1 + end), sign * 0.5 * (middle + cuff))
    points[f"sleeve_outer_upper_{name}"] = _on(arm, 0.55, upper)
    points[f"sleeve_inner_upper_{name}"] = 0.5 * (armpit + points[f"elbow_inner_{name}"])
    return points


def _fit_top(design: Design, body: Body) -> Points:
    """Place the points of a top, a dress or outwear."""
    points = _opening(design, body) if design.kind == "outwear" else _neck(design, body)
    for side, arm in zip(SIDES, body.arms, strict=True):
        torso = _torso(design, body, side)
        armpit = torso[f"armpit_{_SIDE_NAMES[side]}"]
        points |= torso | _shoulder(design, body, side, armpit)
        if design.sleeved:
            points |= _sleeve(design, arm, armpit)
    if "hem_curve" in design.cut:
        points["hem_centre"] = _point(0, design.cut["hem"] + design.cut["hem_curve"], _FRONT)
    return points


def _waist(design: Design, body: Body) -> Points:
    """Place the waist of a bottom."""
    y = design.cut["waist"]
    half = float(body.half_width(y)) + design.cut["ease"]
    return {
        "waist_left": _point(-half, y),
        "waist_centre": _point(0, y + 0.06, _FRONT),
        "waist_right": _point(half, y),
    }


def _fit_skirt(design: Design, body: Body) -> Points:
    """Place the points of a skirt."""
    cut, points = design.cut, _waist(design, body)
    heights = np.array([0.55 * cut["waist"] + 0.45 * cut["hem"], cut["hem"]])
    width = body.half_width(heights) + cut["ease"] + cut["flare"] * (heights - cut["waist"]) * 0.6
    for side in SIDES:
        name = _SIDE_NAMES[side]
        points[f"side_{name}"] = _point(side * width[0], heights[0])
        points[f"hem_{name}"] = _point(side * width[1], heights[1])
    points["hem_centre"] = _point(0, cut["hem"] + cut["hem_curve"], _FRONT)
    return points


def _fit_legs(design: Design, body: Body) -> Points:
    """Place the points of shorts or trousers."""
    cut, points = design.cut, _waist(design, body)
    points["crotch"] = _point(0, CROTCH + 0.3 * cut["leg_ease"], 0.5 * _FRONT)
    end = cut["length"]
    for side, leg in zip(SIDES, body.legs, strict=True):
        name = _SIDE_NAMES[side]
        hip = _point(side * (body.hip + cut["ease"]), HIP)
        leg_width = np.interp(end, [0, 1, 2], [0.32, 0.2, 0.12])  # half of it, at the hem
        leg_points = {
            f"hem_outer_{name}": _on(leg, end, leg_width + cut["hem_ease"]),
            f"hem_inner_{name}": _on(leg, end, -leg_width - cut["hem_ease"]),
        }
        if design.name == "trousers":
            knee = 0.2 + 0.5 * (cut["leg_ease"] + min(cut["leg_ease"], cut["hem_ease"]))
            leg_points[f"hip_{name}"] = hip
            leg_points[f"knee_outer_{name}"] = _on(leg, 1, knee)
            leg_points[f"knee_inner_{name}"] = _on(leg, 1, -knee)
        else:
            leg_points[f"side_{name}"] = 0.5 * (hip + leg_points[f"hem_outer_{name}"])
        for point in leg_points.values():  # in place: the two legs do not grow into one another
            point[0] = side * max(side * point[0], 0.03)
        points |= leg_points
    return points
