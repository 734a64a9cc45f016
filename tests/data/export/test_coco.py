"""The COCO export, read and scored by pycocotools and read by Detectron2."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json
from pycocotools.coco import COCO

from kgdet_d2.data.export.coco import export_coco
from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.evaluation.average_precision import average_precisions
from kgdet_d2.schema import DEEPFASHION2, KeypointSchema
from kgdet_d2.structures.coco_results import load_coco_results
from tests.helpers.coco_files import pycocotools_scores
from tests.helpers.columns import columns

TASKS = ("bbox", "keypoints", "keypoints_visible")
SKIRT = DEEPFASHION2.class_names.index("skirt")


def read(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_categories(dataset, tmp_path):
    export_coco(dataset, tmp_path)
    coco, schema = read(tmp_path / "annotations.json"), dataset.schema
    categories = coco.loadCats(coco.getCatIds())
    assert [category["name"] for category in categories] == list(schema.class_names)
    for index, category in enumerate(categories):
        assert category["id"] == index + 1
        assert category["keypoints"] == list(schema.keypoint_names[index])
        assert [(a - 1, b - 1) for a, b in category["skeleton"]] == list(schema.skeleton[index])


def test_annotations_are_those_of_the_records(scene, dataset, tmp_path):
    export_coco(dataset, tmp_path)
    coco, number = read(tmp_path / "annotations.json"), 0
    assert len(coco.imgs) == len(scene.records)
    for record in scene.records:
        image = coco.imgs[record["image_id"]]
        for name in ("file_name", "width", "height", "source"):
            assert image[name] == record[name]
        for annotation in record["annotations"]:
            number += 1
            found = coco.anns[number]
            x1, y1, x2, y2 = annotation["bbox"]
            assert found["image_id"] == record["image_id"]
            assert found["category_id"] == annotation["category_id"] + 1
            assert found["bbox"] == [x1, y1, x2 - x1, y2 - y1] and found["area"] == (x2 - x1) * (y2 - y1)
            keypoints = annotation["keypoints"].reshape(-1, 3)
            labelled = keypoints[:, 2] > 0
            assert found["keypoints"] == (keypoints * labelled[:, None]).ravel().tolist()
            assert found["num_keypoints"] == labelled.sum()
            assert (found["iscrowd"], found["scale"]) == (annotation["iscrowd"], annotation["scale"])
    assert number == len(coco.anns) > 10


def test_detectron2_reads_polygons_and_attributes(annotations, photos, tmp_path):
    export_coco(ExportedDataset(annotations=annotations, image_root="photos"), tmp_path)
    assert not (tmp_path / "results.json").exists()
    records = load_coco_json(str(tmp_path / "annotations.json"), "photos", extra_annotation_keys=["scale"])
    for record, photo in zip(records, photos, strict=True):
        assert record["file_name"] == f"photos/{photo.file_name}"
        for found, garment in zip(record["annotations"], photo.garments, strict=True):
            polygons = [polygon.ravel().tolist() for polygon in garment.polygons]
            assert found.get("segmentation", []) == polygons
            assert found["scale"] == garment.attributes["scale"]


def test_what_is_not_labelled_is_zero(annotations, tmp_path):
    annotations.keypoints[:, 2] = 0
    export_coco(ExportedDataset(annotations=annotations, image_root=""), tmp_path)
    found = json.loads((tmp_path / "annotations.json").read_text())["annotations"]
    assert len(found) == annotations.num_garments
    assert not any(any(each["keypoints"]) or each["num_keypoints"] for each in found)


def test_attributes_do_not_replace_what_is_cocos(annotations, tmp_path):
    names = {"id": np.arange(annotations.num_garments) + 77, "area": np.arange(annotations.num_garments)}
    export_coco(
        ExportedDataset(annotations=replace(annotations, garment_attributes=names), image_root=""), tmp_path
    )
    found = json.loads((tmp_path / "annotations.json").read_text())["annotations"]
    assert [each["id"] for each in found] == list(range(1, annotations.num_garments + 1))
    assert [each["area"] for each in found] == annotations.area.tolist()


def truth_of(path, visible_only):
    truth = json.loads(path.read_text())
    for annotation in truth["annotations"] if visible_only else []:
        keypoints = np.reshape(annotation["keypoints"], (-1, 3))
        keypoints[keypoints[:, 2] == 1] = 0
        annotation |= {"keypoints": keypoints.ravel().tolist()}
        annotation["num_keypoints"] = int((keypoints[:, 2] > 0).sum())
    return truth


def assert_pycocotools_scores(dataset, folder):
    """Category by category, for pycocotools takes one number of landmarks at a time."""
    annotations, results = export_coco(dataset, folder)
    ours = average_precisions(dataset.annotations, load_coco_results(results, dataset.annotations))
    compared = 0
    for task in TASKS:
        summary, truth = ours[task][0].summary(), truth_of(annotations, task == "keypoints_visible")
        for index in np.unique(dataset.annotations.category_id).tolist():
            sigmas = [dataset.schema.sigmas[slot] for slot in dataset.schema.slots[index]]
            ap, *_ = pycocotools_scores(truth, str(results), task, sigmas, category_id=index + 1)
            found = summary[f"AP-{dataset.schema.class_names[index]}"]
            assert found == pytest.approx(ap if ap >= 0 else np.nan, abs=1e-9, nan_ok=True)
            compared += 0 < ap < 100
    assert compared > 3


def test_pycocotools_gives_each_class_our_score(dataset, tmp_path):
    assert_pycocotools_scores(dataset, tmp_path)


def test_one_class(make_scene, tmp_path):
    """All of pycocotools' scores, on a schema of one class."""
    schema = KeypointSchema(
        name="skirts",
        class_names=("skirt",),
        keypoint_names=DEEPFASHION2.keypoint_names[SKIRT : SKIRT + 1],
        slots=(tuple(range(8)),),
        sigmas=tuple(DEEPFASHION2.sigmas[slot] for slot in DEEPFASHION2.slots[SKIRT]),
        skeleton=DEEPFASHION2.skeleton[SKIRT : SKIRT + 1],
    )
    truth, predictions = columns(make_scene(np.random.default_rng(0), schema, images=30))
    dataset = ExportedDataset(annotations=truth, image_root="", predictions=predictions)
    annotations, results = export_coco(dataset, tmp_path)
    ours = average_precisions(truth, predictions)
    for task in TASKS:
        coco = truth_of(annotations, task == "keypoints_visible")
        expected = pycocotools_scores(coco, str(results), task, schema.sigmas)
        summary = ours[task][0].summary()
        assert [summary[name] for name in ("AP", "AP50", "AP75")] == pytest.approx(expected, abs=1e-9)
        assert 0 < expected[0] < 100


def test_scores_from_a_threshold_on(dataset, tmp_path):
    dataset = replace(dataset, score_threshold=0.4)
    _, path = export_coco(dataset, tmp_path)
    scores = [result["score"] for result in json.loads(path.read_text())]
    assert scores == [score for score in dataset.predictions.score.tolist() if score >= 0.4]
