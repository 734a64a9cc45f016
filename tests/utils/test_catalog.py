"""Schemas of registered datasets and of configs, and what is refused before anything is trained."""

import dataclasses
import sys

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2 import cli
from kgdet_d2 import schema as schemas
from kgdet_d2.config import add_kgdet_config, config_from_text, load_config
from kgdet_d2.data import build_train_loader
from kgdet_d2.schema import DEEPFASHION2, FLD, schema_from_description
from kgdet_d2.utils.catalog import (
    check_mirroring,
    check_schema_of_datasets,
    schema_of_config,
    schema_of_dataset,
)

MINE = schema_from_description(
    {
        "name": "mine",
        "classes": {
            "Shirt": {"landmarks": ["L_collar", "R_collar", "hem"]},
            "Trousers": {"landmarks": ["waist left", "waist right"]},
        },
    }
)
NUMBERED = schema_from_description({"name": "numbered", "classes": {"sock": {"landmarks": [1, 2, 3]}}})
# A system's config, and the numbers that follow from MINE.
SYSTEMS = {
    "kgdet_tiny": {"KGDET.NUM_CLASSES": 2, "KGDET.NUM_KEYPOINTS": 5},
    "kgdet_plus_tiny": {"KGDET.NUM_CLASSES": 2, "KGDET.NUM_KEYPOINTS": 5},
    "reppoints_tiny": {"KGDET.NUM_CLASSES": 2},
    "reppoints_kp_tiny": {"KGDET.NUM_CLASSES": 2, "KGDET.NUM_KEYPOINTS": 5},
    "fcos_tiny": {"FCOS.NUM_CLASSES": 2},
    "retinanet_tiny": {"RETINANET.NUM_CLASSES": 2},
    "match_rcnn_tiny": {"ROI_HEADS.NUM_CLASSES": 2, "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 5},
}
OWN = ["DATASETS.TRAIN", "('mine_train',)", "DATASETS.TEST", "('mine_train',)"]


@pytest.fixture
def catalog(monkeypatch):
    """Registers datasets without annotations, and forgets them and their schemas."""
    monkeypatch.setattr(schemas, "_SCHEMAS", dict(schemas._SCHEMAS))
    names = []

    def register(name, records=(), **metadata):
        DatasetCatalog.register(name, lambda: list(records))
        MetadataCatalog.get(name).set(**metadata)
        names.append(name)

    register("mine_train", keypoint_schema=MINE)
    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


# --- schemas of datasets ---


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


def test_a_dataset_without_names_of_landmarks_is_refused():
    with pytest.raises(ValueError, match=r"'coco_2017_val': expected the names .*kgdet prepare coco"):
        schema_of_dataset("coco_2017_val")


def test_datasets_must_have_the_model_s_landmarks(catalog):
    check_schema_of_datasets(["deepfashion2_train", "synthfashion_val"], DEEPFASHION2)
    with pytest.raises(ValueError, match=r"'fld_val': .*SCHEMA = 'deepfashion2' .*got those of 'fld'"):
        check_schema_of_datasets(["deepfashion2_train", "fld_val"], DEEPFASHION2)
    catalog("other", keypoint_schema=dataclasses.replace(MINE, name="other", sigmas=(0.1,) * 5))
    check_schema_of_datasets(["other"], MINE)  # whose landmarks are the same


# --- the config follows from the data ---


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_the_numbers_of_its_data(catalog, system):
    cfg = load_config(f"sample/{system}.yaml", OWN)
    assert cfg.MODEL.KGDET.SCHEMA == "mine"
    for key, number in SYSTEMS[system].items():
        node, name = key.split(".")
        assert cfg.MODEL[node][name] == number
    assert schema_of_config(cfg) == MINE


@pytest.mark.parametrize("system", SYSTEMS)
def test_numbers_by_hand_that_contradict_the_data_are_refused(catalog, system):
    wrong = [item for key in SYSTEMS[system] for item in (f"MODEL.{key}", "1")]
    with pytest.raises(ValueError, match=r"^config: ") as error:
        load_config(f"sample/{system}.yaml", [*OWN, *wrong])
    for key, number in SYSTEMS[system].items():
        assert f"MODEL.{key}: expected {number}, as MODEL.KGDET.SCHEMA 'mine' has it, got 1" in str(
            error.value
        )


def test_without_a_dataset_it_is_deepfashion2():
    cfg = load_config("kgdet_R50.yaml", ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"])
    assert schema_of_config(cfg) == DEEPFASHION2


def test_a_config_that_Detectron2_alone_has_read(catalog):
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.DATASETS.TEST = ("mine_train",)
    assert schema_of_config(cfg) is MINE


def test_a_mistyped_dataset_is_answered_with_the_nearest(catalog):
    with pytest.raises(ValueError, match=r"dataset 'mine_trian' is not registered: .* mine_train"):
        load_config("kgdet_R50.yaml", ["DATASETS.TRAIN", "('mine_trian',)"])


def test_two_schemas_of_one_name(catalog):
    catalog("mine_val", keypoint_schema=dataclasses.replace(MINE, sigmas=(0.1,) * 5))
    first = load_config("kgdet_R50.yaml", OWN).MODEL.KGDET.SCHEMA
    other = load_config("kgdet_R50.yaml", ["DATASETS.TRAIN", "('mine_val',)"]).MODEL.KGDET.SCHEMA
    assert first == "mine" and other.startswith("mine-")
    assert schemas.get_schema(other).sigmas == (0.1,) * 5


def test_modules_that_register_datasets_are_imported(catalog, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_wardrobe.py").write_text(
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "from kgdet_d2.schema import FLD\n"
        "if 'wardrobe' not in DatasetCatalog: DatasetCatalog.register('wardrobe', list)\n"
        "MetadataCatalog.get('wardrobe').keypoint_schema = FLD\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["--import", "my_wardrobe", "check", "wardrobe", "--output", str(tmp_path)]) == 0
    assert "wardrobe" in capsys.readouterr().out
    assert cli.main(["--import", "my_trousers", "check", "wardrobe"]) == 1
    assert "error: --import: 'my_trousers': No module named" in capsys.readouterr().err
    opts = ["DATASETS.IMPORT", "['my_wardrobe']", "DATASETS.TRAIN", "('wardrobe',)"]
    try:
        cfg = load_config("kgdet_R50.yaml", opts)
        assert cfg.MODEL.KGDET.SCHEMA == FLD.name
        assert config_from_text(cfg.dump(), []).DATASETS.IMPORT == []
        DatasetCatalog.remove("wardrobe")
    finally:
        sys.modules.pop("my_wardrobe", None)
        MetadataCatalog.remove("wardrobe")
    with pytest.raises(ValueError, match=r"DATASETS\.IMPORT: 'no_such_module': No module named"):
        load_config("kgdet_R50.yaml", ["DATASETS.IMPORT", "['no_such_module']"])


# --- metadata of Detectron2's own ---


def test_names_of_detectron2_s_metadata_are_a_schema(catalog):
    catalog(
        "own",
        thing_classes=["shirt", "skirt"],
        keypoint_names=["a", "b", "c"],
        keypoint_flip_map=[("a", "c")],
        keypoint_connection_rules=[("a", "b", (1, 2, 3)), ("b", "c", (1, 2, 3))],
    )
    schema = schema_of_dataset("own")
    assert schema.class_names == ("shirt", "skirt") and schema.num_keypoints == 3
    assert schema.slots == ((0, 1, 2), (0, 1, 2))
    assert schema.flip_map.tolist() == [2, 1, 0]
    assert schema.skeleton == (((0, 1), (1, 2)),) * 2
    assert MetadataCatalog.get("own").keypoint_schema is schema


def test_classes_that_the_reader_names(catalog):
    def load():
        MetadataCatalog.get("lazy").thing_classes = ["sock"]
        return []

    catalog("other")
    DatasetCatalog.register("lazy", load)
    MetadataCatalog.get("lazy").set(keypoint_names=["toe_l", "toe_r"])
    try:
        assert schema_of_dataset("lazy").flip_map.tolist() == [1, 0]
    finally:
        DatasetCatalog.remove("lazy")
        MetadataCatalog.remove("lazy")
    with pytest.raises(ValueError, match="'other': expected the names of its landmarks in its metadata"):
        schema_of_dataset("other")


def test_metadata_that_contradicts_itself(catalog):
    catalog("own", thing_classes=["a"], keypoint_names=["x"], keypoint_flip_map=[("x", "y")])
    with pytest.raises(ValueError, match=r"dataset 'own': its metadata: class 'a': flip: .*\['y'\]"):
        schema_of_dataset("own")


# --- mirrors ---


def test_mirroring_needs_pairs(catalog):
    catalog("numbered", keypoint_schema=NUMBERED)
    opts = ["DATASETS.TRAIN", "('numbered',)", "DATASETS.TEST", "('numbered',)"]
    cfg = load_config("sample/kgdet_tiny.yaml", opts)
    message = r"INPUT\.RANDOM_FLIP: .*class 'sock': no landmark is named left or right.* flip: none"
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)
    check_mirroring(load_config("sample/kgdet_tiny.yaml", [*opts, "INPUT.RANDOM_FLIP", "none"]))
    check_mirroring(load_config("sample/retinanet_tiny.yaml", opts))  # has no landmarks to mix up
    check_mirroring(load_config("sample/kgdet_tiny.yaml", OWN))
    with pytest.raises(ValueError, match=r"FLIP_FUSION\.ENABLED: expected False.*'sock'"):
        load_config("sample/kgdet_tiny.yaml", [*opts, "MODEL.KGDET.FLIP_FUSION.ENABLED", "True"])
