"""Schemas as YAML: what is written is read as the same, and what is wrong is named."""

import copy
import dataclasses

import pytest
import yaml

from kgdet_d2.schema import (
    DEEPFASHION2,
    FLD,
    KeypointSchema,
    load_schema,
    schema_from_description,
    schema_to_yaml,
)
from kgdet_d2.schema.schema_file import DEFAULT_SIGMA

MINE = {
    "name": "mine",
    "sigma": 0.05,
    "classes": {
        "Shirt": {
            "landmarks": ["collar", "cuff_left", "cuff_right"],
            "skeleton": [["cuff_left", "collar", "cuff_right"]],
            "sigmas": {"collar": 0.02},
        },
        "Größe": {
            "landmarks": ["a", "b", "c"],
            "flip": [["a", "c"]],
            "kinds": {"b": "collar"},
        },
    },
}


def changed(path, value):
    """MINE with another value at a path of keys; None takes the key away."""
    content = copy.deepcopy(MINE)
    *way, last = path
    part = content
    for key in way:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return content


def test_all_fields_are_read():
    schema = schema_from_description(MINE)
    assert schema == KeypointSchema(
        name="mine",
        class_names=("Shirt", "Größe"),
        keypoint_names=(("collar", "cuff_left", "cuff_right"), ("a", "b", "c")),
        slots=((0, 1, 2), (3, 4, 5)),
        sigmas=(0.02, 0.05, 0.05, 0.05, 0.05, 0.05),
        skeleton=(((1, 0), (0, 2)), ()),
        flip_pairs=(((1, 2),), ((0, 2),)),
        kind_names=(("collar", "cuff_left", "cuff_right"), ("a", "collar", "c")),
    )
    assert schema.kinds.tolist() == [0, 1, 2, 3, 0, 4]
    assert schema.flip_map.tolist() == [0, 2, 1, 5, 4, 3]
    assert not schema.unpaired_classes


def test_what_may_be_left_out():
    schema = schema_from_description({"name": "bare", "classes": {"tie": {"landmarks": ["top", "bottom"]}}})
    assert schema.sigmas == (DEFAULT_SIGMA, DEFAULT_SIGMA)
    assert schema.skeleton == ((),)
    assert schema.unpaired_classes == {"tie": "no landmark is named left or right"}
    assert schema.local_flip(0).tolist() == [0, 1]


def test_flip_none_is_known():
    for path in (["flip"], ["classes", "Größe", "flip"]):
        schema = schema_from_description(changed(path, "none"))
        assert schema.flip_pairs[1] == (() if "Größe" in path else ((0, 2),))
        assert not schema.unpaired_classes


def test_one_side_without_the_other_is_not_known():
    schema = schema_from_description(MINE | {"classes": {"Shirt": {"landmarks": ["collar", "cuff_left"]}}})
    assert schema.unpaired_classes == {"Shirt": "no mirror image of 'cuff_left'"}
    assert "cuff_left" in schema_to_yaml(schema).splitlines()[0]


@pytest.mark.parametrize(
    "schema",
    [
        DEEPFASHION2,
        FLD,
        schema_from_description(MINE),
        schema_from_description(
            {"name": "1", "classes": {1: {"landmarks": [1, 2]}, "no": {"landmarks": ["on"]}}}
        ),
        dataclasses.replace(FLD, flip_pairs=((), (), ())),
    ],
    ids=lambda schema: schema.name,
)
def test_what_is_written_is_read_as_the_same(schema, tmp_path):
    file = tmp_path / "schema.yaml"
    file.write_text(schema_to_yaml(schema), encoding="utf-8")
    assert load_schema(file) == schema
    assert KeypointSchema.from_dict(schema.to_dict()) == schema


def test_dicts_without_the_later_fields_are_read():
    """Checkpoints of earlier versions have them."""
    earlier = {k: v for k, v in DEEPFASHION2.to_dict().items() if k not in ("flip_pairs", "kind_names")}
    assert KeypointSchema.from_dict(earlier) == DEEPFASHION2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["name"], None, "name is missing"),
        (["name"], True, "in quotes"),
        (["colour"], "red", "colour"),
        (["sigma"], 0, "class 'Shirt': sigma of 'cuff_left': expected a number above 0, got 0"),
        (["sigma"], float("nan"), "sigma of 'cuff_left': .* got nan"),
        (["classes"], {}, "classes: expected at least one"),
        (["classes"], ["Shirt"], "classes: expected names with values"),
        (["classes", "Shirt", "landmarks"], None, "class 'Shirt': landmarks is missing"),
        (["classes", "Shirt", "landmarks"], [], "class 'Shirt': landmarks: .* got none"),
        (["classes", "Shirt", "landmarks"], ["a", "b", "a"], r"class 'Shirt': landmarks: .* got \['a'\]"),
        (["classes", "Shirt", "landmarks"], "collar", "class 'Shirt': landmarks: expected a list"),
        (["classes", "Shirt", "landmarks"], ["a", False], "class 'Shirt': landmarks: .* got False"),
        (
            ["classes", "Shirt", "skeleton"],
            [["collar", "sleeve"]],
            r"class 'Shirt': skeleton: .*\['sleeve'\]",
        ),
        (["classes", "Shirt", "sigmas"], {"sleeve": 0.1}, r"class 'Shirt': sigmas: .* got \['sleeve'\]"),
        (["classes", "Shirt", "sigmas"], [0.1], "class 'Shirt': sigmas: expected 3 numbers, got 1"),
        (["classes", "Shirt", "sigmas"], {"collar": "x"}, "sigma of 'collar': .* got 'x'"),
        (["classes", "Shirt", "point"], 1, r"class 'Shirt': expected some of .* got \['point'\]"),
        (["classes", "Größe", "flip"], [["a", "d"]], r"class 'Größe': flip: .* got \['d'\]"),
        (["classes", "Größe", "flip"], [["a", "b", "c"]], "class 'Größe': flip: expected pairs"),
        (["classes", "Größe", "flip"], "no", "class 'Größe': flip: expected a list"),
        (
            ["classes", "Größe", "flip"],
            [["a", "b"], ["b", "c"]],
            "'Größe': more than one mirror image of 'b'",
        ),
        (["slots"], ["collar"], "slots: expected the name of every landmark once"),
    ],
)
def test_errors_name_class_and_landmark(path, value, message, tmp_path):
    file = tmp_path / "schema.yaml"
    file.write_text(
        yaml.safe_dump(changed(path, value), allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=message) as error:
        load_schema(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_classes_that_share_slots_agree_on_sigmas():
    classes = {name: {"landmarks": ["hem", "top"], "flip": "none"} for name in ("a", "b")}
    content = {"name": "shared", "slots": ["top", "hem"], "classes": classes}
    assert schema_from_description(content).slots == ((1, 0), (1, 0))
    classes["b"]["sigmas"] = {"hem": 0.1}
    with pytest.raises(ValueError, match=r"class 'b': sigma of 'hem': expected 0\.04.* got 0\.1"):
        schema_from_description(content)


@pytest.mark.parametrize("text", ["", "[1", "name: x\nclasses: 3", "- 1", "a: &a [*a]", "\x00"])
def test_what_is_no_schema(text, tmp_path):
    file = tmp_path / "schema.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"schema\.yaml: not a usable schema"):
        load_schema(file)
    with pytest.raises(FileNotFoundError):
        load_schema(tmp_path / "none.yaml")
