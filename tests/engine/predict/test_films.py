"""The pictures of films, whole ones and broken ones."""

import cv2
import numpy as np
import pytest

from kgdet_d2.engine.predict.films import FilmReader, count_pictures
from kgdet_d2.engine.predict.sources import find_sources


def write_film(path, number):
    """Pictures of rising grey, each a file of its own inside the film."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (128, 96))
    noise = np.random.default_rng(0).integers(-9, 10, (96, 128, 3))  # makes them longer than the head
    for value in range(number):
        writer.write((20 + 10 * value + noise).astype(np.uint8))
    writer.release()
    return str(path)


@pytest.fixture
def film(tmp_path):
    return write_film(tmp_path / "film.avi", 20)


def test_each_picture_of_a_film(film):
    sources = find_sources([film], None)
    assert [source.name for source in sources] == [f"film.avi/{number:06d}" for number in range(20)]
    reader = FilmReader()
    for number in (0, 1, 3, 4, 2, 2, 0, 19):  # backwards, too
        picture = reader.read(film, number)
        assert picture.shape == (96, 128, 3) and abs(int(picture.mean()) - 20 - 10 * number) < 3
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"film\.avi: cannot read picture 20"):
            reader.read(film, 20)
    assert abs(int(reader.read(film, 7).mean()) - 90) < 3


def test_a_film_that_breaks_off(film, tmp_path):
    """Its pictures count up to the break, and one more tells of it."""
    content = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(content[: len(content) // 2])
    number = count_pictures(film)
    assert 5 < number < 15
    reader = FilmReader()
    assert reader.read(film, number - 2).shape == (96, 128, 3)
    with pytest.raises(RuntimeError, match=rf"picture {number - 1}; the film says that it has 20"):
        reader.read(film, number - 1)


def test_a_film_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    (source,) = find_sources([str(tmp_path / "broken.mp4")], None)
    assert source.name == "broken.mp4/000000"
    with pytest.raises(RuntimeError, match=r"broken\.mp4: cannot read picture 0"):
        FilmReader().read(source.path, source.frame)


def test_films_take_turns(film, tmp_path):
    other = write_film(tmp_path / "other.avi", 3)
    reader = FilmReader()
    means = [int(reader.read(path, number).mean()) for path, number in [(film, 5), (other, 1), (film, 6)]]
    np.testing.assert_allclose(means, [70, 30, 80], atol=3)
