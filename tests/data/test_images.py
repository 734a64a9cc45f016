"""Images read upright, in every kind and format, and damaged files refused."""

import io
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kgdet_d2.data.images import read_image, read_strictly, to_array

# How the stored quarters 0 1 / 2 3 are to be seen, by EXIF orientation. The standard says where the stored
# first row and first column belong: 6, for instance, is "row 0 at the right, column 0 at the top".
UPRIGHT = {
    1: [[0, 1], [2, 3]],
    2: [[1, 0], [3, 2]],
    3: [[3, 2], [1, 0]],
    4: [[2, 3], [0, 1]],
    5: [[0, 2], [1, 3]],
    6: [[2, 0], [3, 1]],
    7: [[3, 1], [2, 0]],
    8: [[1, 3], [0, 2]],
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_stand_upright(tmp_path, orientation):
    path = str(tmp_path / "photo.jpg")
    quarters = np.array([[0, 80], [160, 240]], dtype=np.uint8)
    stored = Image.fromarray(quarters.repeat(24, axis=0).repeat(32, axis=1))  # 64 x 48
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.convert("RGB").save(path, exif=exif, quality=95)
    image = read_image(path, "RGB")
    assert image.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))
    rows, columns = np.array(image.shape[:2]) // 4
    corners = image[rows :: 2 * rows, columns :: 2 * columns, 0]
    np.testing.assert_allclose(corners, 80 * np.array(UPRIGHT[orientation]), atol=2)


COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [40, 90, 200]]], dtype=np.uint8)


def test_formats(path):
    Image.fromarray(COLOURS).save(path)
    np.testing.assert_array_equal(read_image(path, "RGB"), COLOURS)
    np.testing.assert_array_equal(read_image(path, "BGR"), COLOURS[..., ::-1])
    assert read_image(path, "L").shape == (2, 2, 1)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_kinds_of_photos(path, mode):
    """Grey becomes three equal channels, a palette its colours; transparency is left out."""
    if mode == "P":
        stored, expected = Image.fromarray(COLOURS).quantize(4), COLOURS
    elif mode == "RGBA":
        alpha = np.array([[[0], [255]], [[128], [1]]], dtype=np.uint8)
        stored, expected = Image.fromarray(np.concatenate([COLOURS, alpha], axis=2)), COLOURS
    else:
        values = np.array([[0, 255], [255, 0]] if mode == "1" else [[3, 60], [200, 255]], dtype=np.uint8)
        stored, expected = Image.fromarray(values).convert(mode), values[..., None].repeat(3, axis=2)
    stored.save(path)
    np.testing.assert_allclose(read_image(path, "RGB"), expected, atol=1)


def test_cmyk_jpeg(tmp_path):
    colours = COLOURS.repeat(16, axis=0).repeat(16, axis=1)
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "photo.jpg", quality=100, subsampling=0)
    image = read_image(str(tmp_path / "photo.jpg"), "RGB")
    np.testing.assert_allclose(image[8::16, 8::16], COLOURS, atol=4)


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey(tmp_path, ending, image_format):
    path = tmp_path / f"photo.{ending}"
    values = np.array([[0, 255, 256, 32768], [51400, 65279, 65280, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(path)
    expected = np.array([[0, 0, 1, 128], [200, 254, 255, 255]])
    image = read_image(str(path), image_format)
    assert image.dtype == np.uint8
    for channel in range(image.shape[2]):
        np.testing.assert_array_equal(image[..., channel], expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_range_are_refused(tmp_path, dtype):
    path = str(tmp_path / "photo.tif")
    Image.fromarray(np.full((4, 4), 70000, dtype=dtype)).save(path)
    with pytest.raises(
        RuntimeError, match=r"photo\.tif: cannot read the image: expected 8 or 16 bits .*mode '"
    ):
        read_image(path, "RGB")


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_damaged_photos_are_named(tmp_path, ending):
    path = tmp_path / f"photo.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (b"", b"no photo", content[:middle], content[:20]):
        path.write_bytes(damaged)
        with pytest.raises(RuntimeError, match=rf"photo\.{ending}: cannot read the image"):
            read_image(str(path), "RGB")
    path.unlink()
    with pytest.raises(RuntimeError, match=rf"photo\.{ending}: cannot read the image: .*No such file"):
        read_image(str(path), "RGB")


@pytest.mark.parametrize(
    ("side", "reason"), [(20_000, "at most 268,435,456 pixels"), (100_000, "exceeds limit")]
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_photo_of_too_many_pixels_is_named(path, side, reason):
    """By its header, before anything is decoded."""
    Image.new("1", (8, 8)).save(path)
    content = bytearray(Path(path).read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    Path(path).write_bytes(content)
    for read in (lambda file: read_image(file, "RGB"), read_strictly):
        with pytest.raises(RuntimeError, match=rf"photo\.png: cannot read the image: .*{reason}"):
            read(path)


@pytest.mark.slow
def test_a_phone_s_photo_of_200_million_pixels(tmp_path):
    Image.new("RGB", (16_320, 12_240), (10, 200, 30)).save(tmp_path / "photo.jpg")
    image = read_image(str(tmp_path / "photo.jpg"), "RGB")
    assert image.shape == (12_240, 16_320, 3)
    np.testing.assert_allclose(image[::4000, ::4000], np.broadcast_to([10, 200, 30], (4, 5, 3)), atol=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_on_white(path, mode):
    """As a browser shows it, the colours under it being of no account; images without it stay."""
    alpha = np.array([[0, 255], [51, 255]], np.uint8)
    below = np.array([[0, 1], [2, 1]] if mode == "P" else np.full((2, 2), 9), np.uint8)
    if mode == "P":
        Image.fromarray(below).convert("P").save(path, transparency=bytes([0, 255, 51]))
    else:
        Image.merge("LA", [Image.fromarray(below), Image.fromarray(alpha)]).convert(mode).save(path)
    expected = 255 + (below - 255.0) * alpha / 255
    found = read_image(path, "RGB", alpha_on_white=True)
    np.testing.assert_allclose(found, expected[..., None].repeat(3, axis=2), atol=1)
    np.testing.assert_array_equal(to_array(Image.open(path), "BGR", alpha_on_white=True), found)
    Image.fromarray(COLOURS).save(path)
    np.testing.assert_array_equal(read_image(path, "RGB", alpha_on_white=True), COLOURS)


@pytest.fixture
def damaged(tmp_path):
    """Strict and plain reading of a file's content: each None, or the error's text."""

    def read(content):
        path = tmp_path / "photo"
        path.write_bytes(content)
        errors = []
        for function in (read_strictly, lambda name: read_image(name, "RGB")):
            try:
                function(str(path))
                errors.append(None)
            except RuntimeError as error:
                assert str(error).startswith(f"{path}: cannot read the image: ")
                errors.append(str(error))
        return errors

    return read


def encoded(seed, **options):
    """A smooth picture with some noise, as a file's content."""
    rng = np.random.default_rng(seed)
    colours = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((32, 32, 1))) + rng.normal(0, 8, (192, 256, 3))
    content = io.BytesIO()
    Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(content, **options)
    return content.getvalue()


def damages(content, seed):
    """Changes in the middle half of the file, all of which leave its end as it was."""
    rng = np.random.default_rng(seed)
    place = int(rng.integers(len(content) // 4, 3 * len(content) // 4))
    before, after = content[:place], content[place:]
    yield "one bit", before + bytes([after[0] ^ 1 << int(rng.integers(8))]) + after[1:]
    yield "16 bytes", before + rng.bytes(16) + after[16:]
    yield "512 bytes", before + rng.bytes(512) + after[512:]
    yield "cut out", before + after[512:]


def test_any_damage_inside_a_png_is_found(damaged):
    unseen = 0
    for seed in range(10):
        content = encoded(seed, format="PNG")
        assert damaged(content) == [None, None]
        for kind, changed in damages(content, seed):
            strict, plain = damaged(changed)
            assert strict, kind
            unseen += plain is None
    assert unseen > 0  # which is what strict reading is for


@pytest.mark.parametrize(
    ("options", "cut_out"), [({}, 20), ({"progressive": True}, 13), ({"restart_marker_rows": 1}, 20)], ids=str
)
def test_most_damage_inside_a_jpeg_is_found(damaged, options, cut_out):
    """The shares that the function's docstring states, or more."""
    found, unseen = Counter(), Counter()
    for seed in range(20):
        content = encoded(seed, format="JPEG", quality=90, **options)
        assert damaged(content) == [None, None]
        for kind, changed in damages(content, seed):
            strict, plain = damaged(changed)
            assert strict or not plain
            found[kind] += strict is not None
            unseen[kind] += plain is None
    assert found["cut out"] >= cut_out and found["512 bytes"] >= 19 and found["16 bytes"] >= 8
    assert unseen["cut out"] >= 18  # by plain reading


def test_a_jpeg_whose_end_alone_is_there_again(damaged):
    content = encoded(0, format="JPEG")
    strict, plain = damaged(content[: len(content) // 2] + b"\xff\xd9")
    assert "premature end of data" in strict and plain is None


def test_strict_reading_gives_the_same_image(path):
    for mode in ("L", "RGB", "RGBA", "CMYK"):
        for ending in (
            ("jpg", "tif") if mode == "CMYK" else ("png", "webp") if mode == "RGBA" else ("jpg", "gif")
        ):
            name = f"{path}.{ending}"
            Image.open(io.BytesIO(encoded(1, format="PNG"))).convert(mode).save(name)
            strict = read_strictly(name)
            np.testing.assert_array_equal(strict.image, read_image(name, "RGB"))
            assert strict.warning == ""


def test_bytes_around_the_picture_are_a_warning(path, capfd):
    content = encoded(0, format="JPEG")
    tables = content.index(b"\xff\xdb")
    Path(path).write_bytes(content[:tables] + b"\0\0\0\xff\xe2\0\4ab" + content[tables:])
    strict = read_strictly(path)
    assert strict.warning == "Corrupt JPEG data: 3 extraneous bytes before marker 0xe2"
    np.testing.assert_array_equal(strict.image, read_image(path, "RGB"))
    assert capfd.readouterr().err == ""  # and standard error is given back:
    os.write(2, b"here")
    assert capfd.readouterr().err == "here"
