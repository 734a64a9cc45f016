"""Registered datasets: dicts, metadata, built-in names and missing files."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data import register_all, register_fashion
from kgdet_d2.schema import DEEPFASHION2, FLD
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
