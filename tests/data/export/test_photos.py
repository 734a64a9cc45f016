"""The photos and detections that are exported, against the records that they were made of."""

from dataclasses import replace

import numpy as np
import pytest

from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.structures.predictions import Predictions


def test_photos_are_those_of_the_annotations(annotations, photos, tmp_path):
    dataset = ExportedDataset(annotations=annotations, image_root=str(tmp_path))
    found = list(dataset.photos())
    for one, other in zip(found, photos, strict=True):
        for name in ("file_name", "image_id", "width", "height", "attributes"):
            assert getattr(one, name) == getattr(other, name)
        for garment, expected in zip(one.garments, other.garments, strict=True):
            assert (garment.category_id, garment.iscrowd) == (expected.category_id, expected.iscrowd)
            assert garment.attributes == expected.attributes
            assert np.array_equal(garment.box, expected.box)
            assert np.array_equal(garment.keypoints, expected.keypoints)
            for polygon, vertices in zip(garment.polygons, expected.polygons, strict=True):
                assert np.array_equal(polygon, vertices)
    assert dataset.path(found[0]) == str(tmp_path / "000001.png")
    assert all(dataset.detections(photo) == [] for photo in found)
    assert len(dataset.detection_rows) == 0


@pytest.mark.parametrize("threshold", [0.0, 0.4, 2.0])
def test_detections_from_a_score_on(scene, dataset, threshold):
    dataset = replace(dataset, score_threshold=threshold)
    count = 0
    for photo, output in zip(dataset.photos(), scene.outputs, strict=True):
        kept = output[output.scores >= threshold]
        for row, (garment, score) in enumerate(dataset.detections(photo)):
            count += 1
            own = kept.pred_keypoints[row, list(scene.schema.slots[garment.category_id]), :2]
            assert score == kept.scores[row] and garment.category_id == kept.pred_classes[row]
            assert garment.box.tolist() == kept.pred_boxes.tensor[row].tolist()
            assert garment.keypoints[:, :2].tolist() == own.tolist() and (garment.keypoints[:, 2] == 2).all()
    assert (
        count
        == len(dataset.detection_rows)
        == sum((each.scores >= threshold).sum() for each in scene.outputs)
    )


def test_predictions_on_some_photos_in_another_order(scene, dataset):
    whole = dataset.predictions
    some = [whole.image_id.tolist().index(image) for image in sorted(whole.image_id.tolist())[2:6]]
    empty = Predictions.empty(scene.schema)
    rows = [np.arange(*whole.detection_offsets[index : index + 2]) for index in some]
    chosen = np.concatenate(rows)
    keypoints = [whole.keypoints[slice(*whole.keypoint_offsets[row : row + 2])] for row in chosen]
    part = replace(
        empty,
        image_id=whole.image_id[some],
        detection_offsets=np.cumsum([0, *map(len, rows)]),
        category_id=whole.category_id[chosen],
        score=whole.score[chosen],
        box=whole.box[chosen],
        keypoints=np.concatenate(keypoints),
        keypoint_score=whole.keypoint_score[chosen],
    )
    for photo in dataset.photos():
        found = replace(dataset, predictions=part).detections(photo)
        expected = dataset.detections(photo) if photo.image_id in part.image_id else []
        assert [each.score for each in found] == [each.score for each in expected]
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.garment.keypoints, other.garment.keypoints)
