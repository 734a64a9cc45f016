"""Dataset dicts made from the annotation table, and the joining of training datasets."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.structures import BoxMode

from kgdet_d2.data import AnnotationTable, FashionDataset, register_fashion, training_dataset
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import Photo


@pytest.fixture
def dataset(annotations) -> FashionDataset:
    return FashionDataset(annotations, "some/image")


@pytest.fixture
def registered(annotations, image_root, tmp_path) -> str:
    annotations.save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, image_root, tmp_path / "mine.npz")
    return "mine"


def test_dicts_are_the_photos(photos, dataset):
    for record, photo in zip(dataset, photos, strict=True):
        assert record["file_name"] == f"some/image/{photo.file_name}"
        expected = {name: getattr(photo, name) for name in ("image_id", "height", "width")} | photo.attributes
        found = {name: record[name] for name in expected}
        assert found == expected and {type(value) for value in found.values()} == {int, str}
        for annotation, garment in zip(record["annotations"], photo.garments, strict=True):
            assert annotation["bbox"] == garment.box.tolist()
            assert annotation["bbox_mode"] == BoxMode.XYXY_ABS and annotation["iscrowd"] == 0
            assert list(annotation["keypoints"]) == garment.keypoints.ravel().tolist()
            polygons = [polygon.ravel().tolist() for polygon in garment.polygons]
            assert [list(polygon) for polygon in annotation["segmentation"]] == polygons
            for name, value in {"category_id": garment.category_id, **garment.attributes}.items():
                assert annotation[name] == value and type(annotation[name]) is int


def test_it_behaves_as_a_list(dataset):
    numbers = [1, 2, 3, 4]
    assert [record["image_id"] for record in dataset] == numbers
    assert [record["image_id"] for record in reversed(dataset)] == numbers[::-1]
    assert [record["image_id"] for record in dataset[1:3]] == [2, 3]
    assert dataset[-1]["image_id"] == 4 and dataset[np.int64(0)]["image_id"] == 1
    assert len(random.Random(0).sample(dataset, 2)) == 2
    with pytest.raises(IndexError):
        dataset[4]


def test_what_a_caller_changes_is_not_seen_by_the_next(dataset):
    record = dataset[0]
    record["annotations"][0]["keypoints"][:] = -1
    record["annotations"].clear()
    assert (dataset[0]["annotations"][0]["keypoints"] >= 0).all()


def test_boxes_without_area_are_left_out_with_a_warning(make_garment, caplog):
    flat = make_garment(6, box=np.array([3, 5, 3, 40], dtype=np.float32))
    photos = [
        Photo("1.jpg", 1, 64, 48, [make_garment(8), flat, make_garment(7)]),
        Photo("2.jpg", 2, 64, 48, [flat]),
    ]
    dataset = FashionDataset(AnnotationTable.from_photos(photos, DEEPFASHION2), "images")
    classes = [[annotation["category_id"] for annotation in record["annotations"]] for record in dataset]
    assert classes == [[8, 7], []] and dataset.num_garments().tolist() == [2, 0]
    assert dataset.category_ids().tolist() == [8, 7]
    assert "images: left out 2 garments whose box has no area" in caplog.text


def test_an_empty_dataset_is_empty():
    dataset = FashionDataset(AnnotationTable.from_photos([], DEEPFASHION2), "images")
    assert list(dataset) == [] and dataset.num_garments().tolist() == []


def test_it_holds_no_more_than_the_columns(dataset):
    """What a worker process is sent, where processes are not forked."""
    columns = sum(len(pickle.dumps(array)) for array in vars(dataset.annotations).values())
    assert len(pickle.dumps(dataset)) < 1.1 * columns + 1000


def test_training_leaves_out_photos_without_garments(registered):
    dataset = training_dataset([registered], filter_empty=True)
    assert [record["image_id"] for record in dataset] == [1, 3, 4]
    dataset = training_dataset([registered, registered], filter_empty=False)
    assert [record["image_id"] for record in dataset] == [1, 2, 3, 4] * 2


def test_training_takes_lists_of_dicts_too(registered, dataset):
    DatasetCatalog.register("list", lambda: list(dataset))
    MetadataCatalog.get("list").keypoint_schema = DEEPFASHION2
    joined = training_dataset(["list", registered], filter_empty=True)
    assert [record["image_id"] for record in joined] == [1, 3, 4] * 2


def test_training_needs_photos_of_the_same_classes(registered, tmp_path):
    register_fashion("fld", FLD, tmp_path, tmp_path / "fld.npz")
    AnnotationTable.from_photos([], FLD).save(tmp_path / "fld.npz")
    with pytest.raises(ValueError, match="fld: expected images with garments to train on, found none"):
        training_dataset(["fld"], filter_empty=True)
    with pytest.raises(ValueError, match=r"dataset 'fld': expected .* 'deepfashion2' .*got those of 'fld'"):
        training_dataset([registered, "fld"], filter_empty=True)


def test_detectron2_s_test_loader_takes_it(registered):
    loader = build_detection_test_loader(DatasetCatalog.get(registered), mapper=lambda record: record)
    assert [batch[0]["image_id"] for batch in loader] == [1, 2, 3, 4]


def test_a_crowd_is_one_in_its_dict(annotations):
    crowd = np.arange(len(annotations.category_id)) == 2
    records = list(FashionDataset(replace(annotations, iscrowd=crowd), "some/image"))
    found = [annotation["iscrowd"] for record in records for annotation in record["annotations"]]
    assert found == crowd.astype(int).tolist()


def test_photos_with_regions_to_ignore_alone_have_no_garments(annotations, image_root, tmp_path):
    """They are left out as those without annotations are, and trained on where these are."""
    crowd = annotations.garment_image == 2
    crowd[:3] = True
    dataset = FashionDataset(replace(annotations, iscrowd=crowd), image_root)
    assert dataset.num_garments().tolist() == [10, 0, 0, 1]
    assert dataset.category_ids().tolist() == [*range(3, 13), 8]
    replace(annotations, iscrowd=crowd).save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, image_root, tmp_path / "mine.npz")
    for filter_empty, expected in ((True, [1, 4]), (False, [1, 2, 3, 4])):
        found = training_dataset(["mine"], filter_empty=filter_empty)
        assert [record["image_id"] for record in found] == expected
