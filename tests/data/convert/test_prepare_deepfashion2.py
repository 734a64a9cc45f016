"""The command prepare_deepfashion2.py from folders to files."""

import csv
import importlib.util
import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT.parent / "shared" / "deepfashion2_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the DeepFashion2 sample is absent")


@pytest.fixture(scope="module")
def script():
    """The script as a module, which no package may import."""
    path = ROOT / "datasets" / "prepare_deepfashion2.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main(script):
    return lambda arguments: script.main([*arguments, "--workers", "1"])


def read_report(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, dialect=csv.excel_tab))


def report_of(tree):
    return tree / "annotations" / "validation_report.tsv"


def test_the_script_writes_file_and_report(main, native_tree, edit, capsys):
    edit("item1", landmarks=...)
    edit("item2", scale=7)
    assert main(["--root", str(native_tree)]) == 0
    assert len(AnnotationTable.load(native_tree / "annotations/validation.npz", DEEPFASHION2)) == 3
    path = f"{native_tree}/validation/annos/000002.json"
    names = ("path", "item", "lost", "kind", "reason")
    assert [tuple(row[name] for name in names) for row in read_report(report_of(native_tree))] == [
        (path, "item2", "attribute", "attribute out of range", "scale: expected 1, 2 or 3, got 7"),
        (path, "item1", "garment (region to ignore)", "field missing", "landmarks is missing"),
    ]
    printed = capsys.readouterr()
    assert "validation.npz: 3 photos, 5 garments, 1 regions to ignore" in printed.out
    assert "validation_report.tsv: 2 problems" in printed.err
    counted = [line.split() for line in printed.err.splitlines()]
    assert ["field", "missing", "garment", "(region", "to", "ignore)", "1"] in counted
    assert len(list((native_tree / "annotations").iterdir())) == 2


def test_a_later_run_replaces_the_report(main, native_tree, edit, capsys):
    edit("item1", scale=7)
    assert main(["--root", str(native_tree)]) == 0
    edit("item1", scale=1)
    capsys.readouterr()
    assert main(["--root", str(native_tree)]) == 0
    assert read_report(report_of(native_tree)) == []
    assert "problems" not in capsys.readouterr().err


def test_strict_writes_nothing(main, native_tree, edit, tmp_path, capsys):
    edit("item1", landmarks=...)
    assert main(["--root", str(native_tree), "--strict", "--output", str(tmp_path / "out")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {native_tree}/validation/annos/000002.json: item1: landmarks is missing"
    assert not (tmp_path / "out").exists()


@needs_sample
def test_the_script_reads_the_sample_and_writes_elsewhere(main, tmp_path):
    assert main(["--root", str(SAMPLE), "--output", str(tmp_path)]) == 0
    annotations = AnnotationTable.load(tmp_path / "validation.npz", DEEPFASHION2)
    assert (len(annotations), len(annotations.category_id)) == (24, 42)
    assert read_report(tmp_path / "validation_report.tsv") == []


@pytest.mark.parametrize(
    ("arguments", "made", "message"),
    [
        ([], [], "error: {root}: there is no such folder"),
        ([], ["other"], "error: {root}: expected a folder train or validation"),
        (["--splits", "train"], ["validation"], "error: {root}/train: there is no such split"),
        ([], ["train"], "error: {root}/train/annos: there is no such folder"),
        ([], ["train/annos"], "error: {root}/train/image: there is no such folder"),
        ([], ["train/annos", "train/image"], "error: {root}/train/annos: there is no annotation"),
    ],
)
def test_trees_that_are_none(main, tmp_path, capsys, arguments, made, message):
    root = tmp_path / "tree"
    for folder in made:
        (root / folder).mkdir(parents=True)
    assert main(["--root", str(root), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message.format(root=root))
    assert not (root / "annotations").exists()


def test_no_usable_annotation_at_all_is_an_error(main, native_tree, capsys):
    for path in (native_tree / "validation" / "annos").iterdir():
        path.write_text("[]")
    assert main(["--root", str(native_tree)]) == 1
    assert "none of its 3 annotations can be used" in capsys.readouterr().err
    assert not (native_tree / "annotations").exists()


def test_a_class_that_is_lost_writes_nothing(main, native_tree, native_item, capsys):
    for path in (native_tree / "validation" / "annos").iterdir():
        path.write_text(json.dumps({"item1": native_item | {"category_name": "vest"}}))
    assert main(["--root", str(native_tree)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        f"error: {native_tree}/validation: class 'skirt': 3 of 3 garments cannot be used, 3 of them because "
        f"of 'class'; the first is {native_tree}/validation/annos/000001.json: item1: category_name: expected"
    )
    assert not (native_tree / "annotations").exists()


def test_segmentation_is_left_out_when_asked(main, native_tree):
    assert main(["--root", str(native_tree), "--no-segmentation"]) == 0
    annotations = AnnotationTable.load(native_tree / "annotations/validation.npz", DEEPFASHION2)
    assert len(annotations.category_id) == 6 and len(annotations.vertices) == 0


def test_the_official_files_stand_beside(main, native_tree, capsys):
    assert main(["--root", str(native_tree), "--official-coco"]) == 0
    folder = native_tree / "annotations"
    files = {"validation.npz", "validation_report.tsv", *OFFICIAL}
    assert {path.name for path in folder.iterdir()} == files
    for name, counted in zip(OFFICIAL, (2, 5), strict=True):  # v of the native landmarks: 0 1 2 0 1 2 0 1
        coco = COCO(folder / name)
        assert {entry["num_keypoints"] for entry in coco.anns.values()} == {counted}
    assert "validation_coco_all.json: 100%" in capsys.readouterr().err


OFFICIAL = ("validation_coco_visible.json", "validation_coco_all.json")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing of this split was written"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
        (BrokenProcessPool("a process was terminated"), 1, "error: a process was terminated"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("step", ["deepfashion2.read_split", "prepare.write_official_coco"])
def test_an_interrupted_run_leaves_what_was_there(
    main, native_tree, edit, monkeypatch, capsys, step, error, status, message
):
    def fail(file, **_):
        if step == "prepare.write_official_coco":
            file.write(b'{"images": [')
        raise error

    arguments = ["--root", str(native_tree), "--official-coco"]
    assert main(arguments) == 0
    before = {path.name: path.read_bytes() for path in (native_tree / "annotations").iterdir()}
    edit("item1", landmarks=...)
    monkeypatch.setattr(f"kgdet_d2.data.convert.{step}", fail)
    assert main(arguments) == status
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert {path.name: path.read_bytes() for path in (native_tree / "annotations").iterdir()} == before


def test_workers_are_one_or_more(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--workers", "0"])
    assert "--workers: expected 1 or more, got 0" in capsys.readouterr().err


def test_the_test_split_has_photos_alone(main, native_tree, capsys):
    """Which are found, unlike those of a split that should have annotations."""
    image = native_tree / "test" / "image"
    image.mkdir(parents=True)
    for name in ("000009.jpg", "000002.jpg"):
        Image.new("RGB", (30, 20)).save(image / name)
    (image / "000010.jpg").write_bytes(b"no photo")
    (image / "cover.jpg").write_bytes((image / "000002.jpg").read_bytes())
    assert main(["--root", str(native_tree)]) == 0
    table = AnnotationTable.load(native_tree / "annotations/test.npz", DEEPFASHION2)
    names = ["000002.jpg", "000009.jpg", "cover.jpg"]
    assert table.file_name.tolist() == names and table.image_id.tolist() == [1, 2, 4]
    assert (table.num_garments, set(table.height), set(table.width)) == (0, {20}, {30})
    report = read_report(native_tree / "annotations" / "test_report.tsv")
    assert [(Path(row["path"]).name, row["lost"]) for row in report] == [
        ("000010.jpg", "photo"),
        ("image", "nothing"),
    ]
    (image / "cover.jpg").rename(image / "02.jpg")
    assert main(["--root", str(native_tree)]) == 0
    table = AnnotationTable.load(native_tree / "annotations/test.npz", DEEPFASHION2)
    assert table.file_name.tolist() == ["000002.jpg", "000009.jpg"] and table.image_id.tolist() == [2, 9]
    (native_tree / "train" / "image").mkdir(parents=True)
    assert main(["--root", str(native_tree), "--splits", "train"]) == 1
    assert "train/annos: there is no such folder" in capsys.readouterr().err
