"""Cloth and skin on the canvas: colours, folds, light, edges."""

from collections.abc import Callable

import cv2
import numpy as np

from kgdet_d2.synthetic.camera import Camera
from kgdet_d2.synthetic.canvas import Canvas
from kgdet_d2.synthetic.cloth import weave
from kgdet_d2.synthetic.curves import smooth_outline
from kgdet_d2.synthetic.garment import Garment
from kgdet_d2.synthetic.person import Shape
from kgdet_d2.synthetic.pieces import Piece, is_corner
from kgdet_d2.synthetic.trim import trim


def paint_shape(canvas: Canvas, camera: Camera, shape: Shape) -> None:
    """Skin, hair, shoes: one colour, darker towards the edge."""
    outline = camera(smooth_outline(shape.outline, np.zeros(len(shape.outline), dtype=bool)))
    blur = max(1, int(0.2 * camera.scale))

    def shade(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return shape.colour.astype(np.float32) * (0.8 + 0.2 * cv2.blur(mask, (blur, blur)))[..., None]

    canvas.fill(outline, shade)


def paint_piece(
    canvas: Canvas, camera: Camera, rng: np.random.Generator, garment: Garment, number: int
) -> None:
    """Paint one piece of a garment with its trimmings, and note what it covered."""
    design, piece = garment.design, garment.pieces[number]
    corners = np.array([is_corner(name, design) for name in piece.names])
    stops = np.stack([garment.points[name] for name in piece.names])
    outline = camera(smooth_outline(stops, corners))
    shader = _shader(camera, rng, garment, piece)
    garment.painted[number] = canvas.fill(outline, shader, owner=number)
    canvas.line(outline, 0.5 * design.cloth.colours[0], closed=True)
    if not piece.lining:
        trim(canvas, camera, design, garment.points, piece)


def _shader(
    camera: Camera, rng: np.random.Generator, garment: Garment, piece: Piece
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The cloth's pattern runs along the piece; folds, a light from one side, darker edges."""
    design, points = garment.design, garment.points
    along = camera(np.stack([points[piece.names[0]], points[piece.names[len(piece.names) // 2]]]))
    angle = camera.roll
    if piece.names[-1].startswith("sleeve_root"):
        dx, dy = along[1] - along[0]
        angle = -np.arctan2(dx, dy)
    sin, cos = np.float32(np.sin(angle) / camera.scale), np.float32(np.cos(angle) / camera.scale)
    folds = rng.normal(0, 0.09, (5, 5)).astype(np.float32)
    light = np.float32(rng.uniform(-0.12, 0.12))
    blur = max(1, int(0.3 * camera.scale))
    tone = np.float32(0.55 if piece.lining else 1.0)

    def shade(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> np.ndarray:
        x, y = x - np.float32(along[0, 0]), y - np.float32(along[0, 1])
        u, v = x * cos + y * sin, y * cos - x * sin
        size = mask.shape[::-1]
        bright = 1 + cv2.resize(folds, size, interpolation=cv2.INTER_CUBIC) + light * u
        bright *= tone * (0.7 + 0.3 * cv2.blur(mask, (blur, blur)))
        return weave(design.cloth, u, v) * bright[..., None]

    return shade
