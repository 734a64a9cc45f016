import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data import register_all, register_fashion
from kgdet_d2.schema import DEEPFASHION2

NAMES = ["deepfashion2_train", "deepfashion2_val", "synthfashion_train", "synthfashion_val"]


@pytest.fixture(autouse=True)
def catalogs(monkeypatch):
    """Catalogues of this test's own."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))


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


@pytest.mark.parametrize(
    ("name", "command"),
    [
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
