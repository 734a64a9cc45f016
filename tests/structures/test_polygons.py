"""Polygons of COCO's segmentations, against pycocotools' own rasters."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_util

from kgdet_d2.structures.polygons import decode_mask, polygons_of_segmentation

HEIGHT, WIDTH = 60, 80


@pytest.fixture
def mask():
    """Two parts, one with a hole."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (25, 30), (18, 22), 20, 0, 360, 1, -1)
    mask[25:32, 20:28] = 0
    mask[5:20, 60:75] = 1
    return np.asfortranarray(mask)


def uncompressed(mask):
    """COCO's runs of an uncompressed mask, by hand: column by column, zeros first."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def compressed(mask, kind=bytes):
    encoded = mask_util.encode(mask)
    return encoded if kind is bytes else {**encoded, "counts": encoded["counts"].decode()}


@pytest.mark.parametrize(
    "encode", [uncompressed, compressed, lambda mask: compressed(mask, str)], ids=["runs", "bytes", "str"]
)
def test_a_mask_becomes_the_outlines_of_its_parts(mask, encode):
    polygons = polygons_of_segmentation(encode(mask), WIDTH, HEIGHT)
    assert len(polygons) == 2 and {polygon.dtype for polygon in polygons} == {np.dtype(np.float32)}
    drawn = mask_util.merge(
        mask_util.frPyObjects([polygon.ravel().tolist() for polygon in polygons], HEIGHT, WIDTH)
    )
    filled = mask.copy()
    filled[25:32, 20:28] = 1
    raster = mask_util.decode(drawn)
    assert (raster & filled).sum() / (raster | filled).sum() > 0.93  # half a pixel all around is lost
    assert not (raster & ~filled & 1).any()


def test_compressed_runs_are_pycocotools_own():
    rng = np.random.default_rng(0)
    for share in (0, 0.001, 0.5, 0.999, 1):
        mask = np.asfortranarray((rng.random((HEIGHT, WIDTH)) < share).astype(np.uint8))
        assert np.array_equal(decode_mask(compressed(mask), WIDTH, HEIGHT), mask)
        cut = compressed(mask)["counts"][:-1]
        with pytest.raises(ValueError, match="expected runs of 4800 pixels in all"):
            decode_mask({"size": [HEIGHT, WIDTH], "counts": cut}, WIDTH, HEIGHT)


def test_what_is_too_small_for_an_outline():
    for rows, columns in ((slice(3, 4), slice(3, 4)), (slice(3, 4), slice(3, 30)), (slice(0), slice(0))):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[rows, columns] = 1
        assert polygons_of_segmentation(compressed(mask), WIDTH, HEIGHT) == []


def test_lists_of_polygons():
    first, second = polygons_of_segmentation([[0, 1, 2.5, 3, 4, 5], np.arange(6).reshape(3, 2)], 9, 9)
    assert first.tolist() == [[0, 1], [2.5, 3], [4, 5]] and second.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert polygons_of_segmentation(None, 9, 9) == polygons_of_segmentation([], 9, 9) == []


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("0 1 2", "expected a list of polygons or a run-length mask, got str"),
        ([[0, 1, 2]], "expected x and y of each vertex, got 3 numbers"),
        ([[0, 1, "a"]], "could not convert"),
        ({"counts": [4]}, r"expected the size of the photo, \[60, 80\], got \[\]"),
        ({"size": [80, 60], "counts": [4800]}, r"expected the size of the photo, \[60, 80\], got \[80, 60\]"),
        ({"size": [60, 80], "counts": [4799]}, "expected runs of 4800 pixels in all"),
        ({"size": [60, 80], "counts": [-1, 4801]}, "expected runs of 4800 pixels in all"),
        ({"size": [60, 80], "counts": ["4800"]}, "expected runs of 4800 pixels in all"),
        ({"size": [60, 80]}, "expected runs of 4800 pixels in all"),
        ({"size": [60, 80], "counts": "04"}, "expected runs of 4800 pixels in all"),
        ({"size": [60, 80], "counts": b""}, "expected runs of 4800 pixels in all"),
    ],
)
def test_what_is_no_segmentation(segmentation, message):
    with pytest.raises(ValueError, match=message):
        polygons_of_segmentation(segmentation, WIDTH, HEIGHT)
