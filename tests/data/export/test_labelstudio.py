"""Label Studio's tasks and interface, and what its SDK makes of them."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from kgdet_d2.data.export.labelstudio import export_labelstudio
from kgdet_d2.data.export.photos import ExportedDataset
from tests.helpers.columns import columns

SHARE = 100 / np.array([320, 240])  # of the scenes' photos


def read(dataset, folder):
    tasks, config = export_labelstudio(dataset, folder)
    return json.loads(tasks.read_text()), ElementTree.parse(config).getroot()


def garments_of(results, schema):
    """Class, box x1 y1 x2 y2 in percent and landmarks' x y v of each rectangle, by the ids of regions."""
    found = {}
    for region in results:
        value = region["value"]
        if region["type"] == "rectanglelabels":
            (name,) = value["rectanglelabels"]
            keypoints = np.zeros((schema.num_class_keypoints(schema.class_names.index(name)), 3))
            box = [value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]]
            found[region["id"]] = (name, box, keypoints)
        else:
            name, _, keypoints = found[region["parentID"]]
            own = schema.keypoint_names[schema.class_names.index(name)]
            row = own.index(region["id"].removeprefix(region["parentID"] + "_"))
            occluded = region["type"] == "choices"
            assert value["choices" if occluded else "keypointlabels"] == [
                "occluded" if occluded else own[row]
            ]
            keypoints[row] = value["x"], value["y"], 1 if occluded else 2
    return list(found.values())


def assert_garments(results, garments, schema):
    for (name, box, keypoints), garment in zip(garments_of(results, schema), garments, strict=True):
        assert name == schema.class_names[garment.category_id]
        np.testing.assert_allclose(box, (garment.box.reshape(2, 2) * SHARE).clip(0, 100).ravel(), atol=1e-4)
        labelled = garment.keypoints[:, 2:] > 0
        assert keypoints[:, 2].tolist() == garment.keypoints[:, 2].tolist()
        points = (garment.keypoints[:, :2] * SHARE).clip(0, 100) * labelled
        np.testing.assert_allclose(keypoints[:, :2], points, atol=1e-4)


def test_tasks(dataset, tmp_path):
    dataset = replace(dataset, score_threshold=0.3)
    tasks, _ = read(dataset, tmp_path)
    for photo, task in zip(dataset.photos(), tasks, strict=True):
        assert task["id"] == task["data"]["image_id"] == photo.image_id
        assert task["data"]["image"] == f"/data/local-files/?d={photo.file_name}"
        assert task["data"]["source"] == photo.attributes["source"]
        results = [region for annotation in task["annotations"] for region in annotation["result"]]
        assert_garments(results, photo.garments, dataset.schema)
        found = [region for prediction in task["predictions"] for region in prediction["result"]]
        detections = dataset.detections(photo)
        assert_garments(found, [garment for garment, _ in detections], dataset.schema)
        rectangles = [region for region in found if region["type"] == "rectanglelabels"]
        assert [region["score"] for region in rectangles] == [score for _, score in detections]


def test_names_of_photos_are_quoted(annotations, tmp_path):
    names = np.array(["Foto 0 größe.jpg", "a/b#c?.png", *annotations.file_name[2:]])
    dataset = ExportedDataset(annotations=replace(annotations, file_name=names), image_root="")
    tasks, _ = read(dataset, tmp_path)
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=Foto%200%20gr%C3%B6%C3%9Fe.jpg"
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=a/b%23c%3F.png"


def test_interface(dataset, tmp_path):
    _, view = read(dataset, tmp_path)
    labels = {tag.get("name"): [each.get("value") for each in tag] for tag in view}
    schema = dataset.schema
    assert labels["garment"] == list(schema.class_names)
    assert set(labels["landmark"]) == {name for names in schema.keypoint_names for name in names}
    assert len(set(labels["landmark"])) == len(labels["landmark"]) and labels["visibility"] == ["occluded"]


def test_boxes_alone(scene, tmp_path):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    truth, predictions = columns(scene)
    tasks, _ = read(ExportedDataset(annotations=truth, image_root="", predictions=predictions), tmp_path)
    found = [region for task in tasks for each in task["predictions"] for region in each["result"]]
    assert len(found) == predictions.num_detections
    assert {region["type"] for region in found} == {"rectanglelabels"}


def test_label_studio_validates_and_converts_it(dataset, tmp_path):
    """To YOLO's key points, the form of its converter that knows which garment a landmark belongs to."""
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk.converter import Converter
    from label_studio_sdk.label_interface import LabelInterface

    tasks, config = export_labelstudio(dataset, tmp_path)
    interface = LabelInterface(config.read_text())
    interface.validate()
    for task in json.loads(tasks.read_text()):
        assert interface.validate_task({"data": task["data"]})
        for each in task["annotations"] + task["predictions"]:
            assert not interface.validate_prediction(each, return_errors=True)
    converter = Converter(config.read_text(), str(tmp_path / "project"), download_resources=False)
    converter.convert(str(tasks), str(tmp_path / "yolo"), "YOLO", is_dir=False)
    schema = dataset.schema
    columns_of = list(dict.fromkeys(name for names in schema.keypoint_names for name in names))
    for photo in dataset.photos():
        stem = photo.file_name.removesuffix(".jpg")
        paths = list((tmp_path / "yolo" / "labels").glob(f"*{stem}.txt"))
        lines = np.loadtxt(paths[0], ndmin=2) if photo.garments else []
        for line, garment in zip(lines, photo.garments, strict=True):
            assert line[0] == garment.category_id
            landmarks = dict(zip(columns_of, line[5:].reshape(-1, 3), strict=True))  # 0..1, and 2 or 0
            own = schema.keypoint_names[garment.category_id]
            found = np.stack([landmarks.pop(name) for name in own])
            labelled = garment.keypoints[:, 2:] > 0
            points = (garment.keypoints[:, :2] * SHARE / 100).clip(0, 1)
            np.testing.assert_allclose(found, np.c_[points, np.full(len(own), 2)] * labelled, atol=1e-6)
            assert not np.any(list(landmarks.values()))
