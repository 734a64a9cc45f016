"""Pages of figures: pictures with titles, laid out in a grid or in full rows, and written as JPEG.

All pictures are uint8 (height, width, 3), BGR as OpenCV writes them.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from kgdet_d2.utils.io import atomic_write

WHITE = (255, 255, 255)
_PAGE_ASPECT = 1.4  # of a page of rows, width by height, about


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """Put a white bar with a title above a picture.

    Args:
        image: (height, width, 3).
        title: one line of text; what is wider than the picture is cut off.

    Returns:
        (bar + height, width, 3); the bar's height is a twentieth of the width, and 24 pixels at least.
    """
    bar_height = max(24, image.shape[1] // 20)
    bar = np.full((bar_height, image.shape[1], 3), 255, np.uint8)
    baseline = (bar_height // 3, round(0.72 * bar_height))
    cv2.putText(bar, title, baseline, cv2.FONT_HERSHEY_SIMPLEX, bar_height / 44, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, image])


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a picture to fit into a cell of a page, centred on white.

    Args:
        image: (height, width, 3).
        size: (width, height) of the cell.

    Returns:
        the cell, (size[1], size[0], 3).
    """
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (size[1] - image.shape[0]) // 2, (size[0] - image.shape[1]) // 2
    bottom, right = size[1] - image.shape[0] - top, size[0] - image.shape[1] - left
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=WHITE)


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lay pictures out row by row.

    Args:
        images: one or more, all of one shape (height, width, 3).
        columns: pictures in a row; a page of fewer pictures is narrower.

    Returns:
        (rows * height, columns * width, 3); the last row is filled up with white.
    """
    columns = min(columns, len(images))
    missing = -len(images) % columns
    cells = [*images, *[np.full_like(images[0], 255)] * missing]
    rows = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return np.vstack(rows)


def to_height(image: np.ndarray, height: int) -> np.ndarray:
    """Scale a picture to a height in pixels; its aspect ratio stays."""
    width = max(1, round(height * image.shape[1] / image.shape[0]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Lay two pictures out side by side, the right one as high as the left, with a white gap between them."""
    gap = np.full((left.shape[0], max(left.shape[0] // 50, 1), 3), 255, np.uint8)
    return np.hstack([left, gap, to_height(right, left.shape[0])])


def justified(images: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Lay pictures out in rows, one beside the other, each row as wide as the page.

    The pictures of a row are of one height and keep their aspect ratios, to half a pixel; nothing is between
    them. Rows differ a little in height.

    Args:
        images: one or more, (height, width, 3) each. One that is more than ten times as wide as high, or as
            high as wide, is squeezed to that.
        height: of a row in pixels, on average.

    Returns:
        The page, (h, w, 3).
    """
    aspects = np.clip([image.shape[1] / image.shape[0] for image in images], 0.1, 10)
    rows = max(1, round(np.sqrt(aspects.sum() / _PAGE_ASPECT)))
    middle = (aspects.cumsum() - aspects / 2) / aspects.sum()  # of each picture, in one long row of all, 0..1
    row_of = (middle * rows).astype(int)
    width = round(height * aspects.sum() / rows)
    members = [np.flatnonzero(row_of == row).tolist() for row in np.unique(row_of)]
    return np.vstack([_row([images[index] for index in row], aspects[row], width) for row in members])


def _row(images: Sequence[np.ndarray], aspects: np.ndarray, width: int) -> np.ndarray:
    height = round(width / aspects.sum())
    edges = np.rint(np.cumsum([0, *aspects]) * width / aspects.sum()).astype(int)
    sizes = [(int(after - before), height) for before, after in pairwise(edges)]
    scaled = zip(images, sizes, strict=True)
    return np.hstack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image, size in scaled])


def encode_jpeg(image: np.ndarray, *, quality: int = 90) -> bytes:
    """Return a picture as the content of a JPEG file.

    Args:
        image: (height, width, 3).
        quality: 0..100.

    Raises:
        RuntimeError: OpenCV cannot encode the picture.
    """
    encoded, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape} as JPEG")
    return content.tobytes()


def write_jpeg(path: str | Path, image: np.ndarray, *, quality: int = 90) -> None:
    """Write a picture as a whole JPEG file.

    Args:
        path: the file; its folder is made where there is none.
        image: (height, width, 3).
        quality: 0..100.

    Raises:
        RuntimeError: OpenCV cannot encode the picture.
    """
    content = encode_jpeg(image, quality=quality)
    with atomic_write(path) as file:
        file.write(content)
