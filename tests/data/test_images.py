"""Images read upright, in every kind and format, and damaged files refused."""

import numpy as np
import pytest
from PIL import Image

from kgdet_d2.data.images import read_image

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


def test_a_photo_larger_than_pillow_allows_is_named(path, monkeypatch):
    Image.new("L", (40, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(RuntimeError, match=r"photo\.png: cannot read the image: .*exceeds limit"):
        read_image(path, "RGB")
