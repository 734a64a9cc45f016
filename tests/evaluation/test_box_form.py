"""The guess at the form of boxes, on boxes of known form."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from detectron2.structures import BoxMode

from kgdet_d2.evaluation.box_form import warn_of_box_form
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import columns

XYWH, XYXY = BoxMode.XYWH_ABS, BoxMode.XYXY_ABS


@pytest.fixture
def case(make_scene):
    """Ground truth, and predictions whose boxes have no negative side."""
    truth, predictions = columns(make_scene(np.random.default_rng(0), images=20))
    corners = np.sort(predictions.box.reshape(-1, 2, 2), axis=1)
    return truth, replace(predictions, box=corners.reshape(-1, 4))


@pytest.fixture
def warning(caplog):
    def warning(truth, predictions, form):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            warn_of_box_form(truth, predictions, form, "results.json")
        return caplog.text

    return warning


def as_read(predictions, written, form):
    """The predictions of a file whose boxes are written in one form and read in another."""
    values = predictions.box if written == XYXY else predictions.box_xywh
    return replace(predictions, box=BoxMode.convert(values, form, XYXY))


@pytest.mark.parametrize("form", [XYWH, XYXY])
def test_boxes_in_their_form(case, warning, form):
    assert not warning(case[0], as_read(case[1], form, form), form)


def test_boxes_in_the_other_form(case, warning):
    truth, predictions = case
    text = warning(truth, as_read(predictions, XYXY, XYWH), XYWH)
    assert "results.json: boxes are read as x y width height" in text
    assert "they look as if they were x1 y1 x2 y2" in text
    text = warning(truth, as_read(predictions, XYWH, XYXY), XYXY)
    assert "they look as if they were x y width height" in text


def by_hand(truth, boxes):
    """Predictions with boxes x1 y1 x2 y2 on the first photo, of 320 x 240 pixels."""
    return Predictions(
        schema=truth.schema,
        image_id=truth.image_id[:1],
        detection_offsets=np.array([0, len(boxes)]),
        category_id=np.zeros(len(boxes), np.int16),
        score=np.ones(len(boxes), np.float32),
        box=np.array(boxes, np.float32).reshape(-1, 4),
        keypoints=np.zeros((0, 2), np.float32),
        wide_detection=np.zeros(0, np.int64),
        wide_keypoints=np.zeros((0, truth.schema.num_keypoints, 2), np.float32),
        has_keypoints=False,
    )


FITS_BOTH = [10, 10, 200, 150]  # as x y width height: up to 210, 160
FITS_AS_XYWH = [150, 100, 100, 90]
STANDS_OUT_A_LITTLE = [-30, 0, 350, 260]  # by less than a tenth of 320 x 240
FITS_NEITHER = [300, 10, 400, 50]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], False),
        ([FITS_BOTH] * 9, False),
        ([STANDS_OUT_A_LITTLE] * 9, False),
        ([FITS_NEITHER] * 9, False),
        ([FITS_BOTH] * 90 + [FITS_AS_XYWH] * 10, False),
        ([FITS_BOTH] * 89 + [FITS_AS_XYWH] * 11, True),
        ([FITS_AS_XYWH] * 99 + [FITS_NEITHER], True),
        ([FITS_AS_XYWH] * 98 + [FITS_NEITHER] * 2, False),
    ],
)
def test_the_rule(case, warning, boxes, expected):
    assert bool(warning(case[0], by_hand(case[0], boxes), XYXY)) is expected
