"""AP class by class on own landmarks, against plain pycocotools with the landmarks of all classes."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kgdet_d2.evaluation.average_precision import (
    Subset,
    box_average_precision,
    keypoint_average_precision,
)
from kgdet_d2.evaluation.coco_backends import BACKENDS
from kgdet_d2.evaluation.similarity import BoxIoU, ObjectKeypointSimilarity, pairs_by_class
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import columns
from tests.helpers.scenes import HEIGHT, WIDTH, Scene

PHOTOS = Path(__file__).parents[3] / "shared" / "deepfashion2_sample" / "validation"
TASKS = ("bbox", "keypoints", "keypoints_visible")
KEYS = {  # in the order of pycocotools' stats
    "bbox": "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split(),
    "keypoints": "AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl".split(),
}


def ours(truth, predictions, task, **options):
    if task == "bbox":
        return box_average_precision(truth, predictions, **options)
    return keypoint_average_precision(truth, predictions, visible_only=task == "keypoints_visible", **options)


def coco_truth(scene, visible_only):
    """Every garment with the K landmarks of all classes, zeros in the slots of the others."""
    annotations = []
    for record in scene.records:
        for a in record["annotations"]:
            x1, y1, x2, y2 = a["bbox"]
            keypoints = np.zeros((scene.schema.num_keypoints, 3))
            keypoints[list(scene.schema.slots[a["category_id"]])] = np.reshape(a["keypoints"], (-1, 3))
            if visible_only:
                keypoints[keypoints[:, 2] == 1, 2] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": a["category_id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": a["iscrowd"],
                    "keypoints": keypoints.ravel().tolist(),
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": record["image_id"]} for record in scene.records],
        "categories": [{"id": c} for c in range(scene.schema.num_classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def coco_results(scene):
    """As Detectron2 makes them, but for the half pixel that it takes off the landmarks."""
    results = []
    for record, output in zip(scene.records, scene.outputs, strict=True):
        boxes = output.pred_boxes.tensor.numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        for i in range(len(output)):
            results.append(
                {
                    "image_id": record["image_id"],
                    "category_id": int(output.pred_classes[i]),
                    "bbox": boxes[i].tolist(),
                    "score": float(output.scores[i]),
                    "keypoints": output.pred_keypoints[i].ravel().tolist(),
                }
            )
    return results


def plain_pycocotools(scene, task, *, ignored=(), image_ids=None, sigmas=None):
    """COCOeval after summarize(). ``ignored`` are numbers of garments, see below."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, results = coco_truth(scene, task == "keypoints_visible"), coco_results(scene)
        for number in ignored:  # an area in no range (boxes), or no landmarks that count
            truth.anns[number + 1].update({"area": 1e12} if task == "bbox" else {"num_keypoints": 0})
        if results:
            found = truth.loadRes(results)
        else:  # which loadRes cannot take
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, task.split("_")[0])
        if task != "bbox":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas or scene.schema.sigmas)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(found, expected, task):
    """Precision, recall and summary."""
    np.testing.assert_allclose(found.precision, expected.eval["precision"][..., -1:], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.recall, expected.eval["recall"], rtol=0, atol=1e-9)
    keys = KEYS[task.split("_")[0]]
    scores = {
        key: 100 * stat if stat >= 0 else math.nan for key, stat in zip(keys, expected.stats, strict=True)
    }
    for index, name in enumerate(found.class_names):
        precision = expected.eval["precision"][:, :, index, 0, -1]
        scores[f"AP-{name}"] = 100 * precision.mean() if precision.min() > -1 else math.nan
    assert list(found.summary()) == list(scores)
    assert found.summary() == pytest.approx(scores, rel=0, abs=1e-9, nan_ok=True)


def assert_all_equal(scene, tasks=TASKS):
    """Both backends. -> how many cases: one class with garments in this set of photos, one task."""
    truth, predictions = columns(scene)
    cases = 0
    for task in tasks:
        expected = plain_pycocotools(scene, task)
        for backend in BACKENDS:
            assert_equal(*ours(truth, predictions, task, backend=backend), expected, task)
        cases += int((expected.eval["recall"][0, :, 0, -1] > -1).sum())
    return cases


SCENES = {
    "one photo": {"images": 1, "most_garments": 12, "most_false": 3},
    "crowds": {"images": 5, "crowds": 0.3, "most_false": 6},
    "tied scores": {"images": 6, "score_levels": 3, "most_false": 6},
    "one score": {"images": 5, "score_levels": 1, "crowds": 0.1, "most_false": 6},
    "three classes": {"images": 4, "classes": (0, 6, 8), "score_levels": 200, "most_garments": 9},
    "nothing false": {"images": 4, "most_garments": 6, "most_false": 0},
    "FLD": {"schema": FLD, "images": 3, "score_levels": 8, "crowds": 0.1, "most_false": 5},
    "FLD, one photo": {"schema": FLD, "images": 1, "most_garments": 8, "most_false": 3},
}


@pytest.mark.parametrize("kind", SCENES)
def test_equals_plain_pycocotools(make_scene, kind):
    """Boxes, which are slower, in every fourth scene."""
    scenes = 40 if "schema" in SCENES[kind] else 20
    cases = 0
    for seed in range(scenes):
        scene = make_scene(np.random.default_rng(seed), **SCENES[kind])
        cases += assert_all_equal(scene, TASKS if seed % 4 == 0 else TASKS[1:])
    assert cases > 100


def test_scenes_hold_what_they_are_to_test(make_scene):
    """Garments without landmarks that take detections; tied scores; classes without garments."""
    truth, predictions = columns(make_scene(np.random.default_rng(0), **SCENES["tied scores"]))
    assert len(predictions.wide_detection) > 5
    assert len(np.unique(predictions.score)) == 3
    assert 0 < len(np.unique(truth.category_id)) <= 13
    for visible_only in (False, True):
        assert (truth.num_labelled(visible_only=visible_only) == 0).sum() > 1
        (full,) = keypoint_average_precision(truth, predictions, visible_only=visible_only)
        moved = Predictions(**vars_of(predictions) | {"wide_keypoints": predictions.wide_keypoints + 1000})
        (other,) = keypoint_average_precision(truth, moved, visible_only=visible_only)
        assert full.summary()["AP"] != other.summary()["AP"]


def vars_of(predictions):
    return {name: getattr(predictions, name) for name in Predictions.__dataclass_fields__}


@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)
@pytest.mark.parametrize("task", TASKS)
def test_similarities_to_the_last_bit(make_scene, task, schema):
    scene = make_scene(np.random.default_rng(0), schema, images=8, crowds=0.2)
    truth, predictions = columns(scene)
    if task == "bbox":
        similarity = BoxIoU(truth, predictions)
    else:
        visible_only = task == "keypoints_visible"
        similarity = ObjectKeypointSimilarity(
            truth, predictions, sigmas=schema.sigmas, visible_only=visible_only
        )
    expected = plain_pycocotools(scene, task).ious
    compared = 0
    for pairs in pairs_by_class(truth, predictions, max_detections=100):
        for image, garments, detections in zip(pairs.images, pairs.garments, pairs.detections, strict=True):
            if len(garments) and len(detections):
                found = similarity(garments, detections)
                assert np.array_equal(found, expected[truth.image_id[image], pairs.class_index])
                compared += found.size
    assert compared > 30


@pytest.mark.parametrize("task", TASKS)
def test_more_detections_than_count(make_scene, task):
    """Some 150 and more of one class in a photo: 100 count for boxes, 20 for landmarks."""
    settings = {"images": 3, "classes": (8,), "most_garments": 6, "most_false": 600, "score_levels": 50}
    for seed in range(3):
        scene = make_scene(np.random.default_rng(seed), **settings)
        assert max(len(output) for output in scene.outputs) > 150
        truth, predictions = columns(scene)
        expected = plain_pycocotools(scene, task)
        for backend in BACKENDS:
            assert_equal(*ours(truth, predictions, task, backend=backend), expected, task)


def test_other_limits_of_detections(make_scene):
    scene = make_scene(np.random.default_rng(0), images=5, classes=(0, 8), most_false=50)
    truth, predictions = columns(scene)
    for limit in (24, 5, 1):
        (found,) = box_average_precision(truth, predictions, max_detections=limit)
        assert found.max_detections == {24: [1, 10, 24], 5: [1, 5], 1: [1]}[limit]
        with contextlib.redirect_stdout(io.StringIO()):
            expected = plain_pycocotools(scene, "bbox")
            expected.params.maxDets = found.max_detections
            expected.evaluate()
            expected.accumulate()
        np.testing.assert_allclose(found.precision, expected.eval["precision"][..., -1:], rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.recall, expected.eval["recall"], rtol=0, atol=1e-9)


def test_other_sigmas(make_scene):
    scene = make_scene(np.random.default_rng(0))
    truth, predictions = columns(scene)
    sigmas = np.random.default_rng(1).uniform(0.05, 0.3, 294).tolist()
    expected = plain_pycocotools(scene, "keypoints", sigmas=sigmas)
    (found,) = keypoint_average_precision(truth, predictions, visible_only=False, sigmas=sigmas)
    assert_equal(found, expected, "keypoints")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", TASKS)
def test_subsets(make_scene, task, backend):
    """Garments that do not count and images that do not exist, several subsets in one call."""
    rng = np.random.default_rng(0)
    scene = make_scene(rng, images=12, classes=(0, 6, 8), crowds=0.1, score_levels=6)
    truth, predictions = columns(scene)
    garments, images = rng.random(truth.num_garments) < 0.4, rng.random(len(truth)) < 0.4
    subsets = [
        Subset(garments=garments),
        Subset(images=images),
        Subset(),
        Subset(garments=garments, images=images),
        Subset(garments=~garments),
        Subset(images=np.zeros_like(images)),
    ]
    found = ours(truth, predictions, task, backend=backend, subsets=subsets)
    ids, ignored = truth.image_id[images].tolist(), np.flatnonzero(~garments).tolist()
    assert_equal(found[0], plain_pycocotools(scene, task, ignored=ignored), task)
    assert_equal(found[1], plain_pycocotools(scene, task, image_ids=ids), task)
    assert_equal(found[2], plain_pycocotools(scene, task), task)
    assert_equal(found[3], plain_pycocotools(scene, task, ignored=ignored, image_ids=ids), task)
    assert_equal(found[4], plain_pycocotools(scene, task, ignored=np.flatnonzero(garments).tolist()), task)
    assert (found[5].precision == -1).all() and (found[5].recall == -1).all()


@pytest.mark.parametrize("mask", [{"garments": np.ones(3, bool)}, {"images": np.ones(99, bool)}])
def test_subset_of_another_length(make_scene, mask):
    truth, predictions = columns(make_scene(np.random.default_rng(0), images=4))
    with pytest.raises(ValueError, match=r"subset: (garments|images): expected bool \(\d+,\), got"):
        box_average_precision(truth, predictions, subsets=[Subset(**mask)])


@pytest.mark.parametrize("task", TASKS)
def test_fewer_areas(make_scene, task):
    truth, predictions = columns(make_scene(np.random.default_rng(0)))
    (full,) = ours(truth, predictions, task)
    (found,) = ours(truth, predictions, task, areas=("all", "large"))
    large = full.areas.index("large")
    assert np.array_equal(found.precision, full.precision[..., [0, large], :])
    assert not {"APm", "ARs"} & found.summary().keys()
    expected = {name: full.summary()[name] for name in found.summary()}
    assert found.summary() == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_photos_is_of_no_account(make_scene, task):
    scene = make_scene(np.random.default_rng(0), score_levels=3)
    truth, predictions = columns(scene)
    order = np.random.default_rng(1).permutation(len(scene.records))
    scene.records = [scene.records[i] for i in order]
    scene.outputs = [scene.outputs[i] for i in order]
    _, shuffled = columns(scene)
    (one,), (other,) = ours(truth, predictions, task), ours(truth, shuffled, task)
    assert np.array_equal(one.precision, other.precision) and np.array_equal(one.recall, other.recall)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", TASKS)
def test_nothing_predicted_and_nothing_to_find(make_scene, task, backend):
    scene = make_scene(np.random.default_rng(0), images=5)
    truth, _ = columns(scene)
    (found,) = ours(truth, Predictions.empty(DEEPFASHION2), task, backend=backend)
    scene.outputs = [output[:0] for output in scene.outputs]
    assert_equal(found, plain_pycocotools(scene, task), task)
    assert found.summary()["AP"] == 0
    for record in scene.records:
        record["annotations"] = []
    (found,) = ours(*columns(scene), task, backend=backend)
    assert all(math.isnan(score) for score in found.summary().values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("task", TASKS)
def test_what_is_found_in_a_region_to_ignore_counts_neither_way(
    make_instances, make_annotation, task, backend
):
    """Nor is it to be found. Its landmarks are not labelled, as those of an unusable garment."""
    garment = make_annotation(np.random.default_rng(0), 8, bbox=[10, 10, 110, 110])
    garment["keypoints"] = np.array([[20 + 9 * k, 60, 2] for k in range(8)], float).ravel()
    region = {**garment, "bbox": [150, 20, 310, 230], "keypoints": np.zeros(24), "iscrowd": 1}
    keypoints = np.zeros((294, 2))
    keypoints[list(DEEPFASHION2.slots[8])] = garment["keypoints"].reshape(8, 3)[:, :2]
    inside = keypoints + np.array([150, 60])
    boxes = [garment["bbox"], [160, 30, 260, 130], [200, 100, 300, 220]]
    output = make_instances(boxes, [0.5, 0.9, 0.8], [8] * 3, [keypoints, inside, inside])
    scores = []
    for annotations in ([garment, region], [garment]):
        photo = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "annotations": annotations}
        scene = Scene(DEEPFASHION2, [photo], [output])
        (found,) = ours(*columns(scene), task, backend=backend)
        assert_equal(found, plain_pycocotools(scene, task), task)
        scores.append(found.summary()["AP"])
    assert scores == pytest.approx([100, 100 / 3])


def test_predictions_of_another_ground_truth(make_scene):
    scene = make_scene(np.random.default_rng(0))
    truth, predictions = columns(scene)
    columns_of = vars_of(predictions)
    unknown = Predictions(**columns_of | {"image_id": predictions.image_id + 1000})
    for task in TASKS:
        with pytest.raises(ValueError, match=r"image \d+: no such image_id among the 10 photos"):
            ours(truth, unknown, task)


def test_some_detections_without_landmarks_of_other_classes(make_scene):
    """Each is compared as if all had them, or none had."""
    truth, predictions = columns(make_scene(np.random.default_rng(0)))
    predictions.wide_keypoints[:] += 1000  # so that it makes a difference

    def similarities(wide):
        chosen = {name: getattr(predictions, name)[wide] for name in ("wide_detection", "wide_keypoints")}
        kept = Predictions(**vars_of(predictions) | chosen)
        compute = ObjectKeypointSimilarity(truth, kept, sigmas=DEEPFASHION2.sigmas, visible_only=True)
        return [
            compute(garments, np.flatnonzero(of_class))
            for garments, of_class in zip(bare_garments, detections, strict=True)
        ]

    bare_garments = [[row] for row in np.flatnonzero(truth.num_labelled(visible_only=True) == 0)]
    detections = [predictions.category_id == truth.category_id[row] for (row,) in bare_garments]
    is_wide = np.zeros(predictions.num_detections, bool)
    is_wide[predictions.wide_detection[::2]] = True
    every, none = np.arange(len(predictions.wide_detection)), np.zeros(0, int)
    cases = zip(similarities(every[::2]), similarities(every), similarities(none), detections, strict=True)
    differ = 0
    for found, if_all, if_none, of_class in cases:
        expected = np.where(is_wide[of_class, None], if_all, if_none)
        assert np.array_equal(found, expected)
        differ += (if_all != if_none).sum()
    assert differ > 5


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos are not here")
def test_real_photos(make_scene, make_instances):
    """Each garment found twice, more or less exactly, and once under another class."""
    rng = np.random.default_rng(0)
    scene = make_scene(rng, images=24, most_garments=0)
    paths = sorted((PHOTOS / "annos").glob("*.json"))
    for number, path in enumerate(paths):
        items = [item for name, item in json.loads(path.read_text()).items() if name.startswith("item")]
        scene.records[number] |= {"height": 2000, "width": 2000}  # no smaller than any of them
        scene.records[number]["annotations"] = [
            {
                "bbox": item["bounding_box"],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": item["category_id"] - 1,
                "keypoints": np.array(item["landmarks"], float),
                "iscrowd": 0,
            }
            for item in items
        ]
        found = [
            perturbed(rng, a, shift) for a in scene.records[number]["annotations"] for shift in (0, 0, 1)
        ]
        scene.outputs[number] = Instances.cat(
            [scene.outputs[number], make_instances(*zip(*found, strict=True))]
        )
    assert len(paths) == 24 and sum(len(record["annotations"]) for record in scene.records) == 42
    assert assert_all_equal(scene) > 20
    for task in TASKS:
        (found,) = ours(*columns(scene), task)
        assert 5 < found.summary()["AP"] < 95


def perturbed(rng, annotation, shift):
    """Box, score, class moved by shift, K landmarks; an error of up to a twentieth of the box."""
    size = np.ptp(np.reshape(annotation["bbox"], (2, 2)), axis=0)
    error = rng.choice([0, 0.01, 0.05]) * size
    box = annotation["bbox"] + rng.normal(0, 1, 4) * np.tile(error, 2)
    keypoints = rng.uniform(0, 1000, (294, 2))
    own = np.reshape(annotation["keypoints"], (-1, 3))[:, :2]
    keypoints[list(DEEPFASHION2.slots[annotation["category_id"]])] = own + rng.normal(0, 1, own.shape) * error
    return box, rng.random(), (annotation["category_id"] + shift) % 13, keypoints
