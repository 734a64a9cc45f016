"""Levels and sizes of boxes in resized photos."""

import math

import numpy as np

from kgdet_d2.data import AnnotationTable
from kgdet_d2.engine.check.tables import assigned_levels, resized_boxes
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import Garment, Photo


def test_levels_are_those_of_the_assignment():
    """int((log2(w / 4) + log2(h / 4)) / 2), clamped (docs/DESIGN.md), derived anew for each box."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, np.log(2000), (500, 2)))
    low = rng.uniform(0, 100, (500, 2))
    boxes = np.hstack([low, low + sizes]).astype(np.float32)
    expected = [int((math.log2(w / 4) + math.log2(h / 4)) / 2) for w, h in boxes[:, 2:] - boxes[:, :2]]
    for lowest, highest in ((2, 8), (5, 7), (5, 5)):
        levels = assigned_levels(boxes, lowest, highest)
        assert levels.tolist() == [min(max(level, lowest), highest) for level in expected]
    assert len(assigned_levels(boxes[:0], 3, 7)) == 0


def test_boxes_are_resized_as_photos_are():
    """The shorter side to 800, unless the longer one became more than 1333; x and y each by its own ratio."""
    box = np.float32([10, 20, 30, 50])
    sizes = [(400, 400), (468, 624), (1000, 3000)]
    garments = [[Garment(0, box, np.zeros((25, 3), np.float32))] * number for number in (1, 0, 2)]
    photos = [
        Photo(f"{index}.jpg", index, *size, own)
        for index, (size, own) in enumerate(zip(sizes, garments, strict=True))
    ]
    boxes = resized_boxes(AnnotationTable.from_photos(photos, DEEPFASHION2), 800, 1333)
    tall = box * np.tile([444 / 1000, 1333 / 3000], 2)
    np.testing.assert_allclose(boxes, [2 * box, tall, tall], rtol=1e-6)
