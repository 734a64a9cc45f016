"""Pages of figures: sizes, what is white, and what a file holds."""

import cv2
import numpy as np
import pytest

from kgdet_d2.figure_page import encode_jpeg, fit, grid, titled, write_jpeg


def black(height, width):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(("width", "bar"), [(100, 24), (800, 40)])
def test_title_stands_in_a_bar_above_the_picture(width, bar):
    figure = titled(black(30, width), "skirt")
    assert figure.shape == (bar + 30, width, 3)
    assert (figure[bar:] == 0).all()
    ink = (figure[:bar] < 128).any(axis=2)
    assert ink.any() and ink.mean() < 0.5


@pytest.mark.parametrize(
    ("shape", "inside"),
    [((20, 10), np.s_[:, 45:55]), ((10, 40), np.s_[3:17, 22:78]), ((2, 10), np.s_[0:20, 0:100])],
)
def test_fit_centres_the_picture_on_white(shape, inside):
    """A high picture and two wide ones, in a cell 100 wide and 20 high; the last ones are enlarged."""
    cell = fit(black(*shape), (100, 20))
    assert cell.shape == (20, 100, 3)
    assert (cell[inside] == 0).all()
    assert (cell == 255).all(axis=2).sum() == 2000 - 20 * (20 * shape[1] // shape[0])


def test_grid_fills_the_last_row():
    page = grid([black(2, 3)] * 5, columns=4)
    assert page.shape == (4, 12, 3)
    assert (page[2:, 3:] == 255).all()
    assert (page[2:, :3] == 0).all()


def test_a_page_of_few_pictures_is_narrow():
    assert grid([black(2, 3)] * 2, columns=4).shape == (2, 6, 3)


def test_jpeg_of_a_quality(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    path = tmp_path / "new" / "page.jpg"
    write_jpeg(path, noise)
    assert path.read_bytes() == encode_jpeg(noise, quality=90)
    assert cv2.imread(str(path)).shape == noise.shape
    write_jpeg(path, noise, quality=30)
    assert path.stat().st_size < len(encode_jpeg(noise))
