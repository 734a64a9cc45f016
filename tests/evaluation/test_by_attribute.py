"""AP by attributes, by hand and against plain pycocotools."""

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kgdet_d2.evaluation.by_attribute import attribute_values, subset_scores
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import by_hand, columns

HERE, THERE = (100, 100, 200, 200), (0, 0, 90, 90)


def with_attributes(scene, rng):
    for record in scene.records:
        record["source"] = str(rng.choice(["shop", "user"]))
        for annotation in record["annotations"]:
            annotation["scale"] = int(rng.integers(1, 4))
    return scene


def test_values_and_their_names(make_scene):
    rng = np.random.default_rng(0)
    truth, _ = columns(with_attributes(make_scene(rng, images=20), rng))
    values = attribute_values(truth)
    found = [(value.attribute, value.value, value.name) for value in values]
    scales = [("scale", number, name) for number, name in enumerate(("small", "moderate", "large"), 1)]
    assert found == [*scales, ("source", "shop", "shop"), ("source", "user", "user")]
    for attribute in ("scale", "source"):
        counts = [value.num_garments for value in values if value.attribute == attribute]
        assert sum(counts) == truth.num_garments
        assert 0 not in counts


def test_other_attributes_by_name(make_instances):
    photo = ([("skirt", HERE, {"shade": "red"}), ("skirt", THERE, {"shade": "blue"})], [])
    truth, _ = by_hand(make_instances, photo)
    assert attribute_values(truth) == []
    values = attribute_values(truth, ["shade"])
    assert [(value.name, value.num_garments) for value in values] == [("blue", 1), ("red", 1)]
    with pytest.raises(ValueError, match=r"attribute 'scale': expected one of \['shade'\]"):
        attribute_values(truth, ["scale"])


def test_attributes_of_too_many_values(make_instances):
    truth, _ = by_hand(make_instances, ([("skirt", HERE, {"style": number}) for number in range(21)], []))
    with pytest.raises(ValueError, match="attribute 'style': expected at most 20 different values, got 21"):
        attribute_values(truth, ["style"])


def test_by_hand(make_instances):
    """A small skirt that is found and a large one; AP50 of the small, of the large."""

    def scores(*detections):
        photo = ([("skirt", HERE, {"scale": 1}), ("skirt", THERE, {"scale": 3})], detections)
        truth, predictions = by_hand(make_instances, photo)
        rows = subset_scores(truth, predictions, attribute_values(truth))
        assert [row["name"] for row in rows] == ["small", "large"]
        assert all(row["bbox"]["AP50"] == row["keypoints"]["AP50"] for row in rows)
        return [row["bbox"]["AP50"] for row in rows]

    small, large, nowhere = ("skirt", HERE), ("skirt", THERE), ("skirt", (200, 0, 300, 90))
    assert scores((*small, 0.5)) == pytest.approx([100, 0])
    # What finds the large one is not wrong among the small ones, and the other way round.
    assert scores((*small, 0.5), (*large, 0.9)) == pytest.approx([100, 100])
    # What finds nothing is wrong among both.
    assert scores((*small, 0.5), (*large, 0.9), (*nowhere, 0.8)) == pytest.approx([50, 100])


def plain_pycocotools(truth, predictions, task, counts, image_ids):
    """AP of the garments that count; the others have an area in no range (boxes), or no landmarks."""
    annotations = []
    for row in range(truth.num_garments):
        x1, y1, x2, y2 = truth.box[row].tolist()
        own = truth.keypoints[slice(*truth.keypoint_offsets[row : row + 2])].copy()
        if task == "keypoints_visible":
            own[own[:, 2] == 1] = 0
        category = int(truth.category_id[row])
        annotation = {
            "id": row + 1,
            "image_id": int(truth.image_id[truth.garment_image[row]]),
            "category_id": category + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "keypoints": truth.schema.scatter(own, category).ravel().tolist(),
            "num_keypoints": int((own[:, 2] > 0).sum()),
        }
        if not counts[row]:
            annotation |= {"area": 1e12} if task == "bbox" else {"num_keypoints": 0}
        annotations.append(annotation)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in truth.image_id.tolist()],
            "categories": [{"id": index + 1} for index in range(truth.schema.num_classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        found = coco.loadRes(list(predictions.coco_results()))
        evaluation = COCOeval(coco, found, task.split("_")[0])
        if task != "bbox":
            evaluation.params.kpt_oks_sigmas = np.array(truth.schema.sigmas)
        evaluation.params.imgIds = image_ids.tolist()
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    known = [values[values > -1] for values in (precision, precision[0], precision[5])]
    return [100 * values.mean() if values.size else math.nan for values in known]


@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def test_against_plain_pycocotools(make_scene, schema):
    rng = np.random.default_rng(1)
    scene = with_attributes(make_scene(rng, schema, images=25, classes=[0, 1, 2]), rng)
    truth, predictions = columns(scene)
    values = attribute_values(truth)
    every = np.full(truth.num_garments, True)
    for value, row in zip(values, subset_scores(truth, predictions, values), strict=True):
        counts, image_ids = every, truth.image_id
        if value.attribute == "source":
            image_ids = image_ids[truth.photo_attributes["source"] == value.value]
        else:
            counts = truth.garment_attributes["scale"] == value.value
        for task in ("bbox", "keypoints", "keypoints_visible"):
            expected = plain_pycocotools(truth, predictions, task, counts, image_ids)
            assert [row[task][name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-9)


def test_nothing_found_and_nothing_to_find(make_instances):
    truth, predictions = by_hand(make_instances, ([("skirt", HERE, {"scale": 1})], []))
    (row,) = subset_scores(truth, predictions, attribute_values(truth))
    assert row["bbox"] == row["keypoints"] == {"AP": 0, "AP50": 0, "AP75": 0}
    truth = AnnotationTable.from_dataset_dicts([], DEEPFASHION2)
    assert subset_scores(truth, Predictions.empty(DEEPFASHION2), attribute_values(truth)) == []
