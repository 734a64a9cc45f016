"""The photos of files, folders, patterns, lists and films."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from kgdet_d2.engine.predict.sources import FilmReader, find_sources, stated_size


@pytest.fixture
def tree(tmp_path):
    """Photos of two folders, two of which have the same name."""
    for name in ("shop/1.jpg", "shop/more/1.jpg", "user/1.jpg", "user/2 ü [x].PNG", "user/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no photo")
        else:
            Image.new("RGB", (6, 4)).save(path)
    return tmp_path


def names(*inputs, list_file=None):
    sources = find_sources([str(text) for text in inputs], list_file)
    assert [source.image_id for source in sources] == list(range(1, len(sources) + 1))
    return [source.name for source in sources]


def test_a_folder_with_all_below_it(tree):
    assert names(tree / "shop") == ["1.jpg", "more/1.jpg"]
    assert names(tree / "user") == ["1.jpg", "2 ü [x].PNG"]


def test_photos_of_one_name_keep_their_folders(tree):
    expected = ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg", "user/2 ü [x].PNG"]
    assert names(tree / "shop", tree / "user") == expected == names(tree)
    assert names(tree / "user/1.jpg", tree / "shop/1.jpg") == ["user/1.jpg", "shop/1.jpg"]


def test_files_patterns_and_each_file_once(tree):
    assert names(tree / "user/2 ü [x].PNG") == ["2 ü [x].PNG"]
    assert names(tree / "user/*.jpg", tree / "user/1.jpg", tree / "user") == ["1.jpg", "2 ü [x].PNG"]
    assert names(tree / "**/1.jpg") == ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg"]
    assert names(tree / "user/notes.txt") == ["notes.txt"]  # named by its user, so it is tried


def test_lists(tree, monkeypatch):
    lines = f"{tree}/shop\n\n{tree}/user/1.jpg\n"
    (tree / "list.txt").write_text(lines)
    expected = ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg"]
    assert names(list_file=str(tree / "list.txt")) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert names(list_file="-") == expected


def test_nothing_there(tree):
    for text in ("nowhere.jpg", "user/*.gif", "empty"):
        (tree / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"expected photos or films there, found none"):
            names(tree / text)
    with pytest.raises(ValueError, match=r"expected photos: files, folders"):
        names()


@pytest.fixture
def film(tmp_path):
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 24))
    for value in range(5):
        writer.write(np.full((24, 32, 3), 40 * value, np.uint8))
    writer.release()
    return path


def test_each_picture_of_a_film(film, tmp_path):
    sources = find_sources([film], None)
    assert [source.name for source in sources] == [f"film.avi/{number:06d}" for number in range(5)]
    reader = FilmReader()
    for frame in (0, 1, 3, 4, 2, 2, 0):  # backwards, too
        picture = reader.read(film, frame)
        assert picture.shape == (24, 32, 3) and abs(int(picture.mean()) - 40 * frame) < 3
    with pytest.raises(RuntimeError, match=r"film\.avi: cannot read picture 5"):
        reader.read(film, 5)
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"broken\.mp4: expected a film"):
        find_sources([str(tmp_path / "broken.mp4")], None)


def test_the_size_in_the_header(tree, film):
    (source,) = find_sources([str(tree / "user/1.jpg")], None)
    assert stated_size(source) == (4, 6)
    (source,) = find_sources([str(tree / "user/notes.txt")], None)
    assert stated_size(source) == (0, 0) == stated_size(find_sources([film], None)[0])
