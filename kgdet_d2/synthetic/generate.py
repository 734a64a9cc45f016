"""A whole photo: who wears what, in which pose, before which wall, seen from where."""

from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import numpy as np

from kgdet_d2.synthetic.annotate import annotate
from kgdet_d2.synthetic.canvas import Camera, Canvas, Layer, Shape, ellipse, random_camera
from kgdet_d2.synthetic.cloth import random_colour
from kgdet_d2.synthetic.figure import Body, person_shapes, random_body
from kgdet_d2.synthetic.fit import fit
from kgdet_d2.synthetic.garments import (
    Design,
    Garment,
    leading_category,
    pieces_of,
    random_design,
    sample_outfit,
)
from kgdet_d2.synthetic.render import add_camera_noise, draw_backdrop, paint_piece, paint_shape

SPLITS = ("train", "validation")
_ATTEMPTS = 100
_NOT_WORN, _FRONTAL, _SIDE = 1, 2, 3  # viewpoint
_MIN_INSIDE = 0.45  # of a garment's landmarks: fewer inside the frame, and the photo is taken again
_MIN_VISIBLE = 0.006  # of the photo's pixels, likewise


@dataclass(frozen=True)
class Photo:
    """A drawn photo.

    Attributes:
        image: uint8 (H, W, 3) BGR.
        annotation: DeepFashion2's JSON as a dict.
    """

    image: np.ndarray
    annotation: dict


def generate_photo(index: int, *, seed: int = 0, split: str = "train", size: int = 256) -> Photo:
    """Return one photo with its annotation; it depends on nothing but the arguments.

    Photos 2i and 2i + 1 are a pair as in DeepFashion2: they share pair_id and are about one and the same
    article (style 1) in different scenes; the other garments have style 0. A photo may be cut so that
    only the other garments of the outfit are in it.

    Args:
        index: from 0.
        seed: not negative.
        split: "train" or "validation".
        size: the photo's long side in pixels; the short side is between 3/4 of it and all of it.

    Raises:
        ValueError: an argument outside its range.
        RuntimeError: a hundred views in succession hid a garment.
    """
    if split not in SPLITS or index < 0 or seed < 0 or size < 1:
        raise ValueError(
            f"expected index >= 0, seed >= 0, size >= 1 and split in {SPLITS}, "
            f"got index={index}, seed={seed}, size={size}, split={split!r}"
        )
    pair, stream = index // 2, SPLITS.index(split)
    # Both photos of a pair draw the article from the same stream, and all else from streams of their own.
    leading = random_design(np.random.default_rng([seed, stream, pair, 0]), leading_category(pair))
    rng = np.random.default_rng([seed, stream, index, 1])
    for _ in range(_ATTEMPTS):
        attempt = _try_generate(rng, leading, size)
        if attempt is not None:
            image, annotation = attempt
            return Photo(image, {"pair_id": pair + 1, **annotation})
    raise RuntimeError(f"photo {index} (seed {seed}, {split}): no acceptable view in {_ATTEMPTS} attempts")


def _try_generate(
    rng: np.random.Generator, leading: Design, long_side: int
) -> tuple[np.ndarray, dict] | None:
    """Return an image and its annotation but for pair_id; None if a garment in it can hardly be seen.

    Args:
        rng: where the choices come from; a failed attempt has advanced it.
        leading: the article that the photo is about.
        long_side: pixels.
    """
    flat = rng.random() < 0.14
    sideways = not flat and rng.random() < 0.1
    clean = rng.random() < 0.35
    body = random_body(rng, flat=flat, sideways=sideways)
    designs = [leading] if flat else sample_outfit(rng, leading)
    garments = [Garment(design, fit(design, body), style=int(design is leading)) for design in designs]
    short_side = round(long_side * rng.uniform(0.75, 1.0))
    size = np.array([short_side, long_side] if rng.random() < 0.7 else [long_side, short_side])
    camera = _fit_in_frame(rng, random_camera(rng, turn=body.turn, flat=flat), garments, size)
    # A garment wholly outside the frame is accepted; the annotation leaves it out.
    if any(0 < _share_inside(garment, camera, size) < _MIN_INSIDE for garment in garments):
        return None
    width, height = size
    canvas = Canvas(draw_backdrop(rng, height, width, clean=clean))
    _paint(rng, canvas, camera, body, garments)
    shown = [garment for garment in garments if garment.extent().any()]
    for garment in shown:
        inside = _share_inside(garment, camera, size)
        if inside < _MIN_INSIDE or garment.visible(canvas).mean() < _MIN_VISIBLE:
            return None
    viewpoint = _NOT_WORN if flat else _SIDE if sideways else _FRONTAL
    annotation: dict = {"source": "shop" if clean else "user"}
    for number, garment in enumerate(shown, 1):
        annotation[f"item{number}"] = annotate(garment, canvas, camera, viewpoint=viewpoint)
    return add_camera_noise(rng, canvas.image), annotation


def _fit_in_frame(
    rng: np.random.Generator, camera: Camera, garments: list[Garment], size: np.ndarray
) -> Camera:
    """Scale and move the view to the frame.

    Half of the photos show everything, many show one garment large, a few cut into it.

    Args:
        rng: where the choices come from.
        camera: the view; its scale and shift are not used.
        garments: with their points.
        size: (2,) width and height of the frame, pixels.
    """
    mode = rng.choice(["all", "one", "close"], p=[0.5, 0.4, 0.1])
    chosen = garments if mode == "all" else [garments[rng.integers(len(garments))]]
    points = np.concatenate([np.stack(list(garment.points.values())) for garment in chosen])
    share = rng.uniform(1.05, 1.3) if mode == "close" else rng.uniform(0.72, 0.95)
    box = np.concatenate([0.5 * (1 - share) * size, 0.5 * (1 + share) * size])
    camera = camera.fit_to_box(points, box)
    slack = np.maximum(size - np.ptp(camera(points), axis=0), 0.1 * size)
    return replace(camera, shift=camera.shift + rng.uniform(-0.4, 0.4, 2) * slack)


def _share_inside(garment: Garment, camera: Camera, size: np.ndarray) -> float:
    """Return the share (0..1) of the garment's landmarks inside the frame of size (2,), width and height."""
    xy = garment.keypoints(camera)
    return float(((xy >= 0) & (xy < size)).all(axis=1).mean())


def _paint(
    rng: np.random.Generator, canvas: Canvas, camera: Camera, body: Body, garments: list[Garment]
) -> None:
    """Paint everything, from back to front; the garments get their pieces and what these covered."""
    sleeve = max(garment.design.cut.get("sleeve", 0.0) for garment in garments)
    shapes = [] if body.flat else person_shapes(rng, body, sleeve=sleeve)
    shapes += _random_objects(rng, garments)
    jobs = [(shape.layer, partial(paint_shape, canvas, camera, shape)) for shape in shapes]
    tucked = rng.random() < 0.35
    for garment in garments:
        below = (garment.design.kind == "bottom") != tucked
        for piece in pieces_of(garment.design, body, layer=Layer.INNER if below else Layer.MIDDLE):
            number = len(jobs) + 1
            garment.pieces[number] = piece
            jobs.append((piece.layer, partial(paint_piece, canvas, camera, rng, garment, number)))
    for _, job in sorted(jobs, key=itemgetter(0)):  # within a layer in the order above: sorted is stable
        job()


def _random_objects(rng: np.random.Generator, garments: list[Garment]) -> list[Shape]:
    """Return up to two objects in front of the person, near landmarks: a bag, a phone, a balloon."""
    shapes = []
    for _ in range(rng.choice([0, 1, 2], p=[0.7, 0.22, 0.08])):
        points = list(garments[rng.integers(len(garments))].points.values())
        centre = points[rng.integers(len(points))][:2] + rng.normal(0, 0.25, 2)
        outline = ellipse(centre, rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4))
        outline = outline[:: rng.choice([1, 3])]  # an oval or a quadrangle
        shapes.append(Shape(Layer.OBJECT, outline, random_colour(rng)))
    return shapes
