"""Drawn garments, against plain loops."""

import math

import numpy as np
import pytest

from kgdet_d2.engine.report.drawn_garments import draw_garments
from kgdet_d2.engine.report.page import heat
from kgdet_d2.evaluation.keypoint_error import keypoint_errors
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import by_hand, columns

BOX = (100, 100, 200, 150)


def drawings(truth, predictions):
    return draw_garments(truth, keypoint_errors(BoxMatcher(truth, predictions), visible_only=True))


def test_places_and_errors_are_medians(scene):
    truth, predictions = columns(scene)
    matched = BoxMatcher(truth, predictions).match(iou=0.5).tolist()
    for garment in drawings(truth, predictions):
        index = scene.schema.class_names.index(garment.name)
        rows = np.flatnonzero(truth.category_id == index)
        assert garment.garments == len(rows)
        sizes = np.median([truth.box[row, 2:] - truth.box[row, :2] for row in rows], axis=0)
        assert [garment.width, garment.height] == pytest.approx(sizes / sizes.max())
        for landmark in garment.landmarks:
            local = scene.schema.keypoint_names[index].index(landmark.name)
            places, errors = [], []
            for row in rows:
                x, y, v = truth.keypoints[truth.keypoint_offsets[row] + local]
                size = truth.box[row, 2:] - truth.box[row, :2]
                if v > 0:
                    places.append((np.array([x, y]) - truth.box[row, :2]) / size)
                if v == 2 and row in matched:
                    first = predictions.keypoint_offsets[matched.index(row)]
                    distance = predictions.keypoints[first + local] - [x, y]
                    errors.append(np.hypot(*distance) / size.max())
            expected = np.median(places, axis=0) * [garment.width, garment.height]
            assert [landmark.x, landmark.y] == pytest.approx(expected, abs=1e-5)
            assert landmark.compared == len(errors)
            if errors:
                assert landmark.error == pytest.approx(np.median(errors), abs=1e-5)


def test_classes_without_garments_are_not_drawn(make_instances):
    truth, predictions = by_hand(make_instances, ([("skirt", BOX)], [("skirt", BOX, 0.9)]))
    (skirt,) = drawings(truth, predictions)
    assert (skirt.name, skirt.garments, skirt.width, skirt.height) == ("skirt", 1, 1, 0.5)
    assert len(skirt.edges) == len(DEEPFASHION2.skeleton[DEEPFASHION2.class_names.index("skirt")])
    assert skirt.worst.error == 0


def test_nothing_compared(make_instances):
    truth, _ = by_hand(make_instances, ([("skirt", BOX)], []))
    (skirt,) = drawings(truth, Predictions.empty(DEEPFASHION2))
    assert skirt.worst is None and all(math.isnan(landmark.error) for landmark in skirt.landmarks)
    assert drawings(*by_hand(make_instances, ([], []))) == []


def test_colours_grow_darker():
    def brightness(colour):
        return sum(int(colour[start : start + 2], 16) for start in (1, 3, 5))

    colours = [heat(error) for error in (0, 0.03, 0.06, 0.1)]
    assert [brightness(colour) for colour in colours] == sorted(map(brightness, colours), reverse=True)
    assert heat(0.5) == heat(0.1) != heat(0.06) and heat(math.nan) == "#999999"
