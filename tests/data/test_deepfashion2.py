import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from kgdet_d2.data.compact import CompactAnnotations
from kgdet_d2.data.dataset import FashionDataset
from kgdet_d2.data.deepfashion2 import oriented_size, read_split
from kgdet_d2.schema import DEEPFASHION2

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "deepfashion2_sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the DeepFashion2 sample is absent")


@pytest.fixture(scope="module")
def main():
    """``main`` of the script, which no package may import."""
    path = ROOT / "datasets" / "prepare_deepfashion2.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def edit(native_tree):
    """Edit the annotation of photo 2: set fields of it or, by ``item``, of an item; ``...`` removes."""
    path = native_tree / "validation" / "annos" / "000002.json"

    def edit(item=None, **fields):
        content = json.loads(path.read_text())
        target = content if item is None else content[item]
        target.update(fields)
        for name in [name for name, value in fields.items() if value is ...]:
            del target[name]
        path.write_text(json.dumps(content))

    return edit


# --- what is right ---


@needs_sample
def test_the_sample_agrees_with_the_usual_conversion():
    """Garment by garment, exactly, with what the dataset's usual converter made of the same photos."""
    annotations, problems = read_split(SAMPLE / "validation")
    assert problems == []
    official = json.loads((SAMPLE / "official_coco_style.json").read_text())
    records = {Path(record["file_name"]).name: record for record in FashionDataset(annotations, "")}
    assert len(records) == len(official["images"]) == 24
    compared = 0
    for image in official["images"]:
        record = records[image["file_name"]]
        assert (record["image_id"], record["width"], record["height"]) == (
            image["id"],
            image["width"],
            image["height"],
        )
        expected = [entry for entry in official["annotations"] if entry["image_id"] == image["id"]]
        for annotation, entry in zip(record["annotations"], expected, strict=True):
            x1, y1, x2, y2 = annotation["bbox"]
            landmarks = annotation["keypoints"].reshape(-1, 3)
            assert annotation["category_id"] == entry["category_id"] - 1
            assert [x1, y1, x2 - x1, y2 - y1] == entry["bbox"] and (x2 - x1) * (y2 - y1) == entry["area"]
            assert (landmarks[:, 2] > 0).sum() == entry["num_keypoints"]
            slots = DEEPFASHION2.scatter(landmarks, annotation["category_id"])
            assert slots.ravel().tolist() == entry["keypoints"]
            assert record["pair_id"] == entry["pair_id"] and annotation["style"] == entry["style"]
            for polygon, numbers in zip(annotation["segmentation"], entry["segmentation"], strict=True):
                np.testing.assert_array_equal(polygon, np.float32(numbers))
            compared += 1
    assert compared == 42


def test_every_native_value_is_kept(native_tree, native_item):
    annotations, problems = read_split(native_tree / "validation")
    assert problems == []
    assert annotations.file_name.tolist() == ["000001.jpg", "000002.jpg", "000010.jpg"]
    assert annotations.image_id.tolist() == [1, 2, 10]
    assert set(annotations.photo_attributes["source"]) == {"shop"} and set(
        annotations.photo_attributes["pair_id"]
    ) == {5}
    assert set(annotations.width) == {64} and set(annotations.height) == {48}
    assert (
        annotations.garment_attributes["item"].tolist() == [1, 2] * 3
        and annotations.garment_attributes["style"].tolist() == [1, 0] * 3
    )
    for name in ("scale", "occlusion", "zoom_in", "viewpoint"):
        assert set(annotations.garment_attributes[name]) == {native_item[name]}
    for annotation in FashionDataset(annotations, "")[1]["annotations"]:
        assert annotation["category_id"] == 8
        assert annotation["bbox"] == native_item["bounding_box"]
        assert annotation["keypoints"].tolist() == native_item["landmarks"]
        assert [polygon.tolist() for polygon in annotation["segmentation"]] == native_item["segmentation"]


def test_items_come_in_the_order_of_their_numbers(native_tree, native_item, edit):
    edit(item10=native_item, item3=native_item)
    annotations, _ = read_split(native_tree / "validation")
    assert annotations.garment_attributes["item"].tolist() == [1, 2, 1, 2, 3, 10, 1, 2]


def test_a_photo_without_garments_is_kept(native_tree, edit):
    edit(item1=..., item2=...)
    annotations, problems = read_split(native_tree / "validation")
    assert problems == [] and np.diff(annotations.garment_offsets).tolist() == [2, 0, 2]


def test_more_workers_read_the_same(native_tree, edit):
    edit("item1", style=...)
    one, problems = read_split(native_tree / "validation")
    two, same_problems = read_split(native_tree / "validation", workers=2)
    assert problems == same_problems and len(problems) == 1
    assert list(map(str, FashionDataset(one, ""))) == list(map(str, FashionDataset(two, "")))


@pytest.mark.parametrize("orientation", [None, *range(10)])
def test_the_size_is_that_of_the_photo_as_it_is_read(tmp_path, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    height, width = read_image(str(tmp_path / "a.jpg"), "RGB").shape[:2]
    assert oriented_size(tmp_path / "a.jpg") == (width, height)


def test_damaged_exif_is_no_exif(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense")
    assert read_image(str(tmp_path / "a.jpg"), "RGB").shape == (20, 30, 3)
    assert oriented_size(tmp_path / "a.jpg") == (30, 20)


# --- what is wrong ---

ITEM_FIELDS = (
    "category_id category_name style scale occlusion zoom_in viewpoint bounding_box landmarks"
).split()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        *[({name: ...}, f"{name} is missing") for name in [*ITEM_FIELDS, "segmentation"]],
        *[({name: "1"}, f"{name}: expected int, got '1'") for name in ("category_id", "scale", "viewpoint")],
        ({"category_id": True}, "category_id: expected int, got True"),
        ({"category_id": 0}, "category_id: expected 1..13, got 0"),
        ({"category_id": 14}, "category_id: expected 1..13, got 14"),
        ({"category_name": "sling"}, "category_name: expected 'skirt' for category_id 9, got 'sling'"),
        ({"landmarks": [1.0, 2.0, 0.0] * 9}, "landmarks: expected 24 numbers, got 27"),
        ({"landmarks": [1.0, 2.0, 3.0] * 8}, "landmarks: expected visibility 0, 1 or 2, got [3.0]"),
        ({"landmarks": [1.0, 2.0, 0.5] * 8}, "landmarks: expected visibility 0, 1 or 2, got [0.5]"),
        ({"landmarks": [float("nan")] * 24}, "landmarks: expected a list of numbers"),
        ({"bounding_box": [1, 2, 3]}, "bounding_box: expected 4 numbers, got 3"),
        ({"bounding_box": [1, 2, 3, None]}, "bounding_box: expected a list of numbers"),
        ({"bounding_box": [1, 2, 3, float("inf")]}, "bounding_box: expected a list of numbers"),
        ({"bounding_box": [1, 2, 1, 9]}, "bounding_box: expected x1 < x2 and y1 < y2"),
        ({"bounding_box": [1, 9, 5, 2]}, "bounding_box: expected x1 < x2 and y1 < y2"),
        ({"segmentation": None}, "segmentation: expected list, got None"),
    ],
)
def test_a_garment_that_cannot_be_used_is_left_out_alone(native_tree, edit, fields, reason):
    edit("item1", **fields)
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.garment_offsets).tolist() == [2, 1, 2]
    assert annotations.garment_attributes["item"].tolist() == [1, 2, 2, 1, 2]
    assert (problem.path.name, problem.item) == ("000002.json", "item1")
    assert problem.reason.startswith(reason)
    with pytest.raises(ValueError) as error:
        read_split(native_tree / "validation", strict=True)
    assert str(error.value) == str(problem)


@pytest.mark.parametrize(
    ("item", "value", "reason"),
    [
        ("item1", [], "expected a JSON object, got []"),
        ("itemA", {}, "item's name: expected item(\\d+), got 'itemA'"),
    ],
)
def test_an_item_that_is_none(native_tree, edit, item, value, reason):
    edit(**{item: value})
    _, (problem,) = read_split(native_tree / "validation")
    assert (problem.item, problem.reason) == (item, reason)


@pytest.mark.parametrize("polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], 5, [1, 2, 3, 4, 5, "6"]])
def test_a_polygon_that_is_none_is_dropped_alone(native_tree, native_item, edit, polygon):
    edit("item1", segmentation=[polygon, *native_item["segmentation"]])
    annotations, (problem,) = read_split(native_tree / "validation")
    assert np.diff(annotations.polygon_offsets).tolist() == [2] * 6
    assert problem.item == "item1" and problem.reason.startswith("polygon dropped: segmentation[0]: expected")


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("annos/000002.json", b"", "Expecting value"),
        ("annos/000002.json", b'{"source": "user", ', "Expecting property name"),
        ("annos/000002.json", b"\xff\xfe\xff", "codec can't decode"),
        ("annos/000002.json", b"[1, 2]", "expected a JSON object, got [1, 2]"),
        ("annos/000002.json", b'{"pair_id": 1}', "source is missing"),
        ("annos/000002.json", b'{"source": "user"}', "pair_id is missing"),
        ("annos/000002.json", b'{"source": 3, "pair_id": 1}', "source: expected str, got 3"),
        ("image/000002.jpg", None, "No such file"),
        ("image/000002.jpg", b"", "cannot identify image file"),
        ("image/000002.jpg", b"not a photo", "cannot identify image file"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_its_photo_out(native_tree, file, content, reason):
    path = native_tree / "validation" / file
    path.unlink() if content is None else path.write_bytes(content)
    annotations, (problem,) = read_split(native_tree / "validation")
    assert annotations.image_id.tolist() == [1, 10] and len(annotations.category_id) == 4
    assert (problem.path.name, problem.item) == ("000002.json", "") and reason in problem.reason
    with pytest.raises(ValueError, match=r"000002\.json"):
        read_split(native_tree / "validation", strict=True)


def test_a_file_name_that_is_no_number(native_tree):
    (native_tree / "validation/annos/000002.json").rename(native_tree / "validation/annos/two.json")
    annotations, (problem,) = read_split(native_tree / "validation")
    assert len(annotations) == 2 and str(problem).endswith("two.json: file name: expected (\\d+), got 'two'")


# --- the script ---


def test_the_script_writes_file_and_report(main, native_tree, edit, capsys):
    edit("item1", style=...)
    assert main(["--root", str(native_tree)]) == 0
    assert len(CompactAnnotations.load(native_tree / "annotations/validation.npz", DEEPFASHION2)) == 3
    report = (native_tree / "annotations/validation_report.txt").read_text()
    assert report == f"{native_tree}/validation/annos/000002.json: item1: style is missing\n"
    printed = capsys.readouterr()
    assert "validation.npz: 3 photos, 5 garments" in printed.out
    assert "1 problems" in printed.err and "validation_report.txt" in printed.err
    assert len(list((native_tree / "annotations").iterdir())) == 2


def test_a_later_run_replaces_the_report(main, native_tree, edit, capsys):
    edit("item1", style=...)
    assert main(["--root", str(native_tree)]) == 0
    edit("item1", style=1)
    capsys.readouterr()
    assert main(["--root", str(native_tree)]) == 0
    assert (native_tree / "annotations/validation_report.txt").read_text() == ""
    assert "problems" not in capsys.readouterr().err


def test_strict_writes_nothing(main, native_tree, edit, tmp_path, capsys):
    edit("item1", style=...)
    assert main(["--root", str(native_tree), "--strict", "--output", str(tmp_path / "out")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {native_tree}/validation/annos/000002.json: item1: style is missing"
    assert not (tmp_path / "out").exists()


@needs_sample
def test_the_script_reads_the_sample_and_writes_elsewhere(main, tmp_path):
    assert main(["--root", str(SAMPLE), "--output", str(tmp_path)]) == 0
    annotations = CompactAnnotations.load(tmp_path / "validation.npz", DEEPFASHION2)
    assert (len(annotations), len(annotations.category_id)) == (24, 42)
    assert (tmp_path / "validation_report.txt").read_text() == ""


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
        path.write_text("{}")
    assert main(["--root", str(native_tree)]) == 1
    assert "none of its 3 annotations can be used" in capsys.readouterr().err
    assert not (native_tree / "annotations").exists()
