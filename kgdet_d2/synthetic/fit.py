"""A design on a body: where each named landmark comes to lie.

All functions return ``{name: (3,) array}`` in body coordinates (see body.py). Beside DeepFashion2's
landmarks there are a few auxiliary points that outlines need: ``armhole_*``, ``strap_*``, ``sleeve_root_*``.
"""

import numpy as np

from kgdet_d2.synthetic.figure import ARMPIT, CROTCH, HIP, SHOULDER, SIDES, Body, Limb
from kgdet_d2.synthetic.garments import Design, Points

_SIDE_NAMES = {-1: "left", 1: "right"}
_FRONT, _BACK = 0.28, -0.2  # depth of the body's middle line


def _point(x: float, y: float, z: float = 0.0) -> np.ndarray:
    return np.array([x, y, z])


def _on(limb: Limb, t: float, offset: float) -> np.ndarray:
    return np.append(limb.at(t, offset), 0.0)


def _neck(design: Design, body: Body) -> Points:
    """Tops and dresses. A V at neck_round 0.5, a square neck near 1; a sling's straps end at the bodice."""
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
    """Neck and front edges of outwear."""
    cut = design.cut
    width, gap = cut["neck_width"], cut["opening"]
    top = body.shoulder_line(width)
    points = {"neck_back": _point(0, SHOULDER - 0.18, _BACK)}
    for side in SIDES:
        name = _SIDE_NAMES[side]
        edge = np.linspace(_point(gap, cut["opening_top"]), _point(gap + cut["spread"], cut["hem"]), 4)
        points[f"neck_{name}"] = _point(side * width, top)
        points[f"neck_front_{name}"] = _point(
            side * (0.45 * width + 0.55 * gap), 0.5 * (top + cut["opening_top"]), _FRONT * 0.8
        )
        for part, (x, y, _) in zip(("top", "upper", "lower", "hem"), edge, strict=True):
            points[f"opening_{part}_{name}"] = _point(side * x, y, _FRONT)
    return points


def _torso(design: Design, body: Body, side: int) -> Points:
    """Armpit, side and hem on one side."""
    cut, name = design.cut, _SIDE_NAMES[side]
    count = sum(landmark.startswith("side_") for landmark in design.keypoint_names) // 2
    heights = np.linspace(ARMPIT + 0.3 * cut["ease"], cut["hem"], count + 2)
    follow = body.half_width(heights)
    width = (1 - cut["loose"]) * follow + cut["loose"] * np.maximum(follow, body.bust) + cut["ease"]
    width += cut["flare"] * np.maximum(heights - (HIP - 0.4), 0)
    labels = ["armpit", *(f"side_{number}" for number in range(1, count + 1)), "hem"]
    return {
        f"{label}_{name}": _point(side * x, y) for label, x, y in zip(labels, width, heights, strict=True)
    }


def _shoulder(design: Design, body: Body, side: int, armpit: np.ndarray) -> Points:
    """Shoulder or strap, with the auxiliary points of the armhole."""
    cut, name = design.cut, _SIDE_NAMES[side]
    if design.sleeved:
        root, elbow = body.arms[side > 0].joints[:2]
        lift = 0.08 * max(0.0, 0.6 - (elbow[1] - root[1]))  # a raised arm lifts it
        shoulder = _point(side * (body.shoulder + 0.3 * cut["ease"]), SHOULDER - lift)
        inside = 0.5 * (shoulder + armpit) * [0.55 if design.kind == "outwear" else 0.72, 1, 1]
        return {f"shoulder_{name}": shoulder, f"sleeve_root_{name}": inside}
    outer = cut["neck_width"] + cut["strap"]
    shoulder = _point(side * outer, body.shoulder_line(outer))
    if "bodice" not in cut:
        armhole = _point(side * (outer - 0.03), 0.45 * shoulder[1] + 0.55 * armpit[1], _FRONT * 0.5)
        return {f"shoulder_{name}": shoulder, f"armhole_{name}": armhole}
    strap = _point(side * outer, cut["bodice"] - 0.25 * cut["neck_round"] + 0.02, _FRONT * 0.8)
    return {f"shoulder_{name}": shoulder, f"strap_{name}": strap}


def _sleeve(design: Design, arm: Limb, armpit: np.ndarray) -> Points:
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
    """Tops, dresses, outwear."""
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
    y = design.cut["waist"]
    half = float(body.half_width(y)) + design.cut["ease"]
    return {
        "waist_left": _point(-half, y),
        "waist_centre": _point(0, y + 0.06, _FRONT),
        "waist_right": _point(half, y),
    }


def _fit_skirt(design: Design, body: Body) -> Points:
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
    """Shorts and trousers."""
    cut, points = design.cut, _waist(design, body)
    points["crotch"] = _point(0, CROTCH + 0.3 * cut["leg_ease"], 0.5 * _FRONT)
    end = cut["length"]
    for side, leg in zip(SIDES, body.legs, strict=True):
        name = _SIDE_NAMES[side]
        hip = _point(side * (body.hip + cut["ease"]), HIP)
        skin = np.interp(end, [0, 1, 2], [0.32, 0.2, 0.12])
        marks = {f"hem_outer_{name}": _on(leg, end, skin + cut["hem_ease"])}
        marks[f"hem_inner_{name}"] = _on(leg, end, -skin - cut["hem_ease"])
        if design.name == "trousers":
            knee = 0.2 + 0.5 * (cut["leg_ease"] + min(cut["leg_ease"], cut["hem_ease"]))
            marks[f"hip_{name}"] = hip
            marks[f"knee_outer_{name}"] = _on(leg, 1, knee)
            marks[f"knee_inner_{name}"] = _on(leg, 1, -knee)
        else:
            marks[f"side_{name}"] = 0.5 * (hip + marks[f"hem_outer_{name}"])
        for mark in marks.values():  # the legs of a pair do not grow into one another
            mark[0] = side * max(side * mark[0], 0.03)
        points |= marks
    return points


def fit(design: Design, body: Body) -> Points:
    """All landmarks of the design's class, and the auxiliary points of its outlines."""
    if design.kind != "bottom":
        return _fit_top(design, body)
    return _fit_skirt(design, body) if design.name == "skirt" else _fit_legs(design, body)
