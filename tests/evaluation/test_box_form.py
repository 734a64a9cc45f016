"""The guess at the form of COCO results' boxes, on boxes of known form."""

import re

import numpy as np
import pytest

from kgdet_d2.evaluation.box_form import check_box_form
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import columns
from tests.helpers.scenes import HEIGHT, WIDTH


@pytest.fixture
def case(make_scene):
    return columns(make_scene(np.random.default_rng(0), images=20))


def complaint(truth, boxes):
    """The error's message, "" where there is none, on boxes in a file of the first photo."""
    x, y, width, height = np.array(boxes, np.float32).reshape(-1, 4).T
    predictions = Predictions(
        schema=truth.schema,
        image_id=truth.image_id[:1],
        detection_offsets=np.array([0, len(boxes)]),
        category_id=np.zeros(len(boxes), np.int16),
        score=np.ones(len(boxes), np.float32),
        box=np.column_stack([x, y, x + width, y + height]),
        keypoints=np.zeros((0, 2), np.float32),
        wide_detection=np.zeros(0, np.int64),
        wide_keypoints=np.zeros((0, truth.schema.num_keypoints, 2), np.float32),
        has_keypoints=False,
    )
    try:
        check_box_form(truth, predictions, "entry {}".format)
    except ValueError as error:
        return str(error)
    return ""


def test_boxes_in_their_form(case):
    truth, predictions = case
    assert not complaint(truth, predictions.box_xywh)


def test_boxes_in_the_other_form(case):
    truth, predictions = case
    corners = predictions.box.clip(0, (WIDTH, HEIGHT) * 2).tolist()
    found = complaint(truth, corners)
    first = int(re.match(r"entry (\d+): bbox: expected x y width height in a photo of 320 x 240", found)[1])
    far = [x1 + x2 > 1.1 * WIDTH or y1 + y2 > 1.1 * HEIGHT for x1, y1, x2, y2 in corners]
    assert first == far.index(True) and f"{sum(far)} of {len(far)} boxes" in found
    assert found.endswith("as x1 y1 x2 y2 0 do not")


FITS_BOTH = [10, 10, 200, 150]
FITS_AS_XYXY = [150, 100, 300, 200]  # as x y width height: up to 450, 300
STANDS_OUT_A_LITTLE = [-30, 0, 380, 260]  # by less than a tenth of 320 x 240
FITS_NEITHER = [300, 10, 400, 50]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], False),
        ([FITS_BOTH] * 9, False),
        ([STANDS_OUT_A_LITTLE] * 9, False),
        ([FITS_NEITHER] * 9, False),
        ([FITS_BOTH] * 90 + [FITS_AS_XYXY] * 10, False),
        ([FITS_BOTH] * 89 + [FITS_AS_XYXY] * 11, True),
        ([FITS_AS_XYXY] * 99 + [FITS_NEITHER], True),
        ([FITS_AS_XYXY] * 98 + [FITS_NEITHER] * 2, False),
    ],
)
def test_the_rule(case, boxes, expected):
    assert bool(complaint(case[0], boxes)) is expected
