"""AnnotationTable from dataset dicts, and what evaluation reads of it."""

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from kgdet_d2.data import FashionDataset
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable

SKIRT, SHORTS = (DEEPFASHION2.class_names.index(name) for name in ("skirt", "shorts"))


@pytest.fixture
def scene(make_scene):
    return make_scene(np.random.default_rng(0), images=12, crowds=0.3)


def photo(image_id, annotations, **attributes):
    size = {"width": 320, "height": 240}
    return {"file_name": "a.jpg", "image_id": image_id, **size, "annotations": annotations, **attributes}


def test_columns_hold_what_the_dicts_say(scene):
    truth = AnnotationTable.from_dataset_dicts(iter(scene.records), DEEPFASHION2)
    assert len(truth) == len(scene.records)
    for index, record in enumerate(scene.records):
        assert truth.image_id[index] == record["image_id"]
        assert (truth.width[index], truth.height[index]) == (record["width"], record["height"])
        start, end = truth.garment_offsets[index : index + 2]
        assert end - start == len(record["annotations"])
        for garment, annotation in enumerate(record["annotations"], start):
            assert truth.garment_image[garment] == index
            assert truth.category_id[garment] == annotation["category_id"]
            assert truth.box[garment].tolist() == annotation["bbox"]
            x1, y1, x2, y2 = annotation["bbox"]
            assert truth.area[garment] == (x2 - x1) * (y2 - y1)
            assert truth.iscrowd[garment] == annotation["iscrowd"]
            first, last = truth.keypoint_offsets[garment : garment + 2]
            assert np.array_equal(truth.keypoints[first:last].ravel(), annotation["keypoints"])
    assert truth.photo_attributes == truth.garment_attributes == {}


def test_dicts_of_a_dataset_give_its_columns_again(annotations):
    """Whose own columns are then what evaluation reads, so these must be the same."""
    again = AnnotationTable.from_dataset_dicts(FashionDataset(annotations, "some/image"), DEEPFASHION2)
    assert again.file_name.tolist() == [f"some/image/{name}" for name in annotations.file_name]
    for field in fields(AnnotationTable):
        found, expected = getattr(again, field.name), getattr(annotations, field.name)
        if field.name.endswith("attributes"):
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
        elif field.name not in ("schema", "file_name"):
            assert found.dtype == expected.dtype and np.array_equal(found, expected), field.name
    assert len(again.vertices) > 0


def test_float64_views_are_the_values_of_the_dicts(annotations):
    """To the last bit, as if they had been read as float64."""
    records = list(FashionDataset(annotations, "some/image"))
    garments = [annotation for record in records for annotation in record["annotations"]]
    boxes = np.array([garment["bbox"] for garment in garments], np.float64)
    keypoints = np.concatenate([np.array(garment["keypoints"], np.float64) for garment in garments])
    for name, expected in {
        "box_float64": boxes,
        "points_float64": keypoints.reshape(-1, 3)[:, :2],
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    }.items():
        found = getattr(annotations, name)
        assert found.dtype == np.float64 and np.array_equal(found, expected), name


def test_what_dicts_may_lack(make_annotation):
    annotation = make_annotation(np.random.default_rng(0), SKIRT)
    del annotation["keypoints"]
    bare = {"image_id": 3, "width": 320, "height": 240}
    truth = AnnotationTable.from_dataset_dicts([bare | {"annotations": [annotation]}], DEEPFASHION2)
    assert truth.file_name.tolist() == [""] and truth.keypoints.tolist() == [[0, 0, 0]] * 8
    assert AnnotationTable.from_dataset_dicts([bare], DEEPFASHION2).num_garments == 0
    del annotation["bbox"]
    for record, place in (
        ({"image_id": 3, "height": 240}, "None: no 'width'"),
        ({"file_name": "b.jpg", "image_id": 3, "width": 240}, r"b\.jpg: no 'height'"),
        ({"file_name": "b.jpg", "height": 3, "width": 240}, r"b\.jpg: no 'image_id'"),
        (photo(4, [annotation]), r"a\.jpg, garment 1: no 'bbox'"),
    ):
        with pytest.raises(ValueError, match=rf"photo 1 of the list, {place}"):
            AnnotationTable.from_dataset_dicts([bare, record], DEEPFASHION2)


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor], ids=lambda kind: kind.__name__)
def test_lists_arrays_and_tensors_are_alike(scene, convert):
    records = [
        record
        | {
            "image_id": np.int64(record["image_id"]),
            "width": float(record["width"]),
            "annotations": [
                annotation | {name: convert(annotation[name]) for name in ("bbox", "keypoints")}
                for annotation in record["annotations"]
            ],
        }
        for record in scene.records
    ]
    found, expected = (
        AnnotationTable.from_dataset_dicts(dicts, DEEPFASHION2) for dicts in (records, scene.records)
    )
    for name, column in vars(expected).items():
        if isinstance(column, np.ndarray):
            assert np.array_equal(getattr(found, name), column), name


@pytest.mark.parametrize("image_ids", [["b", "a", "c"], [7, "7", 9], ["001", 1, 2]])
def test_photos_with_ids_of_letters_are_numbered(image_ids):
    records = [photo(image_id, []) | {"file_name": f"{image_id}.jpg"} for image_id in image_ids]
    table = AnnotationTable.from_dataset_dicts(records, DEEPFASHION2)
    assert table.image_id.tolist() == [1, 2, 3]
    assert table.file_name.tolist() == [f"{image_id}.jpg" for image_id in image_ids]
    with pytest.raises(ValueError, match=f"image {image_ids[0]!r}: image_id: it occurs twice"):
        AnnotationTable.from_dataset_dicts([*records, records[0]], DEEPFASHION2)


def test_polygons_and_masks(make_annotation):
    rng = np.random.default_rng(0)
    polygons = [[0, 1, 2.5, 3, 4, 5], np.arange(8)]
    mask = np.zeros((240, 320), np.uint8, order="F")
    mask[10:21, 30:51] = 1
    masks = (polygons, None, mask_util.encode(mask))
    annotations = [make_annotation(rng, SKIRT, segmentation=mask) for mask in masks]
    truth = AnnotationTable.from_dataset_dicts([photo(1, annotations)], DEEPFASHION2)
    assert truth.polygon_offsets.tolist() == [0, 2, 2, 3] and truth.vertex_offsets.tolist() == [0, 3, 7, 11]
    assert truth.vertices[:7].tolist() == [[0, 1], [2.5, 3], [4, 5], [0, 1], [2, 3], [4, 5], [6, 7]]
    assert sorted(truth.vertices[7:].tolist()) == [[30.5, 10.5], [30.5, 20.5], [50.5, 10.5], [50.5, 20.5]]


def test_counted_landmarks(scene):
    truth = AnnotationTable.from_dataset_dicts(scene.records, DEEPFASHION2)
    annotations = [annotation for record in scene.records for annotation in record["annotations"]]
    visibilities = [annotation["keypoints"][2::3].tolist() for annotation in annotations]
    assert truth.num_labelled().tolist() == [sum(v > 0 for v in row) for row in visibilities]
    assert truth.num_labelled(visible_only=True).tolist() == [row.count(2) for row in visibilities]
    assert 0 in truth.num_labelled() and (truth.num_labelled() > truth.num_labelled(visible_only=True)).any()
    for index, record in enumerate(scene.records):
        bare = {a["category_id"] for a in record["annotations"] if 2 not in a["keypoints"][2::3]}
        assert set(np.flatnonzero(truth.no_visible_by_class[index])) == bare


def test_attributes(make_annotation):
    rng = np.random.default_rng(0)
    records = [
        photo(1, [make_annotation(rng, SKIRT, scale=2, shade="red")], source="user", pair_id=3),
        photo(2, [make_annotation(rng, SHORTS, scale=1, shade="")], source="shop", pair_id=4, notes=["?"]),
    ]
    truth = AnnotationTable.from_dataset_dicts(records, DEEPFASHION2)
    found = {name: column.tolist() for name, column in truth.photo_attributes.items()}
    assert found == {"source": ["user", "shop"], "pair_id": [3, 4]}
    found = {name: column.tolist() for name, column in truth.garment_attributes.items()}
    assert found == {"scale": [2, 1], "shade": ["red", ""]}


def test_attributes_that_only_some_have(make_annotation):
    rng = np.random.default_rng(0)
    attributes = ({"scale": 1}, {"shade": "red"}, {})
    annotations = [make_annotation(rng, SKIRT, **each) for each in attributes]
    truth = AnnotationTable.from_dataset_dicts([photo(1, annotations)], DEEPFASHION2)
    found = {name: column.tolist() for name, column in truth.garment_attributes.items()}
    assert found == {"scale": [1, 0, 0], "shade": ["", "red", ""]}
    annotations[1]["scale"] = "big"
    with pytest.raises(ValueError, match="'scale' of garments: expected int or str throughout"):
        AnnotationTable.from_dataset_dicts([photo(1, annotations)], DEEPFASHION2)


def test_boxes_in_other_modes_and_no_iscrowd(make_annotation):
    annotation = make_annotation(
        np.random.default_rng(0), SKIRT, bbox=(10, 20, 30.5, 40), bbox_mode=BoxMode.XYWH_ABS
    )
    del annotation["iscrowd"]
    truth = AnnotationTable.from_dataset_dicts([photo(1, [annotation])], DEEPFASHION2)
    assert truth.box.tolist() == [[10, 20, 40.5, 60]]
    assert not truth.iscrowd.any()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"category_id": 13}, "image 5 .*category_id: expected 0..12, got 13"),
        ({"category_id": 13, "keypoints": None}, "image 5 .*category_id: expected 0..12, got 13"),
        ({"category_id": 2**40}, "image 5 .*category_id: expected 0..12, got 2147483647"),
        ({"category_id": "skirt"}, "list, a.jpg, garment 1: category_id: expected a whole number, got"),
        ({"keypoints": [1, 2, 2] * 7}, "image 5 .*keypoints: expected 24 numbers.* 'skirt', got 21"),
        ({"keypoints": [1, 2]}, "list, a.jpg, garment 1: keypoints: expected x, y and v .* got 2 numbers"),
        ({"keypoints": [math.nan, 2, 2] * 8}, "image 5 .*keypoints: expected finite"),
        ({"keypoints": [1e39, 2, 2] * 8}, "image 5 .*keypoints: expected finite"),
        ({"keypoints": [1, 2, 3] * 8}, "image 5 .*keypoints: expected visibility 0, 1 or 2, got 3.0"),
        ({"keypoints": [1000, 2, 2] * 8}, "image 5 .*landmark 1: expected at most 32 .*; 7 more faults"),
        ({"keypoints": ["a"] * 24}, "list, a.jpg, garment 1: keypoints: could not convert"),
        ({"bbox": [0, 0, 10, math.inf]}, "image 5 .*bbox: expected finite"),
        ({"bbox": [0, 0, 10]}, r"list, a.jpg, garment 1: bbox: expected 4 numbers, got shape \(3,\)"),
        ({"bbox": None}, "list, a.jpg, garment 1: bbox: expected 4 numbers"),
        ({"bbox": [400, 0, 410, 9]}, "image 5 .*bbox: expected a part in the photo of 320 x 240"),
        ({"bbox_mode": BoxMode.XYWH_REL}, "list, a.jpg, garment 1: bbox_mode: expected one of"),
        ({"segmentation": [[1, 2, 3]]}, "segmentation: expected x and y of each vertex, got 3"),
        ({"segmentation": [[1, math.nan] * 3]}, "image 5 .*segmentation: polygon 1: expected finite"),
        ({"segmentation": [[1, 2, 3, 4]]}, "image 5 .*segmentation: polygon 1: expected 3 points or more"),
        ({"segmentation": {"size": [2, 2], "counts": "04"}}, "segmentation: run-length mask: expected"),
    ],
)
def test_malformed_annotations(make_annotation, replaced, message):
    annotation = make_annotation(np.random.default_rng(0), SKIRT, **replaced)
    with pytest.raises(ValueError, match=message):
        AnnotationTable.from_dataset_dicts([photo(5, [annotation])], DEEPFASHION2)


def test_image_id_that_occurs_twice():
    with pytest.raises(ValueError, match=r"image 5 \(a.jpg\): image_id: it occurs twice"):
        AnnotationTable.from_dataset_dicts([photo(5, []), photo(3, []), photo(5, [])], DEEPFASHION2)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"file_name": 5}, "photo 1 of the list, 5: file_name: expected str"),
        ({"width": "wide"}, "photo 1 of the list, a.jpg: width: expected a whole number, got 'wide'"),
        ({"height": 0}, "image 5 .*size: expected width and height of 1 pixel or more, got"),
        ({"image_id": None}, "photo 1 of the list, a.jpg: image_id: expected a whole number, got None"),
        ({"pair_id": 2**70}, "photo 1 of the list, a.jpg: pair_id: expected 64 bits"),
    ],
)
def test_malformed_photos(replaced, message):
    with pytest.raises(ValueError, match=message):
        AnnotationTable.from_dataset_dicts([photo(4, []), photo(5, []) | replaced], DEEPFASHION2)


def test_paths_are_file_names():
    table = AnnotationTable.from_dataset_dicts([photo(4, []) | {"file_name": Path("b/a.jpg")}], DEEPFASHION2)
    assert table.file_name.tolist() == ["b/a.jpg"]


@pytest.mark.parametrize("records", [[], [photo(4, [])]])
def test_nothing_to_find(records):
    truth = AnnotationTable.from_dataset_dicts(records, DEEPFASHION2)
    assert truth.num_garments == 0 and len(truth) == len(records)
    assert truth.keypoints.shape == (0, 3) and truth.box.shape == (0, 4)
    assert truth.num_labelled().tolist() == truth.area.tolist() == []
    assert not truth.no_visible_by_class.any()


def test_image_rows(scene):
    truth = AnnotationTable.from_dataset_dicts(scene.records, DEEPFASHION2)
    assert truth.image_rows(truth.image_id[::-1]).tolist() == list(range(len(truth)))[::-1]
    assert truth.image_rows([]).tolist() == []
    with pytest.raises(ValueError, match="image 1000: no such image_id among the 12 photos"):
        truth.image_rows([truth.image_id[3], 1000])
    with pytest.raises(ValueError, match="image 5: no such image_id among the 0 photos"):
        AnnotationTable.from_dataset_dicts([], DEEPFASHION2).image_rows([5])
