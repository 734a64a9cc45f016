"""The pages of pictures of ``kgdet check``: drawn samples of each class, and each kind of problem."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kgdet_d2.data import AnnotationTable
from kgdet_d2.data.images import read_image
from kgdet_d2.data.inspect.problems import Problem
from kgdet_d2.engine.check.subject import Subject
from kgdet_d2.figure_page import beside, fit, grid, titled, write_jpeg
from kgdet_d2.visualizer import LONG_SIDE, FashionVisualizer

SHEET_COLUMNS = 6
SHEET_CELL = (400, 440)  # width, height in pixels
_CONTEXT = 0.5  # of a garment's longer side: how much of the photo is shown around it
_LEAST_CUT = 64  # pixels of the photo that are shown, in width and height


def choose_samples(annotations: AnnotationTable, per_class: int, seed: int) -> list[tuple[int, str]]:
    """Choose photos at random: so many of each class, or all, no photo twice.

    Returns:
        (photo's row, class's name) of each.
    """
    rng = np.random.default_rng(seed)
    chosen: dict[int, str] = {}
    for index, name in enumerate(annotations.schema.class_names):
        left = np.setdiff1d(annotations.garment_image[annotations.category_id == index], list(chosen))
        chosen |= dict.fromkeys(rng.permutation(left)[:per_class].tolist(), name)
    return list(chosen.items())


def draw_samples(path: Path, subject: Subject, chosen: list[tuple[int, str]]) -> None:
    """Write the drawn photos on one page; those that cannot be read are reported and left out."""
    figures = []
    for photo, title in chosen:
        try:
            drawn = _draw_photo(subject, photo)
        except RuntimeError as error:
            print(f"sample left out: {error}", file=sys.stderr)
            continue
        figures.append(fit(titled(drawn, f"{title}: {Path(subject.paths[photo]).name}"), SHEET_CELL))
    path.unlink(missing_ok=True)  # an earlier check's
    if figures:
        write_jpeg(path, grid(figures, SHEET_COLUMNS))


def draw_problems(path: Path, subject: Subject, problems: Sequence[Problem]) -> None:
    """Write a page of problems, numbered from 1, without those whose photos cannot be read."""
    cells = []
    for number, problem in enumerate(problems, 1):
        try:
            drawn = _draw_problem(subject, problem)
        except RuntimeError:  # which the list of problems, or a sample left out, tells
            continue
        cells.append(fit(titled(drawn, f"{number}: {Path(subject.paths[problem.photo]).name}"), SHEET_CELL))
    if cells:
        write_jpeg(path, grid(cells, SHEET_COLUMNS))


def _draw_problem(subject: Subject, problem: Problem) -> np.ndarray:
    """Return what shows a problem: uint8 BGR (h, w, 3).

    Raises:
        RuntimeError: a photo cannot be read.
    """
    if problem.garments:
        return _draw_garments(subject, problem.photo, problem.garments)
    drawn = _draw_photo(subject, problem.photo)
    if problem.other_photo is None:
        return drawn
    return beside(_draw_photo(subject, problem.other_photo), drawn)


def _draw_photo(subject: Subject, photo: int) -> np.ndarray:
    """Return a photo with the garments that have an area: uint8 BGR (h, w, 3)."""
    garments = [row for row in subject.garments_of(photo) if subject.annotations.has_area[row]]
    image = read_image(subject.paths[photo], "RGB")
    return _draw(subject, image, subject.drawable(garments))


def _draw_garments(subject: Subject, photo: int, garments: Iterable[int]) -> np.ndarray:
    """Return the part of a photo around some of its garments, with these alone: uint8 BGR (h, w, 3)."""
    image = read_image(subject.paths[photo], "RGB")
    x1, y1, x2, y2 = _part_around(subject.annotations, garments, image.shape[:2])
    record = subject.drawable(garments, origin=np.array([x1, y1]))
    return _draw(subject, np.ascontiguousarray(image[y1:y2, x1:x2]), record)


def _draw(subject: Subject, image: np.ndarray, record: dict) -> np.ndarray:
    # Of one size for all: a cell of the page is smaller, and large photos take long to draw.
    visualizer = FashionVisualizer(image, subject.metadata, scale=LONG_SIDE / max(image.shape[:2]))
    return visualizer.draw_dataset_dict(record).get_image()[:, :, ::-1]


def _part_around(
    annotations: AnnotationTable, garments: Iterable[int], size: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Return x1 y1 x2 y2 of the part of a photo that holds garments' boxes and landmarks, and some more.

    Args:
        annotations: of the garments.
        garments: their rows.
        size: height, width of the photo.

    Returns:
        Pixels, within the photo; 64 in width and height at least, where it has them.
    """
    shown = []
    for row in garments:
        rows = slice(*annotations.keypoint_offsets[row : row + 2])
        shown += [
            annotations.box_float64[row].reshape(2, 2),
            annotations.points_float64[rows][annotations.labelled()[rows]],
        ]
    points = np.concatenate(shown)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = max(_CONTEXT * (high - low).max(), _LEAST_CUT / 2)
    height, width = size
    end = np.array([width, height])
    low = np.floor(np.clip(low - margin, 0, np.maximum(end - _LEAST_CUT, 0)))
    high = np.ceil(np.clip(high + margin, np.minimum(low + _LEAST_CUT, end), end))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
