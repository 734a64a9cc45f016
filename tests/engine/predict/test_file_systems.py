"""Photos at URIs, in file systems of pyarrow's and of fsspec's."""

import fsspec
import numpy as np
import pytest
from PIL import Image

from kgdet_d2.data.images import read_image
from kgdet_d2.engine.predict.file_systems import let_photos_be_read_from, list_uri
from kgdet_d2.engine.predict.sources import find_sources

NAMES = ["a b.jpg", "c%20d.jpg", "more/1#?.png", "more/ü.jpg"]


@pytest.fixture
def tree(tmp_path):
    """Photos, a hidden one, a film and a text."""
    for value, name in enumerate([*NAMES, ".hidden.jpg", "film.mp4", "notes.txt"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), (value, 0, 0)).save(tmp_path / name, "PNG")
    return tmp_path


@pytest.fixture
def bucket(tree):
    """The same in fsspec's file system of the memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(tree), "/bucket/photos", recursive=True)
    yield "memory://bucket/photos"
    memory.rm("/bucket", recursive=True)


def names(*inputs, list_file=None):
    return [source.name for source in find_sources(list(inputs), list_file)]


def test_a_folder_s_photos(tree, bucket):
    assert names(f"file://{tree}") == names(f"file://{tree}/") == NAMES
    assert names(bucket) == NAMES
    assert names(f"{bucket}/more") == ["1#?.png", "ü.jpg"]


def test_a_photo(bucket):
    assert names(f"{bucket}/more/ü.jpg") == ["ü.jpg"]
    assert names(f"{bucket}/notes.txt") == ["notes.txt"]


def test_photos_of_several_places_never_meet(tree, bucket):
    (tree / "list.txt").write_text(f"{bucket}/a b.jpg\n{bucket}/lost.jpg\n")
    found = names(str(tree / "a b.jpg"), list_file=str(tree / "list.txt"))
    assert found[1:] == ["memory:/bucket/photos/a b.jpg", "memory:/bucket/photos/lost.jpg"]
    assert found[0] == str(tree / "a b.jpg").removeprefix("/")


def test_photos_are_read(tree, bucket):
    for uri in (f"file://{tree}", bucket):
        for value, source in enumerate(find_sources([uri], None)):
            let_photos_be_read_from(source.path)
            assert np.array_equal(read_image(source.path, "RGB"), np.full((4, 6, 3), (value, 0, 0)))
        with pytest.raises(RuntimeError, match=r"lost\.jpg: cannot read the image: FileNotFoundError"):
            read_image(f"{uri}/lost.jpg", "RGB")


def test_no_photo(bucket):
    """The message is that of every run."""
    let_photos_be_read_from(bucket)
    fsspec.filesystem("memory").pipe("/bucket/photos/bad.jpg", b"nothing")
    message = r"bad\.jpg: cannot read the image: cannot identify image file of 7 bytes$"
    with pytest.raises(RuntimeError, match=message):
        read_image(f"{bucket}/bad.jpg", "RGB")


def test_nothing_there(bucket):
    assert list_uri(f"{bucket}/nowhere") == []
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected photos"):
        find_sources([f"{bucket}/nowhere"], None)
    with pytest.raises(ValueError, match=r"shop://x: neither pyarrow nor fsspec"):
        find_sources(["shop://x/photos"], None)
