"""The cost of photos, and the pictures of the worst."""

import csv

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from kgdet_d2.engine.report import worst_photos
from kgdet_d2.engine.report.worst_photos import PhotoErrors, draw_worst, garments_on
from kgdet_d2.evaluation.keypoint_error import keypoint_errors
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.report import errors_csv
from kgdet_d2.evaluation.tide import find_errors
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import by_hand, columns
from tests.helpers.registered import NAME, random_case

BOX, AWAY = (100, 100, 200, 200), (0, 0, 50, 50)
SHIFTED = (112, 100, 212, 200)  # landmarks in its middle are off by 0.12 of a side


def photo_errors(truth, predictions, threshold=0.3):
    matcher = BoxMatcher(truth, predictions)
    landmarks = keypoint_errors(matcher, visible_only=True) if predictions.has_keypoints else None
    return PhotoErrors(find_errors(matcher), landmarks, threshold)


def test_costs_by_hand(make_instances):
    wrong_class = [("skirt", BOX, 0.9), ("vest", BOX, 0.75), ("vest", BOX, 0.2)]
    photos = [
        ([("skirt", BOX)], [("skirt", BOX, 0.9)]),  # nothing is wrong
        ([("skirt", BOX), ("shorts", AWAY)], wrong_class),
        ([("skirt", BOX)], [("skirt", SHIFTED, 0.9)]),  # all landmarks are off
        ([("skirt", BOX)], [("skirt", SHIFTED, 0.1)]),  # missed from 0.3 on, whose landmarks do not count
        ([], [("shorts", AWAY, 0.5), ("skirt", BOX, 0.25)]),
    ]
    found = photo_errors(*by_hand(make_instances, *photos))
    assert found.cost == pytest.approx([0, 1.75, 1, 1, 0.5])
    assert found.worst(10) == [1, 2, 3, 4] and found.worst(2) == [1, 2]
    findings = [found.findings(row) for row in range(5)]
    assert findings == ["", "1 Cls, 1 Miss", "8 of 8 landmarks off", "1 Miss", "1 Bkg"]


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_costs_of_boxes_are_those_of_the_list_of_errors(make_scene, threshold):
    scene = make_scene(np.random.default_rng(0), images=20, classes=range(4), crowds=0.2)
    for output in scene.outputs:
        output.remove("pred_keypoints")
    truth, predictions = columns(scene)
    found = photo_errors(truth, predictions, threshold)
    expected = dict.fromkeys(truth.image_id.tolist(), 0.0)
    lines = errors_csv(found.errors, score_threshold=threshold)
    for row in csv.DictReader(line.decode() for line in lines):
        expected[int(row["image_id"])] += 1 if row["kind"] == "Miss" else float(row["score"])
    assert found.cost == pytest.approx([expected[image] for image in truth.image_id.tolist()], abs=1e-3)


def test_photos_that_were_not_predicted_are_not_chosen(scene):
    truth, _ = columns(scene)
    parts = [
        Predictions.from_instances(
            scene.outputs[row],
            image_id=scene.records[row]["image_id"],
            schema=scene.schema,
            wide_classes=truth.no_visible_by_class[row],
        )
        for row in (3, 5)
    ]
    found = photo_errors(truth, Predictions.concatenate(parts, scene.schema))
    assert set(found.worst(100)) == {row for row in (3, 5) if found.cost[row] > 0}
    assert photo_errors(truth, Predictions.empty(scene.schema)).worst(100) == []


def test_the_detections_on_a_photo(scene):
    _, predictions = columns(scene)
    for record, output in zip(scene.records, scene.outputs, strict=True):
        order = np.argsort(-output.scores.numpy(), kind="stable")
        order = order[output.scores.numpy()[order] >= 0.5]
        found = garments_on(record, predictions, 0.5)
        assert np.array_equal(found.scores, output.scores.numpy()[order])
        assert np.array_equal(found.boxes, output.pred_boxes.tensor.numpy()[order])
        assert np.array_equal(found.classes, output.pred_classes.numpy()[order])
        for row, own in zip(order, found.keypoints, strict=True):
            index = output.pred_classes[row].item()
            assert np.array_equal(own, scene.schema.gather(output.pred_keypoints[row].numpy(), index))


@pytest.mark.parametrize(("size", "expected"), [((240, 320), (480, 640)), ((400, 200), (480, 240))])
def test_a_picture_holds_the_pair(catalog, tmp_path, size, expected):
    scene = random_case(FLD)
    catalog(scene.records, FLD)
    for record in scene.records:
        record["file_name"] = str(tmp_path / "grey.png")
    Image.new("L", size[::-1], 128).save(tmp_path / "grey.png")
    drawn = next(draw_worst(photo_errors(*columns(scene)), NAME, count=1))
    height, width = expected
    assert drawn.picture.shape == (height, 2 * width + worst_photos.GAP, 3) and drawn.problem == ""
    assert (drawn.picture[:, width : width + worst_photos.GAP] == 255).all()
    assert drawn.cost > 0 and drawn.findings and drawn.name == "grey.png"


def test_a_photo_without_a_file(catalog, make_instances):
    truth, predictions = by_hand(make_instances, ([("skirt", BOX)], []), ([], []))
    records = [
        {"image_id": image, "width": 320, "height": 240, "annotations": []}
        for image in truth.image_id.tolist()
    ]
    catalog(records, DEEPFASHION2)
    assert MetadataCatalog.get(NAME).keypoint_schema is DEEPFASHION2
    (missing,) = draw_worst(photo_errors(truth, predictions), NAME, count=5)
    assert (
        missing.name == "image 1" and "cannot read the image" in missing.problem and not missing.picture.size
    )
