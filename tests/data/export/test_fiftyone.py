"""FiftyOne's files, and what its own reader makes of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2.data.export.fiftyone import export_fiftyone
from kgdet_d2.data.export.photos import ExportedDataset

SIZE = np.array([320, 240])  # of the scenes' photos


def read(dataset, folder):
    samples, metadata = export_fiftyone(dataset, folder)
    return json.loads(samples.read_text())["samples"], json.loads(metadata.read_text())


def fields_of(dataset):
    return {name: "landmarks_" + name.replace(" ", "_") for name in dataset.schema.class_names}


def assert_labels(sample, garments, boxes, fields):
    """The labels of some garments: boxes, and landmarks in the fields of their classes."""
    names, landmarks = list(fields), {field: [] for field in fields.values()}
    for index, (garment, found) in enumerate(zip(garments, sample[boxes]["detections"], strict=True)):
        name = names[garment.category_id]
        assert (found["label"], found["index"]) == (name, index)
        (x, y), (width, height) = np.reshape(found["bounding_box"], (2, 2)) * SIZE
        np.testing.assert_allclose([x, y, x + width, y + height], garment.box, atol=1e-4)
        landmarks[fields[name]].append((index, name, garment))
    for field, expected in landmarks.items():
        assert (field in sample) == bool(expected)
        for found, (index, name, garment) in zip(
            sample.get(field, {}).get("keypoints", []), expected, strict=True
        ):
            visibility = garment.keypoints[:, 2]
            assert (found["label"], found["index"]) == (name, index)
            assert found["visibility"] == visibility.tolist()
            points = np.where(visibility[:, None] > 0, garment.keypoints[:, :2], np.nan)
            np.testing.assert_allclose(np.array(found["points"]) * SIZE, points, atol=1e-4)


def test_samples(dataset, tmp_path):
    samples, _ = read(dataset, tmp_path)
    fields = fields_of(dataset)
    for photo, sample in zip(dataset.photos(), samples, strict=True):
        assert sample["filepath"] == str(tmp_path / "photos" / photo.file_name)
        assert sample["metadata"] == {"_cls": "ImageMetadata", "width": 320, "height": 240}
        assert sample["image_id"] == photo.image_id and sample["source"] == photo.attributes["source"]
        assert_labels(sample, photo.garments, "ground_truth", fields)
        found = dataset.detections(photo)
        predicted = {name: f"predicted_{field}" for name, field in fields.items()}
        assert_labels(sample, [each.garment for each in found], "predictions", predicted)
        boxes = sample["predictions"]["detections"]
        assert [box["confidence"] for box in boxes] == [score for _, score in found]
        for box, garment in zip(sample["ground_truth"]["detections"], photo.garments, strict=True):
            assert box["scale"] == garment.attributes["scale"] and box["iscrowd"] is garment.iscrowd


def test_skeletons(dataset, tmp_path):
    _, metadata = read(dataset, tmp_path)
    assert "version" not in metadata  # by which FiftyOne knows the form
    info, schema = metadata["info"], dataset.schema
    assert info["default_classes"] == list(schema.class_names)
    assert len(info["skeletons"]) == 2 * schema.num_classes
    for index, field in enumerate(fields_of(dataset).values()):
        for name in (field, f"predicted_{field}"):
            skeleton = info["skeletons"][name]
            assert skeleton["labels"] == list(schema.keypoint_names[index])
            assert [tuple(edge) for edge in skeleton["edges"]] == list(schema.skeleton[index])


def test_ground_truth_alone(dataset, tmp_path):
    samples, _ = read(replace(dataset, predictions=None), tmp_path)
    assert all("predictions" not in sample for sample in samples)


def test_class_names_that_make_one_field(annotations, tmp_path):
    names = ("T-shirt", "t shirt", *annotations.schema.class_names[2:])
    schema = replace(annotations.schema, class_names=names)
    dataset = ExportedDataset(annotations=replace(annotations, schema=schema), image_root="")
    with pytest.raises(ValueError, match=r"expected a field of landmarks for each, got .*t_shirt"):
        export_fiftyone(dataset, tmp_path)


@pytest.mark.slow
def test_fiftyone_reads_it(dataset, tmp_path):
    """By the reader that ``fo.Dataset.from_dir`` takes, without the database that it then fills."""
    fiftyone = pytest.importorskip("fiftyone")
    from fiftyone.core.odm import DatasetDocument
    from fiftyone.utils.data import importers

    export_fiftyone(dataset, tmp_path)
    reader = importers._handle_legacy_formats(importers.FiftyOneDatasetImporter(str(tmp_path)))
    fields = fields_of(dataset)
    with reader:
        assert len(reader) == len(dataset.annotations) and reader.has_dataset_info
        for photo, sample in zip(dataset.photos(), reader, strict=True):
            assert isinstance(sample, fiftyone.Sample) and sample.image_id == photo.image_id
            assert isinstance(sample.metadata, fiftyone.ImageMetadata)
            assert len(sample.ground_truth.detections) == len(photo.garments)
            for box, garment in zip(sample.ground_truth.detections, photo.garments, strict=True):
                assert isinstance(box, fiftyone.Detection)
                keypoints = sample[fields[box.label]].keypoints
                (own,) = [each for each in keypoints if each.index == box.index]
                assert isinstance(own, fiftyone.Keypoint)
                labelled = garment.keypoints[:, 2] > 0
                assert np.isnan(own.points).any(axis=1).tolist() == (~labelled).tolist()
            scores = [score for _, score in dataset.detections(photo)]
            assert [box.confidence for box in sample.predictions.detections] == scores
        skeletons = DatasetDocument().field_to_python("skeletons", reader.get_dataset_info()["skeletons"])
    assert all(isinstance(skeleton, fiftyone.KeypointSkeleton) for skeleton in skeletons.values())
