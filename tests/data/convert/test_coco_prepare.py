"""The command ``kgdet prepare coco`` from JSON files to a folder that is registered."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2 import cli, schema
from kgdet_d2.data import register
from kgdet_d2.data.export.coco import export_coco
from kgdet_d2.data.export.photos import ExportedDataset
from kgdet_d2.schema import DEEPFASHION2, load_schema
from kgdet_d2.structures.annotations import AnnotationTable
from tests.helpers.own_coco import LANDMARKS, SHIRT, SKIRT, assert_same

CASES = Path(__file__).parents[4] / "shared" / "cases"
DEEPFASHION2_YAML = Path(schema.__file__).with_name("deepfashion2.yaml")


@pytest.fixture
def mine(coco):
    """The folder that the command writes."""
    return coco.root / "mine"


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_folder_says_where_everything_is(coco, mine, capsys):
    coco.write("val.json")
    coco.prepare("--val-json", coco.root / "val.json")
    splits = [
        f"annotations/{split}{end}" for split in ("train", "validation") for end in (".npz", "_report.tsv")
    ]
    assert files_in(mine) == sorted(["dataset.yaml", "schema.yaml", *splits])
    assert yaml.safe_load((mine / "dataset.yaml").read_text()) == {
        "name": "mine",
        "schema": "schema.yaml",
        "splits": {
            "train": {"annotations": "annotations/train.npz", "images": str(coco.root / "photos")},
            "val": {"annotations": "annotations/validation.npz", "images": str(coco.root / "photos")},
        },
    }
    printed = capsys.readouterr()
    assert "train.npz: 3 photos, 5 garments, 0 regions to ignore" in printed.out
    assert f"{mine}/schema.yaml: 2 classes, 7 landmarks" in printed.out
    assert printed.out.splitlines()[-1] == f"next: DETECTRON2_DATASETS={coco.root} kgdet check mine_train"


def test_without_validation_there_is_train_alone(coco, mine):
    coco.prepare()
    assert list(yaml.safe_load((mine / "dataset.yaml").read_text())["splits"]) == ["train"]
    assert not (mine / "annotations/validation.npz").exists()


def test_what_was_prepared_is_registered(coco, mine, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco.root))
    monkeypatch.setattr(register, "_registered", set(register._registered))
    photos = mine / "photos"
    mine.mkdir()
    (coco.root / "photos").rename(photos)
    coco.write("val.json", {**coco.content, "annotations": []})
    arguments = ["--images", photos, "--val-json", coco.root / "val.json"]
    coco.write()
    command = [
        "prepare",
        "coco",
        "--json",
        coco.root / "train.json",
        "--name",
        "mine",
        "--workers",
        1,
        *arguments,
    ]
    assert cli.main([*map(str, command)]) == 0
    assert yaml.safe_load((mine / "dataset.yaml").read_text())["splits"]["train"]["images"] == "photos"
    assert capsys.readouterr().out.splitlines()[-1] == "next: kgdet check mine_train"
    register.register_all(coco.root)
    train, val = DatasetCatalog.get("mine_train"), DatasetCatalog.get("mine_val")
    assert MetadataCatalog.get("mine_train").thing_classes == ["T-Shirt", "Skirt"]
    names = [photos / image["file_name"] for image in coco.images]
    assert [Path(record["file_name"]) for record in train] == names
    assert [len(record["annotations"]) for record in train] == [3, 2, 0]
    assert [len(record["annotations"]) for record in val] == [0, 0, 0]
    coco.prepare(*arguments)  # the name is that of the data set itself


def test_photos_of_the_validation_may_be_elsewhere(coco, mine):
    coco.write("val.json")
    (coco.root / "photos/a.jpg").rename(coco.root / "a.jpg")
    coco.prepare("--val-json", coco.root / "val.json", "--val-images", coco.root)
    assert coco.load("train").image_id.tolist() == [40, 500]
    assert coco.load("validation").image_id.tolist() == [3]
    splits = yaml.safe_load((mine / "dataset.yaml").read_text())["splits"]
    assert splits["val"]["images"] == str(coco.root)


def test_a_validation_that_contradicts_is_refused(coco, mine, capsys):
    content = json.loads(coco.write().read_text())
    content["categories"][2]["keypoints"] = ["waist_left", "waist_right", "seam"]
    coco.write("val.json", content)
    assert coco.run("--val-json", coco.root / "val.json") == 1
    assert capsys.readouterr().err == (
        f"error: {coco.root}/val.json: category 'Skirt': expected the landmarks of {coco.root}/train.json, "
        "got 'hem' missing; 'seam' not among those\n"
    )
    assert not mine.exists()


@pytest.mark.parametrize("name", ["deepfashion2", "synthfashion", "fld", "coco_2017"])
def test_names_that_are_taken(coco, capsys, name):
    coco.write()
    assert coco.run("--name", name) == 1
    assert f"--name {name}: expected another one: {name}_" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "-"])
def test_names_that_are_none(coco, capsys, name):
    with pytest.raises(SystemExit):
        coco.run(f"--name={name}")
    assert "argument --name: expected letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--json", "[Errno 2] No such file or directory: '{path}'"),
        ("--val-json", "[Errno 2] No such file or directory: '{path}'"),
        ("--images", "{path}: there is no such folder of photos"),
        ("--schema", "[Errno 2] No such file or directory: '{path}'"),
    ],
)
def test_files_that_are_not_there(coco, mine, capsys, option, message):
    coco.write()
    assert coco.run(option, coco.root / "no") == 1
    assert capsys.readouterr().err == f"error: {message.format(path=coco.root / 'no')}\n"
    assert not mine.exists()


# --- the schema ---


def edit_schema(mine, **changes):
    path = mine / "schema.yaml"
    content = yaml.safe_load(path.read_text())
    for name, part in changes.items():
        content["classes"][name.replace("_", "-")] |= part
    path.write_text("# mine\n" + yaml.safe_dump(content, sort_keys=False))
    return path


def test_edits_of_the_schema_are_kept(coco, mine):
    expected = coco.prepare()
    path = edit_schema(mine, T_Shirt={"flip": "none", "sigmas": 0.07})
    text = path.read_text()
    assert_same(coco.prepare(), expected)
    assert path.read_text() == text
    assert load_schema(path).flip_pairs[0] == ()


def test_classes_and_landmarks_may_be_put_in_another_order(coco, mine):
    before = coco.prepare()
    path = mine / "schema.yaml"
    content = yaml.safe_load(path.read_text())
    content["classes"] = dict(reversed(content["classes"].items()))
    content["classes"]["Skirt"]["landmarks"].reverse()
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    after = coco.prepare()
    assert after.category_id.tolist() == (1 - before.category_id).tolist()
    assert after.keypoints[4:7].tolist() == before.keypoints[4:7][::-1].tolist()


@pytest.mark.parametrize("change", ["landmark", "class", "further class"])
def test_another_schema_than_the_one_there_is_refused(coco, mine, capsys, change):
    coco.prepare()
    path = edit_schema(mine, T_Shirt={"flip": "none"})
    text, files = path.read_text(), files_in(mine)
    category = coco.content["categories"][1]
    if change == "landmark":
        category["keypoints"] = [*LANDMARKS[SHIRT][:3], "right_seam"]
    elif change == "class":
        category["name"] = "Blouse"
    else:
        coco.content["categories"].pop(2)
        coco.content["annotations"] = [entry for entry in coco.annotations if entry["category_id"] != SKIRT]
    coco.write()
    assert coco.run() == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {coco.root}/train.json: ") and str(path) in line
    assert line.endswith(f"--overwrite-schema replaces {path}, and the edits in it are lost")
    assert (path.read_text(), files_in(mine)) == (text, files)
    assert coco.run("--overwrite-schema") == 0
    assert not path.read_text().startswith("# mine")


def test_a_schema_that_is_given_is_written_as_it_is(coco, mine, capsys):
    coco.prepare()
    given = coco.root / "given.yaml"
    given.write_bytes((mine / "schema.yaml").read_bytes() + b"# edited\n")
    assert_same(coco.prepare("--schema", given), coco.load("train"))
    assert "edited" not in (mine / "schema.yaml").read_text(), "the same schema: what is there stays"
    given.write_text(given.read_text().replace("sigma: 0.04", "sigma: 0.09"))
    assert coco.run("--schema", given) == 1
    assert (
        f"{mine}/schema.yaml: expected what {given} has, got another schema; --over"
        in capsys.readouterr().err
    )
    coco.prepare("--schema", given, "--overwrite-schema")
    assert (mine / "schema.yaml").read_bytes() == given.read_bytes()


def test_a_schema_names_the_landmarks_of_a_file_that_does_not(coco, mine):
    expected = coco.prepare()
    (mine / "schema.yaml").rename(coco.root / "given.yaml")
    for category in coco.content["categories"]:
        category.pop("keypoints", None)
    coco.write()
    assert coco.run() == 1
    assert_same(coco.prepare("--schema", coco.root / "given.yaml"), expected)
    assert_same(coco.prepare(), expected)


def test_classes_without_pairs_are_warned_of(coco, mine, capsys):
    coco.content["categories"][1]["keypoints"] = ["a", "b", "c", "d"]
    coco.content["categories"][2]["keypoints"] = ["waist_left", "waist_rigth", "hem"]
    coco.prepare()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    path = mine / "schema.yaml"
    assert warnings == [
        f"warning: class {name!r}: {reason}: photos cannot be mirrored in training until {path} has in "
        f"{name!r} the pairs that change places, flip: [[a, b], ...], or flip: none"
        for name, reason in (
            ("T-Shirt", "no landmark is named left or right"),
            ("Skirt", "no mirror image of 'waist_left'"),
        )
    ]
    edit_schema(mine, T_Shirt={"flip": "none"}, Skirt={"flip": [["waist_left", "waist_rigth"]]})
    coco.prepare()
    assert "warning" not in capsys.readouterr().err


# --- round trip, and files that were given ---


@pytest.mark.parametrize("given", [False, True])
def test_what_was_exported_is_read_as_it_was(annotations, image_root, tmp_path, given):
    annotations = replace(annotations, iscrowd=np.arange(annotations.num_garments) == 13)
    annotations.keypoints[annotations.keypoints[:, 2] == 0] = 0
    export_coco(ExportedDataset(annotations=annotations, image_root=str(image_root)), tmp_path)
    arguments = [
        "--json",
        tmp_path / "annotations.json",
        "--images",
        image_root,
        "--name",
        "mine",
        "--workers",
        1,
    ]
    arguments += ["--output", tmp_path / "mine", *(["--schema", DEEPFASHION2_YAML] if given else [])]
    assert cli.main(["prepare", "coco", *map(str, arguments)]) == 0
    read = load_schema(tmp_path / "mine/schema.yaml")
    for part in ("class_names", "keypoint_names", "slots", "flip_pairs", "skeleton"):
        assert getattr(read, part) == getattr(DEEPFASHION2, part)
    assert (read == DEEPFASHION2) == given
    assert_same(AnnotationTable.load(tmp_path / "mine/annotations/train.npz", read), annotations)
    assert (tmp_path / "mine/annotations/train_report.tsv").read_text().count("\n") == 1


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are absent")
@pytest.mark.parametrize(("case", "left"), [("two-classes", "left_{}"), ("left-right-names", "L_{}")])
def test_files_of_others(tmp_path, capsys, case, left):
    folder = CASES / f"own-coco-{case}"
    arguments = ["--json", folder / "annotations.json", "--images", folder / "photos", "--name", "mine"]
    assert (
        cli.main(["prepare", "coco", *map(str, arguments), "--output", str(tmp_path), "--workers", "1"]) == 0
    )
    read = load_schema(tmp_path / "schema.yaml")
    assert read.class_names == ("Shirt", "Trousers") and read.num_keypoints == 12
    assert read.keypoint_names[0][0] == left.format("collar")
    assert read.flip_pairs == 2 * (((0, 1), (2, 3), (4, 5)),) and not read.unpaired_classes
    table = AnnotationTable.load(tmp_path / "annotations/train.npz", read)
    content = json.loads((folder / "annotations.json").read_text())
    assert table.file_name.tolist() == [image["file_name"] for image in content["images"]]
    assert table.category_id.tolist() == [
        [3, 7].index(each["category_id"]) for each in content["annotations"]
    ]
    expected = np.array([each["keypoints"] for each in content["annotations"]], np.float32).reshape(-1, 3)
    assert np.array_equal(table.keypoints, expected)
    assert capsys.readouterr().err.count("warning") == 0
