"""A prediction that is not finite costs itself alone, in every system, and is counted."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from kgdet_d2.modeling.finite import counted_left_out, finite_detections
from kgdet_d2.modeling.heads.outputs import LocationPredictions, choose_best_locations
from tests.helpers.images import image_input
from tests.helpers.systems import make_model

NAN, INF = float("nan"), float("inf")
ANY_SCORE = ["MODEL.KGDET.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 5]
SPARSE = ["MODEL.KGDET.SPARSE_CELLS", 9]
FLIP = ["MODEL.KGDET.FLIP_FUSION.ENABLED", True]
POINT_SETS = {
    "kgdet": ("kgdet_tiny", []),
    "kgdet, sparse": ("kgdet_tiny", SPARSE),
    "kgdet, flip fusion": ("kgdet_tiny", FLIP),
    "plus": ("kgdet_plus_tiny", ["MODEL.WEIGHTS", ""]),
    "reppoints": ("reppoints_tiny", []),
    "reppoints_kp": ("reppoints_kp_tiny", []),
}
# Which of the n predictions of a batch are spoilt.
SPOILT = {
    "some": lambda image: torch.arange(len(image)) % 3 == 0,
    "those of an image": lambda image: image == 0,
    "all": lambda image: image >= 0,
}


def detect(model):
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = model.eval()([image_input(96, 64), image_input(64, 96)])
    return [output["instances"] for output in outputs]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) and ours.get_fields().keys() == theirs.get_fields().keys()
        for name, value in ours.get_fields().items():
            value, reference = (getattr(v, "tensor", v) for v in (value, theirs.get(name)))
            assert value.isfinite().all()
            torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-4)


def left_out(caplog, model):
    """Detect, and return the detections and the number that is logged at the end."""
    caplog.clear()
    with counted_left_out():
        found = detect(model)
    lines = [
        line for line in caplog.messages if line.endswith("detections were not finite and were left out")
    ]
    assert len(lines) <= 1
    return found, int(lines[0].split()[0]) if lines else 0


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize(("config", "opts"), POINT_SETS.values(), ids=POINT_SETS)
def test_predictions_of_point_sets(config, opts, spoilt, caplog):
    """Against the same model whose postprocessor never gets them."""
    model = make_model(config, *ANY_SCORE, *opts)
    detect_in, number = model.postprocessor.detect, 0

    def without(predictions, *others):
        keep = ~spoilt(predictions.image)
        fields = (None if value is None else value[keep] for value in vars(predictions).values())
        return detect_in(LocationPredictions(*fields), *others)

    def with_them(predictions, *others):
        nonlocal number
        rows = spoilt(predictions.image).nonzero().flatten()
        number = len(rows)
        predictions.boxes[rows[0::2], 2] = NAN
        (predictions.boxes if predictions.keypoints is None else predictions.keypoints)[rows[1::2], 3] = INF
        return detect_in(predictions, *others)

    expected_number = left_out(caplog, model)[1]
    assert expected_number == 0
    model.postprocessor.detect = without
    expected = detect(model)
    model.postprocessor.detect = with_them
    found, counted = left_out(caplog, model)
    assert counted == number > 1
    assert_same(found, expected)
    assert (len(found[1]) > 0) == (spoilt is not SPOILT["all"])


def test_scores_of_locations_do_not_displace_others(caplog):
    """Sorted as they are, they would come first, and take the places of those that are candidates."""
    model = make_model("kgdet_tiny", *ANY_SCORE, "MODEL.KGDET.TOPK_CANDIDATES_TEST", 4)
    select = model.postprocessor.select_locations

    def spoil(value):
        def selected(logits):
            logits[0][0, 3, :2] = value
            if value != value:
                return select(logits)
            logits[0][0, :, :2] = value
            return select(logits)

        return selected

    model.postprocessor.select_locations = spoil(-INF)
    expected = detect(model)
    model.postprocessor.select_locations = spoil(NAN)
    found, counted = left_out(caplog, model)
    assert counted > 4 and len(found[0]) > 0
    assert_same(found, expected)


@pytest.mark.parametrize("with_inside", [False, True])
def test_the_best_locations_are_chosen_in_spite_of_a_score_that_is_no_number(with_inside):
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 5)
    inside = torch.rand(2, 20) < 0.7 if with_inside else None
    if inside is not None:
        inside[0, 7] = True
    low, broken = scores.clone(), scores.clone()
    low[0, 1, 2], broken[0, 1, 2] = -9e3, NAN
    (expected,), (found,) = (choose_best_locations([given], 6, inside) for given in (low, broken))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("part", ["boxes", "scores"])
@pytest.mark.parametrize("config", ["retinanet_tiny", "fcos_tiny"])
def test_anchors_of_dense_detectors(config, part, value, caplog):
    """Against the same model whose scores there are 0."""
    if part == "scores" and value == INF:
        pytest.skip("a score of 1")
    model = make_model(config, "TEST.DETECTIONS_PER_IMAGE", 5)
    model.test_score_thresh, model.test_topk_candidates = 0.0, 10**6
    places = (0, slice(None), 1, slice(0, 3))
    spoil, classes = None, model.num_classes

    def spoilt(module, inputs, outputs):
        logits, deltas = outputs[:2]
        anchors = logits[0].shape[1] // classes
        if spoil is None:
            logits[0][places] = -1e4
        elif part == "scores":
            logits[0][places] = value
        else:
            deltas[0][0, 0 :: deltas[0].shape[1] // anchors, 1, :3] = value

    model.head.register_forward_hook(spoilt)
    expected = detect(model)
    spoil = True
    found, counted = left_out(caplog, model)
    assert counted >= 3
    assert_same(found, expected)


def make_match_rcnn():
    model = make_model("match_rcnn_tiny_matching", "MODEL.WEIGHTS", "", "TEST.DETECTIONS_PER_IMAGE", 5)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    return model


@pytest.mark.parametrize("rows", [slice(0, 40, 3), slice(0, 10**6)], ids=["some", "all"])
def test_boxes_of_Match_R_CNN(rows, caplog):
    """Against the same proposals, which are certainly background."""
    model, spoil = make_match_rcnn(), False

    def spoilt(module, inputs, outputs):
        scores, deltas = outputs
        (deltas if spoil else scores[:, :-1])[rows] = NAN if spoil else -INF

    model.roi_heads.box_predictor.register_forward_hook(spoilt)
    expected = detect(model)
    spoil = True
    found, counted = left_out(caplog, model)
    assert counted > 10
    assert_same(found, expected)
    assert (len(found[1]) > 0) == (rows.step is not None)


def test_landmarks_of_Match_R_CNN(caplog):
    """Detectron2 would stop at them."""
    model, number = make_match_rcnn(), 0

    def spoilt(module, inputs, output):
        output[:number, :, 3] = NAN

    model.roi_heads.keypoint_head.score_lowres.register_forward_hook(spoilt)
    expected = detect(model)
    for number in (1, len(expected[0]) + 2):
        found, counted = left_out(caplog, model)
        first = expected[0][number:] if number < len(expected[0]) else expected[0][:0]
        assert counted == number
        assert_same(found, [first, expected[1][number - len(expected[0]) + len(first) :]])


@pytest.mark.parametrize("config", ["kgdet_tiny", "fcos_tiny", "retinanet_tiny", "match_rcnn_tiny"])
def test_features_that_are_no_numbers_find_nothing_and_are_counted(config, caplog):
    model = make_model(config)
    model.backbone.register_forward_hook(lambda module, inputs, maps: {k: v * NAN for k, v in maps.items()})
    found, counted = left_out(caplog, model)
    assert [len(instances) for instances in found] == [0, 0] and counted > 0


def test_detections_with_any_field_not_finite(caplog):
    boxes, keypoints = torch.rand(5, 4), torch.rand(5, 3, 3)
    boxes[1, 2], keypoints[3, 0, 1] = INF, NAN
    fields = {"pred_boxes": Boxes(boxes), "pred_keypoints": keypoints, "pred_classes": torch.arange(5)}
    found = finite_detections(Instances((9, 9), **fields))
    assert found.pred_classes.tolist() == [0, 2, 4]
    assert len(finite_detections(found[:0])) == 0
