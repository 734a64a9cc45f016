"""Painting: the backdrop, skin, cloth and its details; and light and noise of the camera at the end."""

import cv2
import numpy as np

from kgdet_d2.synthetic.canvas import Camera, Canvas, Shader, Shape, ellipse, smooth_outline
from kgdet_d2.synthetic.cloth import draw_pattern, random_colour
from kgdet_d2.synthetic.figure import WAIST
from kgdet_d2.synthetic.garments import Design, Garment, Piece, Points, is_corner

_NECKLINE = ("neck_left", "neck_front_left", "neck_front", "neck_front_right", "neck_right")
_BAND = 0.07  # heads

Stops = list[np.ndarray] | np.ndarray  # n points (3,), or (n, 3)


def draw_backdrop(rng: np.random.Generator, height: int, width: int, *, clean: bool) -> np.ndarray:
    """Draw what is behind the person: a studio's plain wall, or a room or street with clutter.

    Args:
        rng: where the choices come from.
        height: pixels.
        width: pixels.
        clean: the plain wall.

    Returns:
        uint8 (H, W, 3) BGR.
    """
    image = _ramp(rng, height, width, contrast=6 if clean else 22)
    if not clean:
        if rng.random() < 0.6:
            horizon = int(rng.uniform(0.5, 0.95) * height)
            image[horizon:] = _ramp(rng, height - horizon, width, contrast=15)
        for _ in range(rng.integers(2, 12)):
            _draw_clutter(rng, image)
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


def _ramp(rng: np.random.Generator, height: int, width: int, *, contrast: float) -> np.ndarray:
    """Return float32 (H, W, 3): a colour that changes smoothly over the frame."""
    base = random_colour(rng, dull=rng.random() < 0.7)
    corners = base + rng.normal(0, contrast, (3, 3, 1)) + rng.normal(0, 0.3 * contrast, (3, 3, 3))
    return cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def _draw_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw a rectangle, ellipse, line or polygon anywhere on an image (H, W, 3), in place."""
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


def add_camera_noise(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add light, tint, blur and sensor noise.

    Args:
        rng: where the choices come from.
        image: uint8 (H, W, 3); left as it is.

    Returns:
        uint8 (H, W, 3).
    """
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (3, 3), float(rng.uniform(0.3, 0.8)))
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(rng.uniform(0, 6))
    noisy = image * gain.astype(np.float32) + np.float32(rng.uniform(-12, 12)) + noise
    return np.clip(noisy, 0, 255).astype(np.uint8)


def paint_shape(canvas: Canvas, camera: Camera, shape: Shape) -> None:
    """Paint skin, hair, shoes and objects: one colour, darker towards the edge."""
    outline = camera(smooth_outline(shape.outline, np.zeros(len(shape.outline), dtype=bool)))
    blur = max(1, int(0.2 * camera.scale))

    def shade(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return shape.colour.astype(np.float32) * (0.8 + 0.2 * cv2.blur(mask, (blur, blur)))[..., None]

    canvas.fill(outline, shade)


def paint_piece(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, garment: Garment, number: int
) -> None:
    """Paint one piece of a garment with its details, and note what it covered.

    Args:
        canvas: what is painted on.
        camera: from body coordinates to pixels.
        rng: where folds and light come from.
        garment: its ``painted`` gets the entry ``number``.
        number: of the piece, a key of ``garment.pieces``; the canvas's owner of the pixels.
    """
    design, piece = garment.design, garment.pieces[number]
    corners = np.array([is_corner(name, design) for name in piece.names])
    stops = np.stack([garment.points[name] for name in piece.names])
    outline = camera(smooth_outline(stops, corners))
    shader = _cloth_shader(camera, rng, garment, piece)
    garment.painted[number] = canvas.fill(outline, shader, owner=number)
    canvas.line(outline, 0.5 * design.cloth.colours[0], closed=True)
    if not piece.lining:
        draw_details(canvas, camera, design, garment.points, piece)


def _cloth_shader(camera: Camera, rng: np.random.Generator, garment: Garment, piece: Piece) -> Shader:
    """Return the shader of a piece of cloth.

    The pattern runs along the piece; there are folds, a light from one side, darker edges.
    """
    design, points = garment.design, garment.points
    first, middle = piece.names[0], piece.names[len(piece.names) // 2]
    along = camera(np.stack([points[first], points[middle]]))  # (2, 2) pixels
    angle = camera.roll
    if _is_sleeve(piece):
        dx, dy = along[1] - along[0]
        angle = -np.arctan2(dx, dy)
    sin, cos = np.float32(np.sin(angle) / camera.scale), np.float32(np.cos(angle) / camera.scale)
    folds = rng.normal(0, 0.09, (5, 5)).astype(np.float32)
    light = np.float32(rng.uniform(-0.12, 0.12))
    blur = max(1, int(0.3 * camera.scale))
    tone = np.float32(0.55 if piece.lining else 1.0)

    def shade(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
        x, y = x - np.float32(along[0, 0]), y - np.float32(along[0, 1])
        u, v = x * cos + y * sin, y * cos - x * sin  # (h, w), heads across and along the piece
        size = mask.shape[::-1]
        bright = 1 + cv2.resize(folds, size, interpolation=cv2.INTER_CUBIC) + light * u
        bright *= tone * (0.7 + 0.3 * cv2.blur(mask, (blur, blur)))
        return draw_pattern(design.cloth, u, v) * bright[..., None]

    return shade


def _is_sleeve(piece: Piece) -> bool:
    """Return whether the piece is a sleeve; its outline ends at the sleeve's root."""
    return piece.names[-1].startswith("sleeve_root")


def _side_of(name: str) -> str:
    """Return ``left`` or ``right``, the last part of a point's name."""
    return name.rsplit("_", 1)[1]


class _Pen:
    """Draws on a garment in body coordinates; owners stay."""

    def __init__(self, canvas: Canvas, camera: Camera, points: Points) -> None:
        self.canvas, self.camera, self.points = canvas, camera, points

    def line(self, stops: Stops, colour: np.ndarray, *, width: float = 0.0) -> None:
        """Draw a line, ``width`` heads wide and a pixel at least."""
        thickness = max(1, int(width * self.camera.scale))
        self.canvas.line(self.camera(np.asarray(stops)), colour, thickness=thickness)

    def fill(self, corners: Stops, colour: np.ndarray) -> None:
        """Fill a polygon."""
        self.canvas.fill(self.camera(np.asarray(corners)), colour, owner=None)

    def at(self, *names: str) -> list[np.ndarray]:
        """Return the named points, each (3,)."""
        return [self.points[name] for name in names]

    def between(self, first: str, second: str, share: float) -> np.ndarray:
        """Return the point (3,) at a share (0..1) of the way from one named point to another."""
        return (1 - share) * self.points[first] + share * self.points[second]


def draw_details(canvas: Canvas, camera: Camera, design: Design, points: Points, piece: Piece) -> None:
    """Draw the details of one piece, just painted.

    These are bands, seams, pleats, pockets, buttons, lapels, prints: what tells a garment's parts apart.

    Args:
        canvas: what is drawn on; owners stay.
        camera: from body coordinates to pixels.
        design: of the garment.
        points: of the garment.
        piece: the piece of cloth, not a lining.
    """
    pen = _Pen(canvas, camera, points)
    if _is_sleeve(piece):
        side = _side_of(piece.names[-1])
        cuff = pen.at(f"cuff_outer_{side}", f"cuff_inner_{side}")
        pen.line(cuff, design.cloth.colours[2], width=_BAND)
    elif design.name == "skirt":
        _draw_skirt(pen, design)
    elif design.kind == "bottom":
        _draw_legs(pen, design)
    elif design.kind == "outwear":
        _draw_outwear(pen, design, side=_side_of(piece.names[0]))
    else:
        _draw_front(pen, design)


def _draw_waistband(pen: _Pen, colour: np.ndarray) -> None:
    """Draw a line a little below the waist."""
    band = np.stack(pen.at("waist_left", "waist_centre", "waist_right"))
    pen.line(band + np.array([0, 0.11, 0]), colour)


def _draw_pleats(pen: _Pen, design: Design, top: tuple[str, str], hem: tuple[str, str]) -> None:
    """Draw three to six lines down to the hem, on about half of the designs."""
    if design.cloth.seed % 2:
        return
    count = 3 + design.cloth.seed % 7 // 2
    for share in np.arange(1, count + 1) / (count + 1):
        stops = [pen.between(*top, share), pen.between(*hem, share)]
        pen.line(stops, 0.72 * design.cloth.colours[0])


def _draw_skirt(pen: _Pen, design: Design) -> None:
    """Draw a skirt's waistband and pleats."""
    _draw_waistband(pen, design.cloth.colours[2])
    _draw_pleats(pen, design, ("waist_left", "waist_right"), ("hem_left", "hem_right"))


def _draw_legs(pen: _Pen, design: Design) -> None:
    """Draw waistband, fly, pockets and creases of shorts or trousers."""
    dark = 0.6 * design.cloth.colours[2]
    _draw_waistband(pen, design.cloth.colours[2])
    pen.line(pen.at("waist_centre", "crotch"), dark)
    hip = "hip" if design.name == "trousers" else "side"
    for side in ("left", "right"):
        start = pen.between(f"waist_{side}", "waist_centre", 0.4)
        pen.line([start, pen.between(f"waist_{side}", f"{hip}_{side}", 0.7)], dark)
        if design.name == "trousers" and design.cloth.seed % 3 == 0:  # a crease down each leg
            knee = pen.between(f"knee_outer_{side}", f"knee_inner_{side}", 0.5)
            hem = pen.between(f"hem_outer_{side}", f"hem_inner_{side}", 0.5)
            pen.line([knee + 0.35 * (knee - hem), knee, hem], 0.75 * design.cloth.colours[0])


def _draw_outwear(pen: _Pen, design: Design, *, side: str) -> None:
    """Draw lapel or band, pocket and, on the right, buttons of one front panel."""
    cloth, points = design.cloth, pen.points
    edge = pen.at(*(f"opening_{part}_{side}" for part in ("top", "upper", "lower", "hem")))
    outward = np.sign(points[f"shoulder_{side}"][0]) * np.array([1.0, 0, 0])
    lapel = design.cut["lapel"]
    if lapel > 0.1:
        neck = pen.at(f"neck_{side}", f"neck_front_{side}", f"opening_top_{side}")
        tip = neck[1] + lapel * outward + [0, 0.1, 0]
        pen.fill([*neck, tip], 0.8 * cloth.colours[2])
        pen.line([neck[0], tip, neck[2]], 0.45 * cloth.colours[0])
    else:
        pen.line([*pen.at(f"neck_{side}", f"neck_front_{side}"), *edge], cloth.colours[2], width=_BAND)
    pocket = [pen.between(f"side_2_{side}", f"opening_lower_{side}", share) for share in (0.3, 0.65)]
    pen.line(pocket, 0.5 * cloth.colours[0])
    if side == "right":
        for point in edge[:3]:
            button = ellipse(point[:2] + 0.07 * outward[:2] + [0, 0.08], 0.035, 0.035)
            pen.fill(np.insert(button, 2, point[2], axis=1), 0.4 * cloth.colours[2])


def _draw_front(pen: _Pen, design: Design) -> None:
    """Draw neckband and print of a top or dress, and a dress's belt and pleats."""
    cloth, points = design.cloth, pen.points
    pen.line(pen.at(*_NECKLINE), cloth.colours[2], width=_BAND)
    if design.kind == "dress":
        half = 0.5 * (points["side_1_right"] - points["side_1_left"]) * [1, 0, 0]
        middle = np.array([0, WAIST, 0.1])
        pen.line([middle - half, middle, middle + half], cloth.colours[2], width=_BAND)
        _draw_pleats(pen, design, ("side_1_left", "side_1_right"), ("hem_left", "hem_right"))
    if cloth.print:
        x, y = points["neck_front"][:2]
        motif = ellipse((x, y + 0.42), 0.26, 0.2)
        motif = motif[:: (1, 2, 3, 4)[cloth.seed % 4]]  # an oval, a hexagon, a diamond, a triangle
        pen.fill(np.insert(motif, 2, 0.25, axis=1), 0.8 * cloth.colours[1] + 40)
