"""Schemas of COCO's categories, and the matching of categories and landmarks by name."""

import unicodedata

import pytest

from kgdet_d2.data.convert.coco import read_coco
from kgdet_d2.data.convert.coco_schema import check_same_classes, describe_schema, match_categories
from kgdet_d2.schema import schema_from_description
from tests.helpers.own_coco import LANDMARKS, SHIRT, SKIRT


def schema_of(file):
    return schema_from_description(describe_schema("mine", file))


def test_classes_have_their_landmarks_skeletons_and_pairs(coco):
    schema = schema_of(read_coco(coco.write()))
    assert schema.name == "mine" and schema.class_names == ("T-Shirt", "Skirt")
    assert schema.keypoint_names == (tuple(LANDMARKS[SHIRT]), tuple(LANDMARKS[SKIRT]))
    assert schema.skeleton == (((0, 1), (1, 3)), ())
    assert schema.flip_pairs == (((0, 1), (2, 3)), ((0, 1),))
    assert schema.num_keypoints == 7 and not schema.unpaired_classes


def test_one_set_of_landmarks_for_all_has_one_place_each(coco):
    for category in coco.content["categories"]:
        category["keypoints"] = LANDMARKS[SHIRT]
    schema = schema_of(read_coco(coco.write()))
    assert schema.class_names == ("clothes", "T-Shirt", "Skirt")
    assert schema.num_keypoints == 4 and schema.slots == 3 * ((0, 1, 2, 3),)


def test_landmarks_are_matched_by_name_in_any_order_and_form(coco):
    coco.content["categories"][2] |= {"name": "Röcke", "keypoints": ["bänder_left", "bänder_right", "saum"]}
    schema = schema_of(read_coco(coco.write()))
    coco.content["categories"] = [
        {"id": 1, "name": unicodedata.normalize("NFD", "Röcke")},
        {"id": 2, "name": "T-Shirt", "keypoints": LANDMARKS[SHIRT][::-1]},
    ]
    coco.content["categories"][0]["keypoints"] = [
        unicodedata.normalize("NFD", name) for name in ("saum", "bänder_left", "bänder_right")
    ]
    for entry in coco.annotations:
        entry["category_id"] = 2 if entry["category_id"] == SHIRT else 1
    matched = match_categories(schema, "train.json", read_coco(coco.write("val.json")))
    assert {key: (each.index, each.order) for key, each in matched.items()} == {
        1: (1, (1, 2, 0)),
        2: (0, (3, 2, 1, 0)),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "Hat"},
            "val.json: category 'Hat': expected one of train.json, which are 'T-Shirt', 'Skirt'",
        ),
        (
            {"keypoints": ["left_collar", "right_collar", "left_hem", "rigth_hem"]},
            "val.json: category 'T-Shirt': expected the landmarks of train.json, got 'right_hem' missing; "
            "'rigth_hem' not among those",
        ),
        ({"keypoints": LANDMARKS[SHIRT][:3]}, "category 'T-Shirt': .* got 'right_hem' missing$"),
        ({"keypoints": [*LANDMARKS[SHIRT], "x"]}, "category 'T-Shirt': .* got 'x' not among those$"),
    ],
)
def test_contradictions_name_category_and_both_files(coco, changes, message):
    schema = schema_of(read_coco(coco.write()))
    coco.content["categories"][1] |= changes
    with pytest.raises(ValueError, match=message):
        match_categories(schema, "train.json", read_coco(coco.write("val.json")))


def test_a_further_category_without_annotations_is_left_out(coco):
    schema = schema_of(read_coco(coco.write()))
    coco.content["categories"].append({"id": 9, "name": "Hat", "keypoints": ["brim"]})
    assert list(match_categories(schema, "train.json", read_coco(coco.write()))) == [SHIRT, SKIRT]


def test_a_category_with_annotations_needs_names(coco):
    coco.content["categories"][2]["keypoints"] = []
    with pytest.raises(
        ValueError, match=r"train.json: category 'Skirt': expected the names of its keypoints"
    ):
        describe_schema("mine", read_coco(coco.write()))


def test_no_category_is_an_error(coco):
    coco.content |= {"annotations": [], "categories": []}
    with pytest.raises(ValueError, match=r"train.json: expected categories with the names .*, got none"):
        describe_schema("mine", read_coco(coco.write()))


def test_classes_beside_the_categories(coco):
    file = read_coco(coco.write())
    schema = schema_of(file)
    check_same_classes(schema, "schema.yaml", file)
    del file.categories[SKIRT]
    with pytest.raises(ValueError, match=r"expected the categories of schema.yaml, 'Skirt' among them"):
        check_same_classes(schema, "schema.yaml", file)
