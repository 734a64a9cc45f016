"""CVAT's archives, and what datumaro, whose fork reads them there, finds in them."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2.data.export.coco import export_coco
from kgdet_d2.data.export.cvat import export_cvat
from kgdet_d2.data.export.photos import ExportedDataset
from tests.helpers.columns import columns

MEMBER = "annotations/person_keypoints_default.json"


def content(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [MEMBER] and archive.testzip() is None
        return json.loads(archive.read(MEMBER))


def test_ground_truth_is_the_coco_export_without_polygons(annotations, tmp_path):
    dataset = ExportedDataset(annotations=annotations, image_root="")
    (path,) = export_cvat(dataset, tmp_path)
    (coco,) = export_coco(dataset, tmp_path)
    expected = json.loads(coco.read_text())
    assert any(annotation["segmentation"] for annotation in expected["annotations"])
    for annotation in expected["annotations"]:
        annotation["segmentation"] = []
    assert content(path) == expected


def test_predictions_are_visible_annotations(dataset, tmp_path):
    _, path = export_cvat(replace(dataset, score_threshold=0.4), tmp_path)
    _, results = export_coco(replace(dataset, score_threshold=0.4), tmp_path)
    found = sorted(content(path)["annotations"], key=lambda annotation: annotation["id"])
    expected = json.loads(results.read_text())
    assert [annotation["id"] for annotation in found] == list(range(1, len(expected) + 1))
    for annotation, result in zip(found, expected, strict=True):
        for name in ("image_id", "category_id", "score"):
            assert annotation[name] == result[name]
        assert annotation["bbox"] == pytest.approx(result["bbox"], abs=1e-4)
        keypoints, points = (np.reshape(each["keypoints"], (-1, 3)) for each in (annotation, result))
        assert np.array_equal(keypoints[:, :2], points[:, :2]) and (keypoints[:, 2] == 2).all()


def test_the_same_bytes_again(dataset, tmp_path):
    one, other = (export_cvat(dataset, tmp_path / name) for name in ("one", "other"))
    for path, again in zip(one, other, strict=True):
        assert path.read_bytes() == again.read_bytes()


def test_boxes_alone(scene, tmp_path):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    truth, predictions = columns(scene)
    dataset = ExportedDataset(annotations=truth, image_root="", predictions=predictions)
    with pytest.raises(ValueError, match="expected landmarks for CVAT's skeletons, got boxes alone"):
        export_cvat(dataset, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(export_cvat(replace(dataset, predictions=None), tmp_path)) == 1


def keypoints_of(datumaro, path, folder):
    """What datumaro reads: id, photo, class, points, visibility of each; names of classes and of points."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    (folder / "images" / "default").mkdir(parents=True)  # which CVAT's fork of datumaro does not ask for
    read = datumaro.Dataset.import_from(str(folder), "coco_person_keypoints")
    kind, found = datumaro.AnnotationType.points, []
    for item in read:
        for annotation in item.annotations:
            if annotation.type == kind:
                visibility = [each.value for each in annotation.visibility]
                found.append((annotation.id, item.id, annotation.label, annotation.points, visibility))
    categories = read.categories()
    names = [label.name for label in categories[datumaro.AnnotationType.label]]
    points = categories[kind].items
    return (
        sorted(found, key=lambda row: row[0]),
        names,
        [tuple(points[index].labels) for index in range(len(names))],
    )


def test_datumaro_reads_it(dataset, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    truth, predicted = export_cvat(dataset, tmp_path)
    garments = {truth: [], predicted: []}
    for photo in dataset.photos():
        stem = photo.file_name.removesuffix(".jpg")
        garments[truth] += [(stem, garment) for garment in photo.garments]
        garments[predicted] += [(stem, garment) for garment, _ in dataset.detections(photo)]
    for path, expected in garments.items():
        found, names, points = keypoints_of(datumaro, path, tmp_path / path.stem)
        assert names == list(dataset.schema.class_names) and points == list(dataset.schema.keypoint_names)
        for (_, name, label, xy, visibility), (stem, garment) in zip(found, expected, strict=True):
            assert (name, label) == (stem, garment.category_id)
            keypoints = garment.keypoints * (garment.keypoints[:, 2:] > 0)
            assert visibility == keypoints[:, 2].tolist()
            np.testing.assert_allclose(
                np.reshape(xy, (-1, 2)), keypoints[:, :2], atol=0.01
            )  # datumaro keeps two decimals
