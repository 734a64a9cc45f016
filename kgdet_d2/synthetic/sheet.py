"""A contact sheet: many photos on one page, with their annotation drawn in."""

import cv2
import numpy as np

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic.photo import Photo

_COLOURS = ((60, 220, 60), (40, 160, 255), (255, 120, 40))  # BGR of the first, second, third garment
_COVERED = (40, 40, 230)


def draw_annotation(photo: Photo, *, side: int) -> np.ndarray:
    """The photo enlarged to fit a square of white paper, uint8 (side, side, 3) BGR.

    Box, class and edges in the garment's colour; visible landmarks white, covered ones red.
    """
    scale = side / max(photo.image.shape[:2])
    image = cv2.resize(photo.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    items = [item for key, item in photo.annotation.items() if key.startswith("item")]
    for item, colour in zip(items, _COLOURS, strict=False):
        x1, y1, x2, y2 = (round(scale * value) for value in item["bounding_box"])
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, 1)
        marks = np.array(item["landmarks"]).reshape(-1, 3)
        pixels = [tuple(int(value) for value in np.round(scale * mark[:2])) for mark in marks]
        for a, b in DEEPFASHION2.skeleton[item["category_id"] - 1]:
            if marks[a, 2] and marks[b, 2]:
                cv2.line(image, pixels[a], pixels[b], colour, 1, cv2.LINE_AA)
        for pixel, mark in zip(pixels, marks, strict=True):
            if mark[2]:
                cv2.circle(image, pixel, 2, (255, 255, 255) if mark[2] == 2 else _COVERED, -1, cv2.LINE_AA)
        name, place = item["category_name"], (x1 + 2, y1 + 10)
        for thickness, ink in ((3, (0, 0, 0)), (1, colour)):
            cv2.putText(image, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, ink, thickness, cv2.LINE_AA)
    paper = np.full((side, side, 3), 255, dtype=np.uint8)
    paper[: image.shape[0], : image.shape[1]] = image
    return paper


def contact_sheet(photos: list[Photo], *, columns: int, side: int) -> np.ndarray:
    """uint8 BGR page of square tiles, row by row; the last row is filled with white."""
    tiles = [draw_annotation(photo, side=side) for photo in photos]
    tiles += [np.full((side, side, 3), 255, dtype=np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.vstack(rows)
