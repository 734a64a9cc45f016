import numpy as np
import pytest

from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import by_hand, columns


def plain_iou(garment, detection, iscrowd):
    width = min(garment[2], detection[2]) - max(garment[0], detection[0])
    height = min(garment[3], detection[3]) - max(garment[1], detection[1])
    common = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (garment, detection)]
    return common / (areas[1] if iscrowd else sum(areas) - common)


def plain_pairs(truth, predictions):
    """{detection: {garment: IoU}} over all garments of its photo."""
    pairs = {}
    for row in range(predictions.num_detections):
        image_id = predictions.image_id[predictions.detection_image[row]]
        garments = [
            g for g in range(truth.num_garments) if truth.image_id[truth.garment_image[g]] == image_id
        ]
        box = predictions.box[row].astype(float)
        pairs[row] = {g: plain_iou(truth.box[g], box, truth.iscrowd[g]) for g in garments}
    return pairs


def plain_match(truth, predictions, iou, same_class, score_threshold):
    """As in COCOeval.evaluateImg."""
    matched, taken = [-1] * predictions.num_detections, set()
    pairs = plain_pairs(truth, predictions)
    for row in sorted(pairs, key=lambda row: -predictions.score[row]):
        if predictions.score[row] < score_threshold:
            continue
        best, chosen = iou, -1
        for garment in sorted(pairs[row], key=lambda garment: truth.iscrowd[garment]):
            other_class = truth.category_id[garment] != predictions.category_id[row]
            if garment in taken or (same_class and other_class) or pairs[row][garment] < best:
                continue
            if chosen >= 0 and truth.iscrowd[garment] and not truth.iscrowd[chosen]:
                break
            best, chosen = pairs[row][garment], garment
        matched[row] = chosen
        if chosen >= 0 and not truth.iscrowd[chosen]:
            taken.add(chosen)
    return matched


@pytest.fixture(params=range(6))
def case(request, make_scene):
    rng = np.random.default_rng(request.param)
    schema = FLD if request.param % 2 else DEEPFASHION2
    options = {"classes": [0, 1], "crowds": 0.2, "score_levels": 4 if request.param > 2 else 0}
    return columns(make_scene(rng, schema, images=12, **options))


def test_pairs(case):
    truth, predictions = case
    overlaps = BoxMatcher(truth, predictions, minimum=0.1)
    rows = zip(overlaps.detection, overlaps.garment, overlaps.iou, strict=True)
    found = {(detection, garment): iou for detection, garment, iou in rows}
    assert len(found) == len(overlaps.iou) > 20
    assert (np.diff(overlaps.detection) >= 0).all()
    for detection, garments in plain_pairs(truth, predictions).items():
        for garment, iou in garments.items():
            if (detection, garment) in found:
                assert found[detection, garment] == pytest.approx(iou, abs=1e-5)
            else:
                assert iou < 0.1 + 1e-5
    same = truth.category_id[overlaps.garment] == predictions.category_id[overlaps.detection]
    assert np.array_equal(overlaps.same_class, same)


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
    overlaps = BoxMatcher(truth, predictions)
    among = overlaps.same_class & ~truth.iscrowd[overlaps.garment]
    garments, ious = overlaps.best(among)
    for detection, garment, iou in zip(range(predictions.num_detections), garments, ious, strict=True):
        pairs = np.flatnonzero(among & (overlaps.detection == detection))
        if len(pairs):
            first = pairs[overlaps.iou[pairs].argmax()]
            assert (garment, iou) == (overlaps.garment[first], overlaps.iou[first])
        else:
            assert (garment, iou) == (-1, 0)


def test_nothing_to_overlap(make_instances):
    skirt = ("skirt", (10, 10, 60, 60))
    for photo in ([], []), ([skirt], []), ([], [(*skirt, 0.5)]):
        overlaps = BoxMatcher(*by_hand(make_instances, photo))
        assert len(overlaps.iou) == 0
        count = len(photo[1])
        assert overlaps.match().tolist() == [-1] * count
        garments, ious = overlaps.best(overlaps.same_class)
        assert garments.tolist() == [-1] * count and ious.tolist() == [0] * count
    truth = GroundTruth.from_dataset_dicts([], DEEPFASHION2)
    assert len(BoxMatcher(truth, Predictions.empty(DEEPFASHION2)).match()) == 0


def test_a_photo_that_is_not_in_the_ground_truth(make_instances):
    _, predictions = by_hand(make_instances, ([], []))
    with pytest.raises(ValueError, match="image 1: no such image_id"):
        BoxMatcher(GroundTruth.from_dataset_dicts([], DEEPFASHION2), predictions)
