"""Pages of figures: images under titles, side by side."""

import itertools
from pathlib import Path

import cv2
import numpy as np

from kgdet_d2.utils.io import atomic_write

WHITE = (255, 255, 255)


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image under a white bar with the title."""
    height = max(24, image.shape[1] // 20)
    bar = np.full((height, image.shape[1], 3), 255, np.uint8)
    position = (height // 3, round(0.72 * height))
    cv2.putText(bar, title, position, cv2.FONT_HERSHEY_SIMPLEX, height / 44, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, image])


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image shrunk to fit into size (width, height), centred on white."""
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (size[1] - image.shape[0]) // 2, (size[0] - image.shape[1]) // 2
    bottom, right = size[1] - image.shape[0] - top, size[0] - image.shape[1] - left
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=WHITE)


def grid(cells: list[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size, row by row; the last row is filled up with white."""
    columns = min(columns, len(cells))
    missing = -len(cells) % columns
    cells = [*cells, *itertools.repeat(np.full_like(cells[0], 255), missing)]
    return np.vstack([np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def write_jpeg(path: Path, image: np.ndarray) -> None:
    with atomic_write(path) as file:
        file.write(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
