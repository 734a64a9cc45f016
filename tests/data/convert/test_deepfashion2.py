"""DeepFashion2's native folders: what is read, and every problem that is reported."""

import json
from pathlib import Path

import numpy as np
import pytest

from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.schema import DEEPFASHION2

SAMPLE = Path(__file__).parents[4] / "shared" / "deepfashion2_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the DeepFashion2 sample is absent")


# --- what is right ---


@needs_sample
def test_the_sample_agrees_with_the_usual_conversion():
    """Garment by garment, exactly, with what the dataset's usual converter made of the same photos."""
    annotations, problems = read_split(SAMPLE / "validation")
    assert problems == []
    official = json.loads((SAMPLE / "official_coco_style.json").read_text())
    records = {Path(record["file_name"]).name: record for record in FashionDataset(annotations, "")}
    assert len(records) == len(official["images"]) == 24
    compared = 0
    for image in official["images"]:
        record = records[image["file_name"]]
        assert (record["image_id"], record["width"], record["height"]) == (
            image["id"],
            image["width"],
            image["height"],
        )
        expected = [entry for entry in official["annotations"] if entry["image_id"] == image["id"]]
        for annotation, entry in zip(record["annotations"], expected, strict=True):
            x1, y1, x2, y2 = annotation["bbox"]
            keypoints = annotation["keypoints"].reshape(-1, 3)
            assert annotation["category_id"] == entry["category_id"] - 1
            assert [x1, y1, x2 - x1, y2 - y1] == entry["bbox"] and (x2 - x1) * (y2 - y1) == entry["area"]
            assert (keypoints[:, 2] > 0).sum() == entry["num_keypoints"]
            slots = DEEPFASHION2.scatter(keypoints, annotation["category_id"])
            assert slots.ravel().tolist() == entry["keypoints"]
            assert record["pair_id"] == entry["pair_id"] and annotation["style"] == entry["style"]
            for polygon, numbers in zip(annotation["segmentation"], entry["segmentation"], strict=True):
                np.testing.assert_array_equal(polygon, np.float32(numbers))
            compared += 1
    assert compared == 42


def test_every_native_value_is_kept(native_tree, native_item):
    annotations, problems = read_split(native_tree / "validation")
    assert problems == []
    assert annotations.file_name.tolist() == ["000001.jpg", "000002.jpg", "000010.jpg"]
    assert annotations.image_id.tolist() == [1, 2, 10]
    assert set(annotations.photo_attributes["source"]) == {"shop"} and set(
        annotations.photo_attributes["pair_id"]
    ) == {5}
    assert set(annotations.width) == {64} and set(annotations.height) == {48}
    assert (
        annotations.garment_attributes["item"].tolist() == [1, 2] * 3
        and annotations.garment_attributes["style"].tolist() == [1, 0] * 3
    )
    for name in ("scale", "occlusion", "zoom_in", "viewpoint"):
        assert set(annotations.garment_attributes[name]) == {native_item[name]}
    for annotation in FashionDataset(annotations, "")[1]["annotations"]:
        assert annotation["category_id"] == 8
        assert annotation["bbox"] == native_item["bounding_box"]
        assert annotation["keypoints"].tolist() == native_item["landmarks"]
        assert [polygon.tolist() for polygon in annotation["segmentation"]] == native_item["segmentation"]


def test_items_come_in_the_order_of_their_numbers(native_tree, native_item, edit):
    edit(item10=native_item, item3=native_item)
    annotations, _ = read_split(native_tree / "validation")
    assert annotations.garment_attributes["item"].tolist() == [1, 2, 1, 2, 3, 10, 1, 2]


def test_a_photo_without_garments_is_kept(native_tree, edit):
    edit(item1=..., item2=...)
    annotations, problems = read_split(native_tree / "validation")
    assert problems == [] and np.diff(annotations.garment_offsets).tolist() == [2, 0, 2]


def test_more_workers_read_the_same(native_tree, edit):
    edit("item1", style=...)
    one, problems = read_split(native_tree / "validation")
    two, same_problems = read_split(native_tree / "validation", workers=2)
    assert problems == same_problems and len(problems) == 1
    assert list(map(str, FashionDataset(one, ""))) == list(map(str, FashionDataset(two, "")))


# --- what is wrong ---

REQUIRED = "category_id category_name style bounding_box landmarks segmentation".split()
GRADES = "scale occlusion zoom_in viewpoint".split()


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        *[({name: ...}, "field missing", f"{name} is missing") for name in REQUIRED],
        ({"category_id": "1"}, "wrong type", "category_id: expected int, got '1'"),
        ({"category_id": True}, "wrong type", "category_id: expected int, got True"),
        ({"style": float("nan")}, "wrong type", "style: expected int, got nan"),
        ({"style": 2**70}, "number too large", "style: expected 64 bits"),
        ({"category_id": 0}, "class", "category_id: expected 1..13, got 0"),
        ({"category_id": 14}, "class", "category_id: expected 1..13, got 14"),
        (
            {"category_name": "sling"},
            "class",
            "category_name: expected 'skirt' for category_id 9, got 'sling'",
        ),
        ({"landmarks": [1.0, 2.0, 0.0] * 9}, "landmark count", "landmarks: expected 24 numbers, got 27"),
        (
            {"landmarks": [1.0, 2.0, 3.0] * 8},
            "visibility",
            "landmarks: expected visibility 0, 1 or 2, got 3.0",
        ),
        ({"landmarks": [float("nan")] * 24}, "number not finite or too large", "landmarks: expected finite"),
        ({"bounding_box": [1, 2, 3]}, "wrong length", "bounding_box: expected 4 numbers, got 3"),
        ({"bounding_box": [1, 2, 3, None]}, "wrong type", "bounding_box: expected a list of numbers"),
        (
            {"bounding_box": [1, 2, 3, float("inf")]},
            "number not finite or too large",
            "bounding_box: expected finite",
        ),
        ({"bounding_box": [1, 2, 1, 9]}, "box without area", "bounding_box: expected x1 < x2 and y1 < y2"),
        (
            {"bounding_box": [64, 2, 90, 9]},
            "box outside the photo",
            "bounding_box: expected a part in the photo",
        ),
        ({"segmentation": None}, "wrong type", "segmentation: expected list, got None"),
    ],
)
def test_a_garment_that_cannot_be_used_is_left_out_alone(native_tree, edit, fields, kind, reason):
    edit("item1", **fields)
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.garment_offsets).tolist() == [2, 1, 2]
    assert annotations.garment_attributes["item"].tolist() == [1, 2, 2, 1, 2]
    assert (problem.path.name, problem.item) == ("000002.json", "item1")
    assert (problem.dropped, problem.kind) == ("garment", kind) and problem.reason.startswith(reason)
    with pytest.raises(ValueError) as error:
        read_split(native_tree / "validation", strict=True)
    assert str(error.value) == str(problem)


@pytest.mark.parametrize(
    ("item", "value", "reason"),
    [
        ("item1", [], "expected a JSON object, got []"),
        ("itemA", {}, "item's name: expected item(\\d{1,18}), got 'itemA'"),
        ("Item3", {}, "item's name: expected item(\\d{1,18}), got 'Item3'"),
    ],
)
def test_an_item_that_is_none(native_tree, edit, item, value, reason):
    edit(**{item: value})
    _, (problem,) = read_split(native_tree / "validation")
    assert (problem.item, problem.dropped, problem.reason) == (item, "garment", reason)


@pytest.mark.parametrize("polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], 5, [1, 2, 3, 4, 5, "6"]])
def test_a_polygon_that_is_none_is_dropped_alone(native_tree, native_item, edit, polygon):
    edit("item1", segmentation=[polygon, *native_item["segmentation"]])
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.polygon_offsets).tolist() == [2] * 6
    assert (problem.item, problem.dropped) == ("item1", "polygon")
    assert problem.reason.startswith("segmentation[0]: expected")


def test_without_segmentation_polygons_are_not_looked_at(native_tree, edit):
    edit("item1", segmentation=[[1, 2]])
    edit("item2", segmentation=...)
    annotations, problems = read_split(native_tree / "validation", segmentation=False)
    assert problems == [] and len(annotations.category_id) == 6 and len(annotations.vertices) == 0


def test_a_landmark_far_outside_is_dropped_alone(native_tree, native_item, edit):
    keypoints = list(native_item["landmarks"])
    keypoints[3:9] = 70.3, 20.0, 2.0, 70.5, 20.0, 1.0  # the photo is 64 x 48
    edit("item2", landmarks=keypoints)
    annotations, (problem,) = read_split(native_tree / "validation")
    keypoints[6:9] = 0, 0, 0
    assert annotations.keypoints.reshape(6, -1)[3].tolist() == np.float32(keypoints).tolist()
    assert (problem.item, problem.dropped, problem.kind) == (
        "item2",
        "landmark",
        "landmark far outside the photo",
    )
    assert problem.reason.startswith("landmark 3: expected at most 6.4 pixels outside the photo of 64 x 48")


@pytest.mark.parametrize("name", GRADES)
@pytest.mark.parametrize("value", [0, 4, -1, "2", None, 1.0, True, float("nan"), 2**70, ...], ids=str)
def test_a_grade_that_is_none_is_unknown(native_tree, native_item, edit, name, value):
    edit("item1", **{name: value})
    annotations, (problem,) = read_split(native_tree / "validation")
    native = native_item[name]
    assert annotations.garment_attributes[name].tolist() == [native, native, 0, native, native, native]
    assert (problem.item, problem.dropped) == ("item1", "attribute") and problem.reason.startswith(name)


def test_every_problem_of_a_garment_is_listed(native_tree, edit):
    edit("item1", landmarks=[500.0, 0, 1] * 8, scale=9, viewpoint=..., segmentation=[[], [1]])
    annotations, problems = read_split(native_tree / "validation")
    assert len(annotations.category_id) == 6
    assert [problem.dropped for problem in problems] == ["landmark"] * 8 + ["attribute"] * 2 + ["polygon"] * 2


@pytest.mark.parametrize(
    ("file", "content", "kind", "reason"),
    [
        ("annos/000002.json", b"", "unreadable JSON", "Expecting value"),
        ("annos/000002.json", b'{"source": "user", ', "unreadable JSON", "Expecting property name"),
        ("annos/000002.json", b"\xff\xfe\xff", "unreadable JSON", "codec can't decode"),
        ("annos/000002.json", b"[" * 100_000, "unreadable JSON", "recursion"),
        ("annos/000002.json", b"[1, 2]", "wrong type", "expected a JSON object, got [1, 2]"),
        ("annos/000002.json", b'{"pair_id": 1}', "field missing", "source is missing"),
        ("annos/000002.json", b'{"source": "user"}', "field missing", "pair_id is missing"),
        ("annos/000002.json", b'{"source": 3, "pair_id": 1}', "wrong type", "source: expected str, got 3"),
        ("annos/000002.json", b'{"item1": {}, "item1": {}}', "field occurs twice", "['item1', 'item1']"),
        ("annos/000002.json", b'{"item1": {"style": 1, "style": 1}}', "field occurs twice", "'style'"),
        ("image/000002.jpg", None, "image missing", "there is no such photo"),
        ("image/000002.jpg", b"", "not an image", "cannot identify image file"),
        ("image/000002.jpg", b"not a photo", "not an image", "cannot identify image file"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_its_photo_out(native_tree, file, content, kind, reason):
    path = native_tree / "validation" / file
    path.unlink() if content is None else path.write_bytes(content)
    check_photo_2_is_left_out(native_tree, kind, reason)


def test_a_photo_that_is_cut_off_is_left_out(native_tree):
    path = native_tree / "validation/image/000002.jpg"
    path.write_bytes(path.read_bytes()[:-5])
    check_photo_2_is_left_out(native_tree, "image truncated", "the JPEG end marker is missing")


def check_photo_2_is_left_out(native_tree, kind, reason):
    annotations, (problem,) = read_split(native_tree / "validation")
    assert annotations.image_id.tolist() == [1, 10] and len(annotations.category_id) == 4
    assert (problem.path.name, problem.item) == ("000002.json", "")
    assert (problem.dropped, problem.kind) == ("photo", kind) and reason in problem.reason
    with pytest.raises(ValueError, match=r"000002\.json"):
        read_split(native_tree / "validation", strict=True)


def test_a_file_name_that_is_no_number(native_tree):
    (native_tree / "validation/annos/000002.json").rename(native_tree / "validation/annos/two.json")
    annotations, (alone, name) = read_split(native_tree / "validation")
    assert len(annotations) == 2 and str(name).endswith(
        "two.json: file name: expected (\\d{1,18}), got 'two'"
    )
    assert (alone.path.name, alone.kind) == ("000002.jpg", "photo without annotation")


def test_photos_without_annotation_are_listed(native_tree):
    (native_tree / "validation/annos/000002.json").unlink()
    (native_tree / "validation/image/notes.txt").touch()
    annotations, problems = read_split(native_tree / "validation")
    assert annotations.image_id.tolist() == [1, 10]
    assert [problem.path.name for problem in problems] == ["000002.jpg", "notes.txt"]
    assert {(problem.dropped, problem.kind) for problem in problems} == {
        ("photo", "photo without annotation")
    }
    with pytest.raises(ValueError, match=r"000002\.jpg: there is no annotation of it"):
        read_split(native_tree / "validation", strict=True)


def test_a_number_that_occurs_twice_is_taken_once(native_tree):
    folder = native_tree / "validation"
    for part, ending in (("annos", "json"), ("image", "jpg")):
        content = (folder / part / f"000002.{ending}").read_bytes()
        (folder / part / f"02.{ending}").write_bytes(content)
    annotations, (problem,) = read_split(folder)
    assert annotations.file_name.tolist() == ["000001.jpg", "000002.jpg", "000010.jpg"]
    assert (problem.path.name, problem.kind) == ("02.json", "image id occurs twice")
    assert problem.reason == "000002.json has the same number"
