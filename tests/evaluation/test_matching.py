"""BoxMatcher against plain loops."""

import numpy as np
import pytest

from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import by_hand, columns
from tests.helpers.plain_matching import plain_match, plain_pairs


@pytest.fixture(params=range(6))
def case(request, make_scene):
    rng = np.random.default_rng(request.param)
    schema = FLD if request.param % 2 else DEEPFASHION2
    options = {"classes": [0, 1], "crowds": 0.2, "score_levels": 4 if request.param > 2 else 0}
    return columns(make_scene(rng, schema, images=12, **options))


def test_pairs(case):
    truth, predictions = case
    matcher = BoxMatcher(truth, predictions, minimum=0.1)
    rows = zip(matcher.detection, matcher.garment, matcher.iou, strict=True)
    found = {(detection, garment): iou for detection, garment, iou in rows}
    assert len(found) == len(matcher.iou) > 20
    assert (np.diff(matcher.detection) >= 0).all()
    for detection, garments in plain_pairs(truth, predictions).items():
        for garment, iou in garments.items():
            if (detection, garment) in found:
                assert found[detection, garment] == pytest.approx(iou, abs=1e-5)
            else:
                assert iou < 0.1 + 1e-5
    same = truth.category_id[matcher.garment] == predictions.category_id[matcher.detection]
    assert np.array_equal(matcher.same_class, same)


@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("score_threshold", [-np.inf, 0.5])
def test_match(case, same_class, score_threshold):
    options = {"iou": 0.4, "same_class": same_class, "score_threshold": score_threshold}
    matched = BoxMatcher(*case).match(**options).tolist()
    assert matched == plain_match(*case, **options)
    assert max(matched) >= 0 > min(matched)


def test_of_equal_ious_the_last_garment_is_taken_and_of_equal_scores_the_first_detection_chooses(
    make_instances,
):
    box = (10, 10, 60, 60)
    case = by_hand(make_instances, ([("skirt", box)] * 2, [("skirt", box, 0.5)] * 3))
    assert BoxMatcher(*case).match().tolist() == [1, 0, -1]


def test_best(case):
    truth, predictions = case
    matcher = BoxMatcher(truth, predictions)
    among = matcher.same_class & ~truth.iscrowd[matcher.garment]
    garments, ious = matcher.best(among)
    for detection, garment, iou in zip(range(predictions.num_detections), garments, ious, strict=True):
        pairs = np.flatnonzero(among & (matcher.detection == detection))
        if len(pairs):
            first = pairs[matcher.iou[pairs].argmax()]
            assert (garment, iou) == (matcher.garment[first], matcher.iou[first])
        else:
            assert (garment, iou) == (-1, 0)


def test_nothing_to_overlap(make_instances):
    skirt = ("skirt", (10, 10, 60, 60))
    for photo in ([], []), ([skirt], []), ([], [(*skirt, 0.5)]):
        matcher = BoxMatcher(*by_hand(make_instances, photo))
        assert len(matcher.iou) == 0
        count = len(photo[1])
        assert matcher.match().tolist() == [-1] * count
        garments, ious = matcher.best(matcher.same_class)
        assert garments.tolist() == [-1] * count and ious.tolist() == [0] * count
    truth = AnnotationTable.from_dataset_dicts([], DEEPFASHION2)
    assert len(BoxMatcher(truth, Predictions.empty(DEEPFASHION2)).match()) == 0


def test_a_photo_that_is_not_in_the_ground_truth(make_instances):
    _, predictions = by_hand(make_instances, ([], []))
    with pytest.raises(ValueError, match="image 1: no such image_id"):
        BoxMatcher(AnnotationTable.from_dataset_dicts([], DEEPFASHION2), predictions)
