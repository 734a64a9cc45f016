"""DeepFashion2's annotation of a photo: decided from the pixels really painted, and drawn."""

import cv2
import numpy as np

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic.canvas import Camera, Canvas
from kgdet_d2.synthetic.garments import Garment

_REACH = 2  # pixels around a landmark that decide whether it is visible
_MIN_SHARE = 0.4  # of the cloth that was painted there,
_MIN_PIXELS = 3  # and not less than this
_TOLERANCE = 0.7  # pixels that a polygon may be off the region's edge

_COLOURS = ((60, 220, 60), (40, 160, 255), (255, 120, 40))  # BGR of the first, second, third garment
_COVERED = (40, 40, 230)


def annotate(garment: Garment, canvas: Canvas, camera: Camera, *, viewpoint: int) -> dict:
    """Return a garment's annotation, one ``item`` of DeepFashion2's JSON.

    The grades: scale by the box's share of the photo (10 and 40 %), occlusion by the covered share of
    the landmarks inside the frame (20 and 50 %), zoom_in by the share of landmarks outside (0 and 40 %).

    Args:
        garment: with the pieces that were painted.
        canvas: after everything was painted.
        camera: from body coordinates to pixels.
        viewpoint: DeepFashion2's: 1 not worn, 2 from the front, 3 from the side.
    """
    keypoints = _keypoints(garment, canvas, camera)
    labelled = keypoints[keypoints[:, 2] > 0]
    box = _box(garment, labelled, canvas.owner.shape)
    share = (box[2] - box[0]) * (box[3] - box[1]) / canvas.owner.size
    return {
        "segmentation": _polygons(garment.visible(canvas)),
        "scale": _grade(share, 0.1, 0.4),
        "viewpoint": viewpoint,
        "zoom_in": _grade(1 - len(labelled) / len(keypoints), 0, 0.4),
        "landmarks": keypoints.reshape(-1).tolist(),
        "style": garment.style,
        "bounding_box": box,
        "category_id": garment.design.category + 1,
        "occlusion": _grade(float((labelled[:, 2] == 1).mean()), 0.2, 0.5),
        "category_name": garment.design.name,
    }


def _visible(garment: Garment, canvas: Canvas, xy: np.ndarray) -> np.ndarray:
    """Return bool (K_c,): whether enough is still shown of a piece that the landmark lies on.

    Enough is a share of the piece's pixels in the 5 x 5 around the landmark, and a few pixels at least.

    Args:
        garment: with the pieces that were painted.
        canvas: after everything was painted.
        xy: (K_c, 2) pixels of the landmarks.
    """
    height, width = canvas.owner.shape
    steps = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1].reshape(2, -1).T  # (25, 2)
    around = np.round(xy).astype(int)[:, None] + steps  # (K_c, 25, 2)
    x, y = around[..., 0], around[..., 1]  # (K_c, 25) each, as all below
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    owner = canvas.owner[y, x]
    visible = np.zeros(len(xy), dtype=bool)
    for number, piece in garment.pieces.items():
        on_piece = np.array([name in piece.names for name in garment.design.keypoint_names])
        painted = (garment.painted[number][y, x] & inside).sum(axis=1)
        shown = ((owner == number) & inside).sum(axis=1)
        visible |= on_piece & (shown >= _MIN_PIXELS) & (shown >= _MIN_SHARE * painted)
    return visible


def _keypoints(garment: Garment, canvas: Canvas, camera: Camera) -> np.ndarray:
    """Return the landmarks, (K_c, 3) x, y, v.

    x, y have one decimal; v is 2 visible, 1 covered, 0 outside the frame (x = y = 0 then).
    """
    height, width = canvas.owner.shape
    xy = np.round(garment.keypoints(camera), 1)
    inside = np.all((xy >= 0) & (xy < (width, height)), axis=1)
    v = np.where(_visible(garment, canvas, xy), 2, 1)
    return np.where(inside[:, None], np.column_stack([xy, v]), 0.0)


def _box(garment: Garment, labelled: np.ndarray, shape: tuple[int, int]) -> list[int]:
    """Return the garment's box x1 y1 x2 y2, hidden parts included, as DeepFashion2's boxes have them.

    Args:
        garment: with the pieces that were painted; some pixel of it is inside the frame.
        labelled: (n, 3) x, y, v of the landmarks inside the frame.
        shape: height and width of the frame.
    """
    extent = garment.extent()
    columns, rows = np.flatnonzero(extent.any(axis=0)), np.flatnonzero(extent.any(axis=1))
    x = [columns[0], columns[-1], *labelled[:, 0]]
    y = [rows[0], rows[-1], *labelled[:, 1]]
    height, width = shape
    x1, y1 = np.floor(min(x)), np.floor(min(y))
    x2, y2 = np.ceil(max(x)) + 1, np.ceil(max(y)) + 1
    return [int(max(x1, 0)), int(max(y1, 0)), int(min(x2, width)), int(min(y2, height))]


def _grade(share: float, low: float, high: float) -> int:
    """Return a grade: 1 up to low, 2 up to high, 3 above."""
    return 1 + int(share > low) + int(share > high)


def _polygons(mask: np.ndarray) -> list[list[int]]:
    """Return the outlines of a mask's regions, each x, y, x, y, ... of at least three points.

    Args:
        mask: bool (H, W); regions without an area (lines of pixels) are left out.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        if cv2.contourArea(contour) > 0:
            simplified = cv2.approxPolyDP(contour, _TOLERANCE, True)
            polygon: np.ndarray = simplified if len(simplified) >= 3 else contour
            polygons.append(polygon.reshape(-1).tolist())
    return polygons


def draw_annotation(image: np.ndarray, annotation: dict, *, side: int) -> np.ndarray:
    """Draw a photo's annotation on the photo, enlarged to fit a square of white paper.

    Box, class and edges have the garment's colour; visible landmarks are white, covered ones red.

    Args:
        image: uint8 (H, W, 3) BGR.
        annotation: DeepFashion2's JSON as a dict.
        side: pixels of the square.

    Returns:
        uint8 (side, side, 3) BGR.
    """
    scale = side / max(image.shape[:2])
    page = np.full((side, side, 3), 255, dtype=np.uint8)
    enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    items = [item for key, item in annotation.items() if key.startswith("item")]
    for item, colour in zip(items, _COLOURS, strict=False):  # an outfit has three garments at most
        _draw_item(enlarged, item, colour, scale)
    page[: enlarged.shape[0], : enlarged.shape[1]] = enlarged
    return page


def _draw_item(image: np.ndarray, item: dict, colour: tuple[int, int, int], scale: float) -> None:
    """Draw one garment's annotation in place; ``scale`` pixels of the image are one of the photo."""
    x1, y1, x2, y2 = (round(scale * value) for value in item["bounding_box"])
    cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, 1)
    keypoints = np.array(item["landmarks"]).reshape(-1, 3)
    pixels = [(int(x), int(y)) for x, y in np.round(scale * keypoints[:, :2])]
    visibility = keypoints[:, 2]
    for start, end in DEEPFASHION2.skeleton[item["category_id"] - 1]:
        if visibility[start] and visibility[end]:
            cv2.line(image, pixels[start], pixels[end], colour, 1, cv2.LINE_AA)
    for pixel, v in zip(pixels, visibility, strict=True):
        if v:
            cv2.circle(image, pixel, 2, (255, 255, 255) if v == 2 else _COVERED, -1, cv2.LINE_AA)
    # The class's name in the garment's colour, on a broader black copy of itself.
    name, baseline = item["category_name"], (x1 + 2, y1 + 10)
    for thickness, ink in ((3, (0, 0, 0)), (1, colour)):
        cv2.putText(image, name, baseline, cv2.FONT_HERSHEY_SIMPLEX, 0.36, ink, thickness, cv2.LINE_AA)
