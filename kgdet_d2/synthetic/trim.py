"""Bands, seams, pleats, pockets, buttons, lapels, prints: what tells a garment's parts from one another."""

import numpy as np

from kgdet_d2.synthetic.body import WAIST
from kgdet_d2.synthetic.camera import Camera
from kgdet_d2.synthetic.canvas import Canvas
from kgdet_d2.synthetic.design import Design
from kgdet_d2.synthetic.fit import Points
from kgdet_d2.synthetic.person import ellipse
from kgdet_d2.synthetic.pieces import Piece

_NECKLINE = ("neck_left", "neck_front_left", "neck_front", "neck_front_right", "neck_right")
_BAND = 0.07  # heads


Stops = list[np.ndarray] | np.ndarray  # n points (3,), or (n, 3)


class _Pen:
    """Draws on a garment in body coordinates; owners stay."""

    def __init__(self, canvas: Canvas, camera: Camera, points: Points) -> None:
        self.canvas, self.camera, self.points = canvas, camera, points

    def line(self, stops: Stops, colour: np.ndarray, *, width: float = 0.0) -> None:
        thickness = max(1, int(width * self.camera.scale))
        self.canvas.line(self.camera(np.stack(stops)), colour, thickness=thickness)

    def fill(self, corners: Stops, colour: np.ndarray) -> None:
        self.canvas.fill(self.camera(np.stack(corners)), colour, owner=None)

    def at(self, *names: str) -> list[np.ndarray]:
        return [self.points[name] for name in names]

    def between(self, first: str, second: str, share: float) -> np.ndarray:
        return (1 - share) * self.points[first] + share * self.points[second]


def trim(canvas: Canvas, camera: Camera, design: Design, points: Points, piece: Piece) -> None:
    """Trim one piece, just painted."""
    pen = _Pen(canvas, camera, points)
    if piece.names[-1].startswith("sleeve_root"):
        side = piece.names[-1].rsplit("_", 1)[1]
        pen.line(pen.at(f"cuff_outer_{side}", f"cuff_inner_{side}"), design.cloth.colours[2], width=_BAND)
    elif design.kind == "bottom":
        (_skirt if design.name == "skirt" else _legs)(pen, design)
    elif design.kind == "outwear":
        _outwear(pen, design, side=piece.names[0].rsplit("_", 1)[1])
    else:
        _front(pen, design)


def _waistband(pen: _Pen, colour: np.ndarray) -> None:
    band = np.stack(pen.at("waist_left", "waist_centre", "waist_right"))
    pen.line(band + np.array([0, 0.11, 0]), colour)


def _pleats(pen: _Pen, design: Design, top: tuple[str, str], hem: tuple[str, str]) -> None:
    """Three to six lines down to the hem, on about half of the designs."""
    if design.cloth.seed % 2:
        return
    count = 3 + design.cloth.seed % 7 // 2
    for share in np.arange(1, count + 1) / (count + 1):
        stops = [pen.between(*top, share), pen.between(*hem, share)]
        pen.line(stops, 0.72 * design.cloth.colours[0])


def _skirt(pen: _Pen, design: Design) -> None:
    _waistband(pen, design.cloth.colours[2])
    _pleats(pen, design, ("waist_left", "waist_right"), ("hem_left", "hem_right"))


def _legs(pen: _Pen, design: Design) -> None:
    dark = 0.6 * design.cloth.colours[2]
    _waistband(pen, design.cloth.colours[2])
    pen.line(pen.at("waist_centre", "crotch"), dark)
    hip = "hip" if design.name == "trousers" else "side"
    for side in ("left", "right"):
        start = pen.between(f"waist_{side}", "waist_centre", 0.4)
        pen.line([start, pen.between(f"waist_{side}", f"{hip}_{side}", 0.7)], dark)
        if design.name == "trousers" and design.cloth.seed % 3 == 0:  # a crease down each leg
            knee = pen.between(f"knee_outer_{side}", f"knee_inner_{side}", 0.5)
            hem = pen.between(f"hem_outer_{side}", f"hem_inner_{side}", 0.5)
            pen.line([knee + 0.35 * (knee - hem), knee, hem], 0.75 * design.cloth.colours[0])


def _outwear(pen: _Pen, design: Design, *, side: str) -> None:
    cloth, points = design.cloth, pen.points
    edge = pen.at(*(f"opening_{part}_{side}" for part in ("top", "upper", "lower", "hem")))
    outward = np.sign(points[f"shoulder_{side}"][0]) * np.array([1.0, 0, 0])
    lapel = design.cut["lapel"]
    if lapel > 0.1:
        neck = pen.at(f"neck_{side}", f"neck_front_{side}", f"opening_top_{side}")
        pen.fill([*neck, neck[1] + lapel * outward + [0, 0.1, 0]], 0.8 * cloth.colours[2])
        pen.line([neck[0], neck[1] + lapel * outward + [0, 0.1, 0], neck[2]], 0.45 * cloth.colours[0])
    else:
        pen.line([*pen.at(f"neck_{side}", f"neck_front_{side}"), *edge], cloth.colours[2], width=_BAND)
    pocket = pen.between(f"side_2_{side}", f"opening_lower_{side}", 0.3)
    pen.line([pocket, pen.between(f"side_2_{side}", f"opening_lower_{side}", 0.65)], 0.5 * cloth.colours[0])
    if side == "right":
        for point in edge[:3]:
            button = ellipse(point[:2] + 0.07 * outward[:2] + [0, 0.08], 0.035, 0.035)
            pen.fill(np.insert(button, 2, point[2], axis=1), 0.4 * cloth.colours[2])


def _front(pen: _Pen, design: Design) -> None:
    """Tops and dresses."""
    cloth, points = design.cloth, pen.points
    pen.line(pen.at(*_NECKLINE), cloth.colours[2], width=_BAND)
    if design.kind == "dress":
        half = 0.5 * (points["side_1_right"] - points["side_1_left"]) * [1, 0, 0]
        middle = np.array([0, WAIST, 0.1])
        pen.line([middle - half, middle, middle + half], cloth.colours[2], width=_BAND)
        _pleats(pen, design, ("side_1_left", "side_1_right"), ("hem_left", "hem_right"))
    if cloth.print:
        x, y = points["neck_front"][:2]
        motif = ellipse((x, y + 0.42), 0.26, 0.2)
        motif = motif[:: (1, 2, 3, 4)[cloth.seed % 4]]  # an oval, a hexagon, a diamond, a triangle
        pen.fill(np.insert(motif, 2, 0.25, axis=1), 0.8 * cloth.colours[1] + 40)
