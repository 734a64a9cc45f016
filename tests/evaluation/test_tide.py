"""TIDE's errors and the confusion matrix, by hand and against plain loops."""

import math

import numpy as np
import pytest

from kgdet_d2.evaluation.average_precision import box_average_precision
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.tide import ERRORS, ErrorType, confusion_matrix, find_errors
from kgdet_d2.schema import DEEPFASHION2, FLD
from tests.helpers.columns import CLASSES, by_hand, columns
from tests.helpers.plain_matching import plain_match, plain_pairs

BOX = (100, 100, 200, 200)
INSIDE = (100, 100, 200, 130)  # IoU 0.3 with BOX
NEAR = (100, 100, 200, 190)  # IoU 0.9
AWAY = (0, 0, 50, 50)
SKIRT, SHORTS = CLASSES["skirt"], CLASSES["shorts"]


def find(case):
    return find_errors(BoxMatcher(*case))


@pytest.mark.parametrize(
    ("detections", "kinds", "missed"),
    [
        ([("skirt", BOX)], [ErrorType.CORRECT], False),
        ([("shorts", NEAR)], [ErrorType.CLS], False),
        ([("skirt", INSIDE)], [ErrorType.LOC], False),
        ([("shorts", INSIDE)], [ErrorType.BOTH], True),
        ([("skirt", BOX), ("skirt", NEAR)], [ErrorType.CORRECT, ErrorType.DUPE], False),
        ([("skirt", AWAY)], [ErrorType.BKG], True),
        (
            [("skirt", NEAR), ("shorts", NEAR), ("skirt", INSIDE)],
            [ErrorType.CORRECT, ErrorType.CLS, ErrorType.LOC],
            False,
        ),
        ([], [], True),
    ],
)
def test_each_kind(make_instances, detections, kinds, missed):
    scored = [(*detection, 0.9 - 0.1 * place) for place, detection in enumerate(detections)]
    errors = find(by_hand(make_instances, ([("skirt", BOX)], scored)))
    assert errors.error_type.tolist() == kinds
    assert errors.garment.tolist() == [-1 if kind in (ErrorType.BOTH, ErrorType.BKG) else 0 for kind in kinds]
    assert errors.missed().tolist() == [missed]
    for kind, counts in errors.counts().items():
        assert counts.sum() == (missed if kind == ErrorType.MISS else kinds.count(kind))
    assert errors.missed(score_threshold=0.95).tolist() == [True]


def test_the_limits_belong_to_the_better_kind(make_instances):
    half, tenth = (100, 100, 200, 150), (100, 100, 200, 110)
    detections = [("shorts", half, 0.9), ("skirt", tenth, 0.8), ("shorts", tenth, 0.7)]
    errors = find(by_hand(make_instances, ([("skirt", BOX)], detections)))
    assert errors.error_type.tolist() == [ErrorType.CLS, ErrorType.LOC, ErrorType.BOTH]


def test_photos_without_garments_and_crowds(make_instances):
    crowd = ("skirt", BOX, {"iscrowd": 1})
    detections = [("skirt", BOX, 0.9), ("skirt", INSIDE, 0.8), ("shorts", BOX, 0.7)]
    errors = find(by_hand(make_instances, ([crowd], detections), ([], detections[:1])))
    assert errors.error_type.tolist() == [ErrorType.IGNORED, ErrorType.IGNORED, ErrorType.BKG, ErrorType.BKG]
    assert errors.missed().tolist() == [False]
    assert np.isnan(errors.average_precision()).all()
    assert all(np.isnan(gain).all() for gain in errors.delta_average_precision().values())


def test_what_mending_is_worth(make_instances):
    """Two skirts in two photos. AP50 by hand: precision at the recalls 0, 0.01, ..., 1."""
    photos = [([("skirt", BOX)], detections) for detections in ([("skirt", BOX, 0.9)], [])]

    def gains(*detections):
        photos[1][1][:] = detections
        errors = find(by_hand(make_instances, *photos))
        assert errors.average_precision()[SKIRT] == pytest.approx(51 / 101)  # up to a recall of 0.5
        gained = {kind: gain[SKIRT] for kind, gain in errors.delta_average_precision().items()}
        return {kind: gain for kind, gain in gained.items() if abs(gain) > 1e-12}

    rest = pytest.approx(50 / 101)
    assert gains() == {ErrorType.MISS: rest}
    assert gains(("shorts", NEAR, 0.5)) == {ErrorType.CLS: rest}
    assert gains(("skirt", INSIDE, 0.5)) == {ErrorType.LOC: rest}
    assert gains(("skirt", INSIDE, 0.5), ("shorts", NEAR, 0.3)) == {
        ErrorType.LOC: rest,
        ErrorType.CLS: pytest.approx(50 / 101 * 2 / 3),  # the detection of wrong place still comes before
    }


def test_false_detections_that_come_first(make_instances):
    def gains(*detections):
        case = by_hand(make_instances, ([("skirt", BOX)], [("skirt", BOX, 0.5), *detections]))
        errors = find(case)
        assert errors.average_precision()[SKIRT] == pytest.approx(0.5)
        return {kind: gain[SKIRT] for kind, gain in errors.delta_average_precision().items() if gain[SKIRT]}

    assert gains(("skirt", AWAY, 0.9)) == {ErrorType.BKG: pytest.approx(0.5)}
    assert gains(("skirt", INSIDE, 0.9)) == {ErrorType.LOC: pytest.approx(0.5)}
    other = ("shorts", (220, 100, 300, 200))
    case = by_hand(make_instances, ([("skirt", BOX), other], [("skirt", BOX, 0.5), ("skirt", other[1], 0.9)]))
    gains = find(case).delta_average_precision()
    assert gains[ErrorType.CLS][[SKIRT, SHORTS]].tolist() == pytest.approx([0.5, 1])


def test_a_class_that_was_missed_altogether_gains_nothing(make_instances):
    errors = find(by_hand(make_instances, ([("skirt", BOX)], [])))
    assert errors.average_precision()[SKIRT] == 0
    assert errors.delta_average_precision()[ErrorType.MISS][SKIRT] == 0


# The same in plain loops, from the paper's definitions.


def plain_average_precision(detections, positives):
    """COCO's AP at one threshold, of (score, correct)."""
    ordered = sorted(detections, key=lambda detection: -detection[0])
    curve, hits = [], 0
    for place, (_, correct) in enumerate(ordered, 1):
        hits += correct
        curve.append((hits / positives, hits / place))
    levels = [max([p for r, p in curve if r >= level], default=0) for level in np.linspace(0, 1, 101)]
    return sum(levels) / 101


def plain_kinds(truth, predictions):
    matched, pairs = plain_match(truth, predictions, 0.5, True, -1), plain_pairs(truth, predictions)
    kinds = []
    for row, garments in pairs.items():
        ious = {True: {-1: 0}, False: {-1: 0}}
        for garment, iou in garments.items():
            if not truth.iscrowd[garment]:
                same = bool(truth.category_id[garment] == predictions.category_id[row])
                ious[same][garment] = iou
        same, other = (max(ious[which], key=ious[which].get) for which in (True, False))
        if matched[row] >= 0:
            crowd = truth.iscrowd[matched[row]]
            kinds.append((ErrorType.IGNORED, -1) if crowd else (ErrorType.CORRECT, matched[row]))
        elif 0.1 <= ious[True][same] < 0.5:
            kinds.append((ErrorType.LOC, same))
        elif ious[False][other] >= 0.5:
            kinds.append((ErrorType.CLS, other))
        elif ious[True][same] >= 0.5:
            kinds.append((ErrorType.DUPE, same))
        elif max(ious[True][same], ious[False][other]) < 0.1:
            kinds.append((ErrorType.BKG, -1))
        else:
            kinds.append((ErrorType.BOTH, -1))
    return kinds


def plain_deltas(truth, predictions, kinds):
    found = {garment for kind, garment in kinds if kind == ErrorType.CORRECT}
    near = {garment for kind, garment in kinds if kind in (ErrorType.CORRECT, ErrorType.CLS, ErrorType.LOC)}
    garments = [garment for garment in range(truth.num_garments) if not truth.iscrowd[garment]]
    by_score = sorted(range(len(kinds)), key=lambda row: -predictions.score[row])

    def precisions(mended):
        detections, fixed, positives = [], set(found), [0] * truth.schema.num_classes
        for row in by_score:
            kind, garment = kinds[row]
            category, score = predictions.category_id[row], predictions.score[row]
            if kind == mended and kind in (ErrorType.CLS, ErrorType.LOC) and garment not in fixed:
                detections.append((truth.category_id[garment], score, True))
                fixed.add(garment)
            elif kind not in (mended, ErrorType.IGNORED):
                detections.append((category, score, kind == ErrorType.CORRECT))
        for garment in garments:
            positives[truth.category_id[garment]] += mended != ErrorType.MISS or garment in near
        return [
            plain_average_precision([d[1:] for d in detections if d[0] == index], count) if count else 0
            for index, count in enumerate(positives)
        ]

    before = precisions(None)
    exists = np.bincount(truth.category_id[garments], minlength=len(before)) > 0
    return {
        kind: np.where(exists, np.subtract(precisions(kind), before), math.nan)
        for kind in (
            ErrorType.CLS,
            ErrorType.LOC,
            ErrorType.BOTH,
            ErrorType.DUPE,
            ErrorType.BKG,
            ErrorType.MISS,
        )
    }


@pytest.mark.parametrize("seed", range(12))
def test_against_plain_loops(make_scene, seed):
    """Few classes and many detections. Scores of no ties, for mending may change which comes first."""
    rng = np.random.default_rng(seed)
    schema = FLD if seed % 2 else DEEPFASHION2
    scene = make_scene(rng, schema, images=10, classes=[0, 1, 2], crowds=0.1)
    truth, predictions = columns(scene)
    errors = find((truth, predictions))
    expected = plain_kinds(truth, predictions)
    assert list(zip(errors.error_type, errors.garment, strict=True)) == expected
    assert len(set(errors.error_type)) > 4
    for kind, gain in plain_deltas(truth, predictions, expected).items():
        np.testing.assert_allclose(errors.delta_average_precision()[kind], gain, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_cocos(make_scene, seed):
    """And no error's mending costs anything; errors and finds account for every detection and garment."""
    scene = make_scene(np.random.default_rng(seed), images=20, classes=range(5), crowds=0.1, score_levels=5)
    truth, predictions = columns(scene)
    # COCO has a rule for boxes that are inside out: it ignores those without a match.
    corners = np.sort(predictions.box.reshape(-1, 2, 2), axis=1)
    predictions.box[:] = corners.reshape(-1, 4)
    errors = find((truth, predictions))
    precision = box_average_precision(truth, predictions, areas=["all"])[0].precision[0, :, :, 0, -1]
    expected = np.where((precision > -1).all(axis=0), precision.mean(axis=0), np.nan)
    np.testing.assert_allclose(errors.average_precision(), expected, atol=1e-12)
    for gain in errors.delta_average_precision().values():
        assert not (gain < -1e-12).any()
    labelled = sum(errors.counts()[kind].sum() for kind in ERRORS if kind != ErrorType.MISS)
    assert (
        labelled + np.isin(errors.error_type, (ErrorType.CORRECT, ErrorType.IGNORED)).sum()
        == predictions.num_detections
    )


def test_confusion_matrix_by_hand(make_instances):
    photo = (
        [("skirt", BOX), ("shorts", AWAY), ("vest", (220, 0, 300, 80)), ("skirt", BOX, {"iscrowd": 1})],
        [
            ("shorts", NEAR, 0.9),  # the best score on the skirt
            ("skirt", BOX, 0.8),  # a second opinion, which counts nowhere
            ("shorts", AWAY, 0.29),  # too unsure
            ("vest", (0, 100, 50, 200), 0.7),  # on nothing
        ],
    )
    matcher = BoxMatcher(*by_hand(make_instances, photo))
    matrix = confusion_matrix(matcher, score_threshold=0.3)
    expected = np.zeros_like(matrix)
    expected[SKIRT, SHORTS] = expected[SHORTS, -1] = expected[CLASSES["vest"], -1] = 1
    expected[-1, CLASSES["vest"]] = 1
    assert matrix.shape == (14, 14) and np.array_equal(matrix, expected)


@pytest.mark.parametrize("seed", range(4))
def test_confusion_matrix_against_plain_loops(make_scene, seed):
    scene = make_scene(np.random.default_rng(seed), FLD if seed % 2 else DEEPFASHION2, crowds=0.1)
    truth, predictions = columns(scene)
    matched = plain_match(truth, predictions, 0.5, False, 0.3)
    expected = np.zeros((truth.schema.num_classes + 1,) * 2, int)
    for garment, category in enumerate(truth.category_id):
        if not truth.iscrowd[garment]:
            found = garment in matched
            expected[category, predictions.category_id[matched.index(garment)] if found else -1] += 1
    for row, ious in plain_pairs(truth, predictions).items():
        if predictions.score[row] >= 0.3 and max(ious.values(), default=0) < 0.5:
            expected[-1, predictions.category_id[row]] += 1
    matrix = confusion_matrix(BoxMatcher(truth, predictions), score_threshold=0.3)
    assert np.array_equal(matrix, expected)
    assert matrix[:-1].sum() == (~truth.iscrowd).sum() and matrix[-1, :-1].sum() > 0
