"""Schemas of registered datasets: found, missing, and not the model's."""

import pytest
from detectron2.data import MetadataCatalog

import kgdet_d2.data  # noqa: F401, registers the datasets
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.utils.catalog import check_schema_of_datasets, schema_of_dataset


def test_the_schema_of_a_registered_dataset():
    assert schema_of_dataset("deepfashion2_val") is DEEPFASHION2
    assert schema_of_dataset("fld_test") is FLD


def test_an_unknown_dataset_is_refused_with_similar_names():
    with pytest.raises(
        ValueError, match=r"dataset 'deepfashion_val' is not registered: .*\bdeepfashion2_val\b"
    ):
        schema_of_dataset("deepfashion_val")
    assert "deepfashion_val" not in MetadataCatalog.list()


def test_where_no_name_is_similar_those_with_a_schema_are_listed():
    MetadataCatalog.get("@")  # an entry that somebody asked for is no registration
    with pytest.raises(ValueError, match=r"dataset '@' is not registered") as error:
        schema_of_dataset("@")
    assert "fld_train" in str(error.value) and "coco" not in str(error.value)


def test_a_dataset_without_schema_is_refused():
    with pytest.raises(ValueError, match=r"'coco_2017_val': expected keypoint_schema .*register_fashion"):
        schema_of_dataset("coco_2017_val")


def test_datasets_must_have_the_model_s_landmarks():
    check_schema_of_datasets(["deepfashion2_train", "synthfashion_val"], DEEPFASHION2)
    with pytest.raises(ValueError, match=r"'fld_val': .*SCHEMA = 'deepfashion2', got those of 'fld'"):
        check_schema_of_datasets(["deepfashion2_train", "fld_val"], DEEPFASHION2)
