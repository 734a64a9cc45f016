"""The export in the COCO format of DeepFashion2's evaluation."""

import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kgdet_d2.data.convert.coco_export import write_official_coco
from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable

SAMPLE = Path(__file__).parents[4] / "shared" / "deepfashion2_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the DeepFashion2 sample is absent")
PHOTO_ATTRIBUTES = {"source", "pair_id"}
GRADES = {"scale", "occlusion", "zoom_in", "viewpoint"}


def write(annotations, *, visible_only=False) -> bytes:
    file = io.BytesIO()
    write_official_coco(file, annotations, visible_only=visible_only)
    return file.getvalue()


def official(annotations, *, visible_only=False) -> dict:
    return json.loads(write(annotations, visible_only=visible_only))


@pytest.fixture(scope="module")
def sample() -> AnnotationTable:
    return read_split(SAMPLE / "validation")[0]


@pytest.fixture(scope="module")
def usual() -> dict:
    """What the usual converter made of the sample."""
    return json.loads((SAMPLE / "official_coco_style.json").read_text())


# --- beside the usual converter ---


@needs_sample
def test_the_sample_is_as_the_usual_converter_makes_it(sample, usual):
    """Every value of every field; ids of annotations apart, which there count the whole validation split."""
    found = official(sample)
    assert found.keys() == usual.keys()
    for name in ("info", "licenses", "categories"):
        assert found[name] == usual[name]
    for image, expected in zip(found["images"], usual["images"], strict=True):
        assert image.keys() - expected.keys() == PHOTO_ATTRIBUTES
        assert {name: image[name] for name in expected} == expected
    for number, (garment, expected) in enumerate(
        zip(found["annotations"], usual["annotations"], strict=True), 1
    ):
        assert garment.keys() - expected.keys() == GRADES | {"source", "item"}
        assert {name: garment[name] for name in expected} == {**expected, "id": number}
        assert type(garment["area"]) is int and all(type(value) is int for value in garment["bbox"])
    assert number == 42


@needs_sample
def test_every_native_value_of_the_sample_is_kept(sample):
    entries = iter(official(sample)["annotations"])
    for path in sorted((SAMPLE / "validation/annos").iterdir()):
        native = json.loads(path.read_text())
        for key in sorted(native.keys() - PHOTO_ATTRIBUTES):
            entry = next(entries)
            assert {name: entry[name] for name in PHOTO_ATTRIBUTES} == {
                name: native[name] for name in PHOTO_ATTRIBUTES
            }
            assert f"item{entry['item']}" == key
            assert {name: entry[name] for name in GRADES} == {name: native[key][name] for name in GRADES}
    assert next(entries, None) is None


@needs_sample
def test_visible_only_differs_in_occluded_landmarks_alone(sample, usual):
    """Against plain loops over the usual converter's file."""
    expected = deepcopy(usual["annotations"])
    hidden = 0
    for entry in expected:
        for slot in range(0, 882, 3):
            if entry["keypoints"][slot + 2] == 1:
                entry["keypoints"][slot : slot + 3] = 0, 0, 0
                hidden += 1
        entry["num_keypoints"] = sum(v == 2 for v in entry["keypoints"][2::3])
    assert hidden > 100
    found = official(sample, visible_only=True)["annotations"]
    for garment, entry in zip(found, expected, strict=True):
        assert {name: garment[name] for name in entry if name != "id"} == {
            name: value for name, value in entry.items() if name != "id"
        }


@needs_sample
@pytest.mark.parametrize("visible_only", [False, True])
def test_the_evaluation_finds_the_truth_perfect(sample, tmp_path, visible_only):
    """pycocotools loads the file, and its OKS of the ground truth as detections gives AP 1."""
    path = tmp_path / "coco.json"
    path.write_bytes(write(sample, visible_only=visible_only))
    truth = COCO(path)
    detections = [
        {name: entry[name] for name in ("image_id", "category_id", "keypoints")} | {"score": 0.9}
        for entry in truth.anns.values()
        if entry["num_keypoints"]  # one without any lies nowhere
    ]
    evaluation = COCOeval(truth, truth.loadRes(detections), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(DEEPFASHION2.sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0]  # thresholds, recalls, classes; all areas
    assert (precision[precision > -1] == 1).all()
    labelled = {entry["category_id"] for entry in truth.anns.values() if entry["num_keypoints"]}
    assert (precision > -1).all(axis=(0, 1)).sum() == len(labelled) > 5


# --- what the columns hold ---


def test_photos_without_garments_or_polygons(annotations):
    found = official(annotations)
    assert [image["id"] for image in found["images"]] == [1, 2, 3, 4]
    assert [entry["image_id"] for entry in found["annotations"]] == [1] * 13 + [3, 4]
    assert [entry["id"] for entry in found["annotations"]] == list(range(1, 16))
    assert found["annotations"][13]["num_keypoints"] == 0
    assert found["annotations"][14]["segmentation"] == []


def test_no_photo_at_all():
    found = official(AnnotationTable.from_photos([], DEEPFASHION2))
    assert found["images"] == found["annotations"] == [] and len(found["categories"]) == 13


def test_landmarks_stand_in_the_slots_of_their_class(annotations):
    start = 0
    for class_index, entry in enumerate(official(annotations)["annotations"][:13]):
        count = DEEPFASHION2.num_class_keypoints(class_index)
        keypoints = np.reshape(entry["keypoints"], (294, 3))
        (slots,) = keypoints.any(axis=1).nonzero()
        assert slots.tolist() == list(range(start, start + count))
        rows = slice(*annotations.keypoint_offsets[class_index : class_index + 2])
        np.testing.assert_array_equal(keypoints[slots], annotations.keypoints[rows])
        assert entry["num_keypoints"] == count
        start += count


def test_not_labelled_landmarks_keep_their_native_place(photos, make_garment):
    keypoints = np.float32([[5, 6, 0], [7, 8, 1], [9, 10, 2], *[[0, 0, 0]] * 5])
    photo = replace(photos[0], garments=[make_garment(8, keypoints=keypoints)])
    annotations = AnnotationTable.from_photos([photo], DEEPFASHION2)
    slots = slice(3 * DEEPFASHION2.slots[8][0], 3 * DEEPFASHION2.slots[8][0] + 9)
    for visible_only, expected in (
        (False, [5, 6, 0, 7, 8, 1, 9, 10, 2]),
        (True, [5, 6, 0, 0, 0, 0, 9, 10, 2]),
    ):
        (entry,) = official(annotations, visible_only=visible_only)["annotations"]
        assert entry["keypoints"][slots] == expected
        assert entry["num_keypoints"] == (1 if visible_only else 2)
    assert annotations.keypoints[1].tolist() == [7, 8, 1]


def test_numbers_are_short_and_exact(photos, make_garment):
    polygon = np.float32([[0.1, 1.0], [1e-8, 123.456], [1 / 3, 7.5]])
    garment = make_garment(8, polygons=[polygon], box=np.float32([1.5, 2, 11.75, 4]))
    annotations = AnnotationTable.from_photos([replace(photos[0], garments=[garment])], DEEPFASHION2)
    written = write(annotations)
    (entry,) = json.loads(written)["annotations"]
    assert b"[[0.1, 1, 1e-08, 123.456, 0.33333334, 7.5]]" in written
    np.testing.assert_array_equal(np.float32(entry["segmentation"][0]), polygon.ravel())
    assert entry["bbox"] == [1.5, 2, 10.25, 2] and entry["area"] == 20.5
    assert b"NaN" not in written and b".0," not in written


# --- what is wrong ---


def test_another_dataset():
    with pytest.raises(ValueError, match="expected annotations of deepfashion2, got fld"):
        write(AnnotationTable.from_photos([], FLD))
