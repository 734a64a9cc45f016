"""DeepFashion2's native folders: what is read, and every problem that is reported."""

import json
from pathlib import Path

import numpy as np
import pytest

from kgdet_d2.data.convert.coco_export import CATEGORY_NAMES
from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.data.convert.records import REGION
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.data.loaders import ImagePairs
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

GRADES = "scale occlusion zoom_in viewpoint".split()


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"landmarks": ...}, "field missing", "landmarks is missing"),
        ({"landmarks": None}, "wrong type", "landmarks: expected list, got None"),
        ({"landmarks": [1.0, 2.0, "0"] * 8}, "wrong type", "landmarks: expected a list of numbers"),
        ({"landmarks": [1.0, 2.0, 0.0] * 9}, "landmark count", "landmarks: expected 24 numbers, x y v of 8"),
        ({"landmarks": [1.0] * 25}, "landmark count", "landmarks: expected x, y and v of each landmark"),
        (
            {"landmarks": [1.0, 2.0, 3.0] * 8},
            "visibility",
            "landmarks: expected visibility 0, 1 or 2, got 3.0",
        ),
        ({"landmarks": [float("nan")] * 24}, "number not finite or too large", "landmarks: expected finite"),
    ],
)
def test_a_garment_without_usable_landmarks_becomes_a_region(native_tree, edit, fields, kind, reason):
    edit("item1", **fields)
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.garment_offsets).tolist() == [2, 2, 2]
    assert annotations.iscrowd.tolist() == [False, False, True, False, False, False]
    assert annotations.garment_attributes["item"].tolist() == [1, 2, 0, 2, 1, 2]
    assert annotations.box[2].tolist() == [10, 8, 50, 40] and annotations.category_id[2] == 8
    assert not annotations.keypoints[slice(*annotations.keypoint_offsets[2:4])].any()
    assert np.diff(annotations.polygon_offsets).tolist() == [2, 2, 0, 2, 2, 2]
    assert (problem.path.name, problem.item) == ("000002.json", "item1")
    assert (problem.dropped, problem.kind) == (REGION, kind) and problem.reason.startswith(reason)
    with pytest.raises(ValueError) as error:
        read_split(native_tree / "validation", strict=True)
    assert str(error.value) == str(problem)


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        *[({name: ...}, "field missing", f"{name} is missing") for name in ("category_id", "bounding_box")],
        ({"category_id": "skirt"}, "wrong type", "category_id: expected a whole number, got 'skirt'"),
        ({"category_id": True}, "wrong type", "category_id: expected a whole number, got True"),
        ({"category_id": 0}, "class", "category_id: expected 1..13, got 0"),
        ({"category_id": 14}, "class", "category_id: expected 1..13, got 14"),
        (
            {"category_name": "sling"},
            "class",
            "category_name: expected 'skirt' for category_id 9, got 'sling'",
        ),
        ({"category_name": "rock"}, "class", "category_name: expected 'skirt' for category_id 9, got 'rock'"),
        ({"category_name": 9}, "wrong type", "category_name: expected str, got 9"),
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
    ],
)
def test_a_garment_without_class_or_box_leaves_its_photo_out(native_tree, edit, fields, kind, reason):
    edit("item1", **fields)
    annotations, (problem,) = read_split(native_tree / "validation")
    assert annotations.image_id.tolist() == [1, 10] and not annotations.iscrowd.any()
    assert (problem.path.name, problem.item) == ("000002.json", "item1")
    assert (problem.dropped, problem.kind) == ("photo", kind) and problem.reason.startswith(reason)
    with pytest.raises(ValueError) as error:
        read_split(native_tree / "validation", strict=True)
    assert str(error.value) == str(problem)


@pytest.mark.parametrize(
    ("item", "value", "reason"),
    [
        ("item1", [], "expected a JSON object, got []"),
        ("itemA", {}, "category_id is missing"),
    ],
)
def test_an_item_that_is_none_leaves_its_photo_out(native_tree, edit, item, value, reason):
    edit(**{item: value})
    annotations, (problem,) = read_split(native_tree / "validation")
    assert annotations.image_id.tolist() == [1, 10]
    assert (problem.item, problem.dropped, problem.reason) == (item, "photo", reason)


@pytest.mark.parametrize("item", ["itemA", "Item3", "garment"])
def test_an_item_without_a_number_becomes_a_region(native_tree, native_item, edit, item):
    edit(**{item: native_item})
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.garment_offsets).tolist() == [2, 3, 2] and annotations.iscrowd.sum() == 1
    assert (problem.item, problem.dropped) == (item, REGION)
    assert problem.reason == f"item's name: expected item<number>, got {item!r}"


def test_what_is_no_item_costs_nothing(native_tree, edit):
    edit(licence="none")
    annotations, (problem,) = read_split(native_tree / "validation")
    assert annotations.num_garments == 6 and (problem.item, problem.dropped) == ("licence", "nothing")


POLYGONS = [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], 5, [1, 2, 3, 4, 5, "6"], [1, 2, 3, 4, 5, 1e39]]


@pytest.mark.parametrize("polygon", POLYGONS, ids=str)
def test_a_polygon_that_is_none_is_dropped_alone(native_tree, native_item, edit, polygon):
    edit("item1", segmentation=[polygon, *native_item["segmentation"]])
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.polygon_offsets).tolist() == [2] * 6
    assert (problem.item, problem.dropped) == ("item1", "polygon")
    assert problem.reason.startswith(("segmentation[0]: expected", "segmentation: polygon 1: expected"))


def test_polygons_that_are_no_list(native_tree, edit):
    edit("item1", segmentation={"counts": "04"})
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.polygon_offsets).tolist() == [2, 2, 0, 2, 2, 2]
    assert not annotations.iscrowd.any()
    assert (problem.dropped, problem.reason[:37]) == ("polygon", "segmentation: expected a list of poly")


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
    assert problem.reason.startswith("landmarks: landmark 3: expected at most 6.4 pixels outside the photo")


def test_attributes_that_are_wrong_are_unknown(native_tree, edit):
    edit("item1", style=float("nan"))
    edit("item2", style=2**70)
    edit(source=3, pair_id="a")
    annotations, problems = read_split(native_tree / "validation")
    assert annotations.garment_attributes["style"].tolist() == [1, 0, 0, 0, 1, 0]
    assert annotations.photo_attributes["source"].tolist() == ["shop", "", "shop"]
    assert annotations.photo_attributes["pair_id"].tolist() == [5, 0, 5]
    assert [(problem.item, problem.dropped, problem.reason) for problem in problems] == [
        ("", "attribute", "source: expected str, got 3"),
        ("", "attribute", "pair_id: expected a whole number, got 'a'"),
        ("item1", "attribute", "style: expected a whole number, got nan"),
        ("item2", "attribute", "style: expected 64 bits, got 1180591620717411303424"),
    ]


OPTIONAL = ["style", *GRADES, "segmentation", "category_name"]


def test_nothing_is_said_of_what_all_lack(native_tree, native_item):
    """Neither is there a column of it."""
    for path in (native_tree / "validation/annos").iterdir():
        path.write_text(json.dumps({"item1": {k: v for k, v in native_item.items() if k not in OPTIONAL}}))
    annotations, problems = read_split(native_tree / "validation", strict=True)
    assert problems == [] and annotations.photo_attributes == {}
    assert annotations.garment_attributes.keys() == {"item"} and len(annotations.vertices) == 0
    assert annotations.keypoints.reshape(3, -1).tolist() == [native_item["landmarks"]] * 3
    with pytest.raises(ValueError, match="source, pair_id, style lacking"):
        ImagePairs(FashionDataset(annotations, "mine"))


def test_what_some_lack_is_said_once(native_tree, edit):
    edit("item1", **dict.fromkeys(OPTIONAL, ...))
    edit("item2", style=None)
    edit(source=...)
    annotations, problems = read_split(native_tree / "validation", strict=True)
    assert {problem.reason for problem in problems} == {
        "source is missing in 1 of 3 photos",
        "style is missing in 2 of 6 garments",
        *(f"{name} is missing in 1 of 6 garments" for name in GRADES),
    }
    assert {(problem.path, problem.dropped) for problem in problems} == {
        (native_tree / "validation", "attribute")
    }
    assert annotations.photo_attributes["source"].tolist() == ["shop", "", "shop"]
    assert annotations.garment_attributes["style"].tolist() == [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("form", [float, str, lambda number: f" {number}.0"], ids=["float", "str", "padded"])
def test_whole_numbers_in_other_forms(native_tree, native_item, edit, form):
    expected, _ = read_split(native_tree / "validation")
    for item in ("item1", "item2"):
        names = ("category_id", *GRADES)
        edit(item, **{name: form(native_item[name]) for name in names})
    edit(pair_id=form(5))
    annotations, problems = read_split(native_tree / "validation", strict=True)
    assert problems == []
    assert list(map(str, FashionDataset(annotations, ""))) == list(map(str, FashionDataset(expected, "")))


@pytest.mark.parametrize("index", range(13))
def test_names_of_the_usual_converter(native_tree, native_item, edit, index):
    count = DEEPFASHION2.num_class_keypoints(index)
    own = DEEPFASHION2.class_names[index]
    for name in (own, CATEGORY_NAMES[index], own.replace(" ", "_"), CATEGORY_NAMES[index].title()):
        edit("item1", category_id=index + 1, category_name=name, landmarks=[20.0, 20.0, 2.0] * count)
        annotations, problems = read_split(native_tree / "validation")
        assert problems == [] and annotations.category_id.tolist() == [8, 8, index, 8, 8, 8]


def test_a_class_that_is_lost_is_an_error(native_tree, native_item):
    for path in (native_tree / "validation/annos").iterdir():
        vest = native_item | {"category_id": 5, "category_name": "vest", "landmarks": [1, 2, 3] * 9}
        path.write_text(json.dumps({"item1": native_item, "item2": vest}))
    with pytest.raises(ValueError) as error:
        read_split(native_tree / "validation")
    assert str(error.value).startswith(
        f"{native_tree}/validation: class 'vest': 3 of 3 garments cannot be used, 3 of them because of "
        "'landmark count'; the first is"
    )


def test_a_byte_order_mark_and_lines_of_windows(native_tree):
    path = native_tree / "validation/annos/000002.json"
    text = json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    annotations, problems = read_split(native_tree / "validation")
    assert problems == [] and annotations.num_garments == 6


@pytest.mark.parametrize("name", GRADES)
@pytest.mark.parametrize("value", [0, 4, -1, "4", 1.5, True, float("nan"), 2**70], ids=str)
def test_a_grade_that_is_none_is_unknown(native_tree, native_item, edit, name, value):
    edit("item1", **{name: value})
    annotations, (problem,) = read_split(native_tree / "validation")
    native = native_item[name]
    assert annotations.garment_attributes[name].tolist() == [native, native, 0, native, native, native]
    assert (problem.item, problem.dropped) == ("item1", "attribute") and problem.reason.startswith(name)


def test_every_problem_of_a_garment_is_listed(native_tree, edit):
    edit("item1", landmarks=[500.0, 0, 1] * 8, scale=9, viewpoint="side", segmentation=[[], [1]])
    annotations, problems = read_split(native_tree / "validation")
    assert len(annotations.category_id) == 6
    assert [problem.dropped for problem in problems] == [
        *["attribute"] * 2,
        "polygon",  # an odd number of coordinates
        *["landmark"] * 8,
        "polygon",
    ]


@pytest.mark.parametrize(
    ("file", "content", "kind", "reason"),
    [
        ("annos/000002.json", b"", "unreadable JSON", "Expecting value"),
        ("annos/000002.json", b'{"source": "user", ', "unreadable JSON", "Expecting property name"),
        ("annos/000002.json", b"\xff\xfe\xff", "unreadable JSON", "codec can't decode"),
        ("annos/000002.json", b"[" * 100_000, "unreadable JSON", "recursion"),
        ("annos/000002.json", b"[1, 2]", "wrong type", "expected a JSON object, got [1, 2]"),
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


def test_photos_are_numbered_where_a_name_is_no_number(native_tree):
    (native_tree / "validation/annos/000002.json").rename(native_tree / "validation/annos/two.json")
    (native_tree / "validation/image/000002.jpg").rename(native_tree / "validation/image/two.jpg")
    annotations, (note,) = read_split(native_tree / "validation", strict=True)
    assert annotations.file_name.tolist() == ["000001.jpg", "000010.jpg", "two.jpg"]
    assert annotations.image_id.tolist() == [1, 2, 3]
    assert (note.path.name, note.dropped) == ("annos", "nothing")
    assert note.reason == ("image ids are the places in the order of names, from 1, since 'two.json' is none")


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
