"""All photos of a dataset read strictly: each kind of bad photo is told, and stops nothing."""

import io
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kgdet_d2.data.inspect import photos as module
from kgdet_d2.data.inspect.photos import (
    DAMAGED,
    DOUBLE_PHOTO,
    MISSING,
    RESIZED,
    UNREAD,
    WARNED,
    PhotoFile,
    check_photos,
)
from kgdet_d2.data.inspect.problems import by_kind, double_photos

WIDTH, HEIGHT = 96, 64


def content(seed, kind="PNG", **options):
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes contents by name, and checks them."""
    monkeypatch.chdir(tmp_path)

    def check(contents, workers=2, size=(WIDTH, HEIGHT)):
        for name, each in contents.items():
            if each is not None:
                Path(name).write_bytes(each)
        found = check_photos([PhotoFile(name, *size) for name in contents], workers=workers)
        names = list(contents)
        return [(problem.kind, names[problem.photo], problem.reason) for problem in found]

    return check


def changed(png):
    """A PNG of noise with other bytes in its middle, which Pillow reads without an error."""
    middle = len(png) // 2
    return png[:middle] + bytes(16) + png[middle + 16 :]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_kind_of_photo(folder, workers, capfd):
    turned = Image.Exif()
    turned[0x0112] = 6  # width and height change places
    jpeg = content(5, "JPEG")
    tables = jpeg.index(b"\xff\xdb")
    contents = {
        "good.png": content(0),
        "missing.png": None,
        "": None,
        "cut.png": content(1)[:2000],
        "text.jpg": b"no photo",
        "empty.jpg": b"",
        "changed.png": changed(content(2)),
        "turned.jpg": content(3, "JPEG", exif=turned),
        "surplus.jpg": jpeg[:tables] + b"\0\0\xff\xe2\0\4ab" + jpeg[tables:],
        "again.bmp": content(0, "BMP"),
    }
    found = folder(contents, workers)
    assert [(kind, name) for kind, name, _ in found] == [
        (MISSING, "missing.png"),
        (MISSING, ""),
        (UNREAD, "cut.png"),
        (UNREAD, "text.jpg"),
        (UNREAD, "empty.jpg"),
        (DAMAGED, "changed.png"),
        (RESIZED, "turned.jpg"),
        (WARNED, "surplus.jpg"),
        (DOUBLE_PHOTO, "again.bmp"),
    ]
    reasons = {name: reason for _, name, reason in found}
    assert "checksum" in reasons["changed.png"]
    assert reasons["turned.jpg"].startswith("64 x 96 pixels, 96 x 64 by the annotation, which may leave out")
    assert reasons["again.bmp"] == "the same as photo 1, good.png"
    assert "reading photos: 100%" in capfd.readouterr().err


def test_sizes_are_those_of_upright_photos(folder):
    turned = Image.Exif()
    turned[0x0112] = 8
    files = {"1.jpg": content(0, "JPEG", exif=turned), "2.jpg": content(1, "JPEG")}
    assert [name for _, name, _ in folder(files, size=(HEIGHT, WIDTH))] == ["2.jpg"]


def test_no_photos_and_many(folder):
    assert folder({}) == []
    assert folder({f"{number}.png": content(number) for number in range(50)}) == []


def kill(photos):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(module, "_read_chunk", kill)
    with pytest.raises(BrokenProcessPool):
        folder({"1.png": content(0)}, workers=1)
    assert not multiprocessing.active_children()


def test_doubles_are_of_the_first():
    found = double_photos(["a", None, "b", "a", None, "b", "a"], list("1234567"))
    assert [(each.photo, each.other_photo) for each in found] == [(3, 0), (5, 2), (6, 0)]
    assert by_kind(found, [MISSING, DOUBLE_PHOTO]) == {MISSING: [], DOUBLE_PHOTO: found}
