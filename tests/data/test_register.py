"""Registered datasets: dicts, metadata, built-in names and missing files."""

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data import register, register_all, register_fashion
from kgdet_d2.schema import DEEPFASHION2, FLD, schema_to_yaml
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo

NAMES = ["deepfashion2_train", "deepfashion2_val", "synthfashion_train", "synthfashion_val"]


def test_own_data_gives_dicts_and_metadata(annotations, image_root, tmp_path):
    annotations.save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, image_root, tmp_path / "mine.npz")
    dicts = DatasetCatalog.get("mine")
    assert [record["file_name"] for record in dicts] == [str(path) for path in sorted(image_root.iterdir())]

    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == list(DEEPFASHION2.class_names)
    assert metadata.keypoint_schema is DEEPFASHION2 and metadata.keypoint_names == list(
        DEEPFASHION2.slot_names
    )
    assert metadata.image_root == str(image_root) and metadata.annotation_file == str(tmp_path / "mine.npz")
    assert metadata.evaluator_type == "fashion"


def test_flip_map_pairs_are_mirror_images(tmp_path):
    register_fashion("mine", DEEPFASHION2, tmp_path, tmp_path / "mine.npz")
    pairs = MetadataCatalog.get("mine").keypoint_flip_map
    for left, right in pairs:
        assert right == _mirrored(left)
    paired = {name for pair in pairs for name in pair}
    assert len(paired) == 2 * len(pairs)
    assert all(_mirrored(name) == name for name in set(DEEPFASHION2.slot_names) - paired)


def _mirrored(name: str) -> str:
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def test_all_are_registered_and_a_second_call_replaces(annotations, tmp_path):
    register_all(tmp_path / "first")
    register_all(tmp_path)
    register_all(tmp_path)
    for name, split in zip(NAMES, ["train", "validation"] * 2, strict=True):
        folder = tmp_path / name.split("_")[0]
        assert MetadataCatalog.get(name).image_root == str(folder / split / "image")
        annotations.save(folder / "annotations" / f"{split}.npz")
        assert len(DatasetCatalog.get(name)) == len(annotations)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_FLD_has_three_splits_and_its_own_landmarks(tmp_path, split):
    garment = Garment(1, np.float32([1, 2, 3, 4]), np.ones((4, 3), np.float32))
    photo = Photo("img/img_00000007.jpg", 7, 20, 30, [garment])
    AnnotationTable.from_photos([photo], FLD).save(tmp_path / f"fld/annotations/{split}.npz")
    register_all(tmp_path)
    (record,) = DatasetCatalog.get(f"fld_{split}")
    assert record["file_name"] == str(tmp_path / "fld/img/img_00000007.jpg")
    metadata = MetadataCatalog.get(f"fld_{split}")
    assert metadata.thing_classes == ["upper", "lower", "full"] and metadata.keypoint_schema is FLD
    pairs = [[name.split("/")[1] for name in pair] for pair in metadata.keypoint_flip_map]
    assert pairs == [[f"{part}_left", f"{part}_right"] for part in ("collar", "sleeve", "waistline", "hem")]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("fld_test", "prepare_fld.py --root {root}/fld"),
        ("deepfashion2_val", "prepare_deepfashion2.py --root {root}/deepfashion2"),
        (
            "synthfashion_train",
            "make_synthetic.py --root {root}/synthfashion && python datasets/prepare_deepfashion2.py",
        ),
    ],
)
def test_a_missing_annotation_file_is_an_error_when_asked_for(tmp_path, name, command):
    register_all(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).annotation_file in str(error.value)
    assert command.format(root=tmp_path) in str(error.value)


# --- datasets that were prepared ---


@pytest.fixture
def prepared(tmp_path):
    """The folder of a dataset "mine" with a photo and a garment; what is registered is forgotten."""
    folder = tmp_path / "wherever"
    (folder / "annotations").mkdir(parents=True)
    schema = replace(FLD, name="mine")
    (folder / "schema.yaml").write_text(schema_to_yaml(schema))
    garment = Garment(1, np.array([1, 2, 30, 40], np.float32), np.ones((4, 3), np.float32))
    table = AnnotationTable.from_photos([Photo("a b.jpg", 1, 64, 64, [garment])], schema)
    table.save(folder / "annotations/train.npz")
    splits = {"train": {"annotations": "annotations/train.npz", "images": "photos"}}
    description = {"name": "mine", "schema": "schema.yaml", "splits": splits}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description))
    yield folder
    (folder / "dataset.yaml").unlink()
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "mine_train" in catalog:
            catalog.remove("mine_train")
    register._registered.discard("mine_train")
    register_all("datasets")


def test_prepared_datasets_are_found(prepared):
    register_all(prepared.parent)
    register_all(prepared.parent)
    assert MetadataCatalog.get("mine_train").keypoint_schema.class_names == FLD.class_names
    (record,) = DatasetCatalog.get("mine_train")
    assert record["file_name"] == str(prepared / "photos" / "a b.jpg")
    assert record["annotations"][0]["category_id"] == 1


def test_a_schema_that_was_edited(prepared):
    """Other pairs and sigmas are taken, other landmarks are not: the annotations stand in their order."""
    file = prepared / "schema.yaml"
    file.write_text(file.read_text().replace("0.017", "0.5"))
    register_all(prepared.parent)
    assert DatasetCatalog.get("mine_train").annotations.schema.sigmas[0] == 0.5
    file.write_text(
        file.read_text().replace("waistline_left", "belt_left").replace("waistline_right", "belt_right")
    )
    register_all(prepared.parent)
    with pytest.raises(
        ValueError, match=r"train\.npz: .*schema: .*landmarks of class 'lower': expected \['belt_left'"
    ):
        DatasetCatalog.get("mine_train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "name: expected a name, got None"),
        ("[", "dataset.yaml: not a usable description"),
        ("name: mine\nschema: schema.yaml", "splits: expected names with values"),
        ("name: mine\nschema: schema.yaml\nsplits: {train: {images: x}}", "annotations: expected a name"),
        ("name: mine\nschema: none.yaml\nsplits: {train: {images: x, annotations: y}}", r"none\.yaml"),
    ],
)
def test_a_prepared_dataset_that_cannot_be_used_is_logged(prepared, content, message, caplog):
    (prepared / "dataset.yaml").write_text(content)
    register_all(prepared.parent)
    assert "mine_train" not in DatasetCatalog
    assert re.search(message, caplog.text)


def test_a_name_that_is_taken_is_left(prepared, caplog):
    DatasetCatalog.register("mine_train", list)
    register_all(prepared.parent)
    assert DatasetCatalog.get("mine_train") == []
    assert "'mine_train' is registered already" in caplog.text
