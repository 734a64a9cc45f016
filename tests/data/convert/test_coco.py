"""COCO files: what is read in which forms, and the errors of those that are none."""

import json

import pytest

from kgdet_d2.data.convert.coco import read_coco
from tests.helpers.own_coco import LANDMARKS, SHIRT, SKIRT


def test_images_have_their_annotations_and_categories_their_landmarks(coco):
    file = read_coco(coco.write())
    assert [(image.image_id, len(image.annotations)) for image in file.images] == [(3, 3), (40, 2), (500, 0)]
    assert list(file.categories) == [SHIRT, SKIRT]
    shirt = file.categories[SHIRT]
    assert shirt.landmarks == tuple(LANDMARKS[SHIRT]) and shirt.skeleton == ((0, 1), (1, 3))
    assert file.problems == []


@pytest.mark.parametrize(
    ("encoding", "newline"), [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-32-be", "\n")]
)
def test_byte_order_marks_and_ends_of_lines(coco, encoding, newline):
    coco.images[0]["file_name"] = "Größe.jpg"
    path = coco.write()
    text = json.dumps(coco.content, indent=1, ensure_ascii=False).replace("\n", newline)
    path.write_bytes(text.encode(encoding))
    assert read_coco(path).images[0].content["file_name"] == "Größe.jpg"


@pytest.mark.parametrize("form", [str, float, lambda number: f"{number}.0", lambda number: f" {number}"])
def test_ids_in_every_writing(coco, form):
    plain = read_coco(coco.write())
    for entry in (*coco.images, *coco.annotations, *coco.content["categories"]):
        for name in entry.keys() & {"id", "image_id", "category_id"}:
            entry[name] = form(entry[name])
    file = read_coco(coco.write())
    assert file.categories == plain.categories and file.problems == []
    for image, expected in zip(file.images, plain.images, strict=True):
        assert image.image_id == expected.image_id
        assert [item for item, _ in image.annotations] == [item for item, _ in expected.annotations]


@pytest.mark.parametrize("key", ["5f2c-a, b", 2**70])
def test_photos_are_numbered_where_ids_are_no_numbers_of_64_bits(coco, key):
    coco.images[1]["id"] = key
    for entry in coco.annotations[3:]:
        entry["image_id"] = key
    file = read_coco(coco.write())
    assert [(image.image_id, len(image.annotations)) for image in file.images] == [(1, 3), (2, 2), (3, 0)]
    assert file.images[1].item == f"image {key}"


@pytest.mark.parametrize(
    ("skeleton", "expected", "problems"),
    [
        ([[1, 2], ["3", 4.0]], ((0, 1), (2, 3)), 0),
        ([[0, 1], [2, 3]], ((0, 1), (2, 3)), 0),  # from 0
        ([[1, 2], [4, 5]], ((0, 1),), 1),
        ([[0, 1], [2, 4]], ((0, 1),), 1),
        ([[1, 1], [1], "a", None, [1, 2, 3], [True, 2]], (), 6),
        (None, (), 0),
        ("a", (), 1),
    ],
)
def test_skeletons_count_from_1_or_0(coco, skeleton, expected, problems):
    coco.content["categories"][1]["skeleton"] = skeleton
    file = read_coco(coco.write())
    assert file.categories[SHIRT].skeleton == expected
    assert [(issue.item, issue.kind) for issue in file.problems] == problems * [
        ("category T-Shirt", "skeleton")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON: Expecting value"),
        ("[" * 100_000, "expected JSON: .*recursion"),
        ('{"a":' * 100_000, "expected JSON: .*recursion"),
        (b'{"a": "\xe4"}', "expected JSON: 'utf-8' codec can't decode"),
        ('[{"image_id": 1}]', r"expected COCO's object with images, annotations, categories, got \[\{"),
        ('{"images": [], "categories": []}', "expected a list 'annotations' in COCO's object, got none"),
        ('{"images": {}, "annotations": [], "categories": []}', r"expected a list 'images'.* got \{\}"),
        ('{"images": [], "images": [1]}', "expected JSON: a name occurs twice among"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "train.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"train.json: {message}"):
        read_coco(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, r"categories\[1\]: id: expected a whole number, got None"),
        ({"name": ""}, r"categories\[1\]: name: expected a text, got ''"),
        ({"name": "\ud800"}, r"categories\[1\]: name: expected a text, got '.ud800'"),
        ({"name": "Skirt"}, "category 'Skirt': expected an id and a name of its own"),
        ({"id": SKIRT}, "category 'Skirt': expected an id and a name of its own, got those of 'T-Shirt'"),
        ({"keypoints": "abcd"}, "category 'T-Shirt': keypoints: expected a list of names, got 'abcd'"),
        ({"keypoints": ["a", None]}, "category 'T-Shirt': keypoints: expected a text, got None"),
        (
            {"keypoints": ["a", "b", "a"]},
            "category 'T-Shirt': keypoints: expected each name once, got 'a' again",
        ),
    ],
)
def test_categories_that_are_none(coco, changes, message):
    coco.content["categories"][1] |= changes
    with pytest.raises(ValueError, match=f"train.json: {message}"):
        read_coco(coco.write())


def test_a_category_that_is_no_object(coco):
    coco.content["categories"].append("Hat")
    with pytest.raises(ValueError, match=r"categories\[3\]: expected a JSON object, got 'Hat'"):
        read_coco(coco.write())
