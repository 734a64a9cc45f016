"""Pages of figures: sizes, what is white, and what a file holds."""

import cv2
import numpy as np
import pytest

from kgdet_d2.figure_page import beside, encode_jpeg, fit, grid, justified, titled, to_height, write_jpeg


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


def test_to_a_height():
    assert to_height(black(20, 10), 30).shape == (30, 15, 3)
    assert to_height(black(400, 1), 20).shape == (20, 1, 3)


def coloured(sizes):
    """Pictures, each of a colour of its own that is far from white."""
    return [np.full((*size, 3), (number, 200 - number, 7), np.uint8) for number, size in enumerate(sizes)]


def places(page, number):
    """Rows and columns at which a picture of :func:`coloured` stands on a page; it fills them."""
    rows, columns = np.nonzero((page == (number, 200 - number, 7)).all(axis=2))
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert (page[box] == (number, 200 - number, 7)).all()
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize("number", [1, 2, 3, 7, 25])
def test_a_justified_page_is_full(number):
    """Each picture is there with its shape, the rows are full and of like height, and nothing is white."""
    rng = np.random.default_rng(number)
    sizes = [(int(height), int(width)) for height, width in rng.integers(60, 180, (number, 2))]
    page = justified(coloured(sizes), 100)
    boxes = np.array([places(page, index) for index in range(number)])  # (n, 4) top, bottom, left, right
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert (heights * widths).sum() == page.shape[0] * page.shape[1]
    aspects = np.array([width / height for height, width in sizes])
    assert np.abs(widths - heights * aspects).max() < 3
    assert (heights > 60).all() and (heights < 170).all()
    assert [tuple(box[[0, 2]]) for box in boxes] == sorted(tuple(box[[0, 2]]) for box in boxes)


def test_a_justified_page_of_one_picture():
    assert justified([black(50, 25)], 100).shape == (100, 50, 3)


def test_extreme_pictures_are_squeezed():
    page = justified(coloured([(1, 900), (900, 1), (50, 50)]), 100)
    for index in range(3):
        top, bottom, left, right = places(page, index)
        assert bottom - top >= 10 and right - left >= 5


def test_jpeg_of_a_quality(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    path = tmp_path / "new" / "page.jpg"
    write_jpeg(path, noise)
    assert path.read_bytes() == encode_jpeg(noise, quality=90)
    assert cv2.imread(str(path)).shape == noise.shape
    write_jpeg(path, noise, quality=30)
    assert path.stat().st_size < len(encode_jpeg(noise))


def test_pictures_side_by_side_are_of_one_height():
    left, right = np.full((100, 40, 3), 10, np.uint8), np.full((50, 60, 3), 200, np.uint8)
    page = beside(left, right)
    assert page.shape == (100, 40 + 2 + 120, 3)
    assert (page[:, :40] == 10).all() and (page[:, 40:42] == 255).all() and (page[:, 42:] == 200).all()
