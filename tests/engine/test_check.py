"""``kgdet check`` on small datasets, registered as columns and as dicts."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from kgdet_d2.cli import main
from kgdet_d2.data import AnnotationTable, register_fashion
from kgdet_d2.engine import check as command
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import Garment, Photo

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/kgdet_R50_P5-P7.yaml")
PLOTS = {"garments.png", "boxes.png", "levels.png", "landmarks.png", "flip_map.png", "attributes.png"}
SKIRT = DEEPFASHION2.class_names.index("skirt")
# waist left, centre, right; side and hem left; hem centre; hem and side right: in a box of 0..1
SKIRT_PLACES = [(0.2, 0), (0.5, 0.05), (0.8, 0), (0.05, 0.5), (0, 0.9), (0.5, 1), (1, 0.9), (0.95, 0.5)]


def check(*arguments):
    return main(["check", *arguments])


@pytest.fixture
def photos():
    """Forty photos with a skirt each, one with none."""
    rng = np.random.default_rng(0)
    photos = []
    for number in range(1, 41):
        places = np.array(SKIRT_PLACES) + rng.normal(0, 0.02, (8, 2))
        keypoints = np.column_stack([[10, 20] + [40, 60] * places, rng.integers(1, 3, 8)])
        box, attributes = np.float32([10, 20, 50, 80]), {"viewpoint": 2, "style": number % 3}
        skirt = Garment(SKIRT, box, keypoints.astype(np.float32), attributes=attributes)
        photos.append(Photo(f"{number}.png", number, 64, 96, [skirt], {"pair_id": number // 2}))
    return [*photos, Photo("41.png", 41, 96, 64, [], {"pair_id": 99})]


@pytest.fixture
def register(tmp_path, monkeypatch):
    """Register photos, with a grey picture for each."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    monkeypatch.chdir(tmp_path)

    def register(photos, schema=DEEPFASHION2):
        Path("image").mkdir()
        for photo in photos:
            Image.new("RGB", (photo.width, photo.height), (90, 90, 90)).save(Path("image", photo.file_name))
        AnnotationTable.from_photos(photos, schema).save("mine.npz")
        register_fashion("mine", schema, "image", "mine.npz")

    return register


@pytest.fixture
def no_plots(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr(command, "write_plots", lambda *arguments: None)


def report(output="output/check_dataset/mine"):
    return json.loads(Path(output, "statistics.json").read_text())


def test_table_json_plots_and_samples(photos, register, capsys):
    register(photos)
    assert check("mine", "--output", "out", "--config-file", CONFIG) == 0
    assert {path.name for path in Path("out").iterdir()} == PLOTS | {"statistics.json", "samples.jpg"}
    for name in PLOTS:
        assert cv2.imread(f"out/{name}").std() > 5
    assert cv2.imread("out/samples.jpg").shape == (command.SHEET_CELL[1], 2 * command.SHEET_CELL[0], 3)

    found = report("out")
    assert found["dataset"] == "mine" and found["overview"]["garments"] == 40
    assert found["overview"]["photos without garments"] == 1 and found["overview"]["pairs"] == 22
    assert found["classes"][SKIRT] | {"labelled": 1, "garments": 40, "share": 1} == found["classes"][SKIRT]
    skirt = {row["landmark"]: row for row in found["flip map"] if row["class"] == "skirt"}
    assert skirt["1 waist_left"]["partner"] == "3 waist_right"
    assert {row["verdict"] for row in skirt.values()} == {"agrees"}

    printed = capsys.readouterr().out
    assert "garments" in printed and "fits better" not in printed
    for title in set(found) - {"dataset", "overview"}:
        assert f"\n{title}" in printed


def test_a_wrong_flip_map_is_exit_status_1(photos, register, capsys, no_plots):
    """The names say that the left of the waist is the right hem's partner, and the other way round."""
    renamed = list(DEEPFASHION2.keypoint_names)
    names = dict(zip(renamed[SKIRT], renamed[SKIRT], strict=True))
    names["hem_right"], names["waist_right"] = "waist_right", "hem_right"
    renamed[SKIRT] = tuple(names.values())
    register(photos, replace(DEEPFASHION2, keypoint_names=tuple(renamed), flip_pairs=()))
    assert check("mine") == 1
    printed = capsys.readouterr().out
    assert "skirt: 1 waist_left is paired with 7 waist_right, 3 hem_right fits better\n" in printed
    wrong = [row for row in report()["flip map"] if row["verdict"] == "contradicted"]
    assert [int(row["landmark"].split()[0]) for row in wrong] == [1, 3, 5, 7]
    assert {row["class"] for row in wrong} == {"skirt"}


def test_plain_dicts_give_the_same(photos, register, no_plots):
    register(photos)
    assert check("mine") == 0
    dicts = list(DatasetCatalog.get("mine"))
    DatasetCatalog.register("dicts", lambda: dicts)
    MetadataCatalog.get("dicts").keypoint_schema = DEEPFASHION2
    assert check("dicts") == 0
    assert report() == report("output/check_dataset/dicts") | {"dataset": "mine"}


@pytest.mark.parametrize("image_id", ["a string", 7, None], ids=str)
def test_ids_of_plain_dicts_do_not_matter(photos, register, no_plots, image_id):
    """Strings, the same for all, or missing."""
    register(photos)
    assert check("mine") == 0
    dicts = list(DatasetCatalog.get("mine"))
    for record in dicts:
        record["image_id"] = image_id
        if image_id is None:
            del record["image_id"]
    DatasetCatalog.register("dicts", lambda: dicts)
    MetadataCatalog.get("dicts").keypoint_schema = DEEPFASHION2
    assert check("dicts") == 0
    assert report() == report("output/check_dataset/dicts") | {"dataset": "mine"}


def test_missing_photos_are_told_and_left_out(photos, register, capsys, no_plots):
    register(photos[:8])
    Path("image/7.png").unlink()
    Path("image/8.png").write_bytes(b"no picture")
    assert check("mine", "--samples", "8") == 0
    errors = capsys.readouterr().err
    assert errors.count("sample left out: image/7.png") == errors.count("sample left out: image/8.png") == 1
    size = command.SHEET_CELL[1], 6 * command.SHEET_CELL[0], 3  # six of eight
    assert cv2.imread("output/check_dataset/mine/samples.jpg").shape == size
    for photo in photos[:8]:
        Path("image", photo.file_name).unlink(missing_ok=True)
    assert check("mine", "--output", "out") == 0
    assert [path.name for path in Path("out").iterdir()] == ["statistics.json"]


@pytest.mark.parametrize("photos", [[], [Photo("1.png", 1, 9, 9, [])]], ids=["nothing", "no garment"])
def test_empty_datasets(photos, register):
    register(photos, FLD)
    assert check("mine", "--config-file", CONFIG) == 0
    found = report()
    assert found["overview"]["photos"] == len(photos) and found["attributes"] == []
    assert {row["verdict"] for row in found["flip map"]} == {"too few garments to tell"}
    written = {path.name for path in Path("output/check_dataset/mine").iterdir()}
    assert written == PLOTS - {"attributes.png"} | {"statistics.json"}


def test_samples_are_random_and_no_photo_comes_twice(photos):
    annotations = AnnotationTable.from_photos(photos, DEEPFASHION2)
    chosen = command.choose_samples(annotations, 3, seed=1)
    assert len(set(chosen)) == 3 and {name for _, name in chosen} == {"skirt"}
    assert (
        chosen
        == command.choose_samples(annotations, 3, seed=1)
        != command.choose_samples(annotations, 3, seed=2)
    )
    assert len(command.choose_samples(annotations, 100, seed=1)) == 40
    assert command.choose_samples(annotations, 0, seed=1) == []


def test_levels_are_those_of_the_assignment():
    """int((log2(w / 4) + log2(h / 4)) / 2), clamped (docs/DESIGN.md), derived anew for each box."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, np.log(2000), (500, 2)))
    low = rng.uniform(0, 100, (500, 2))
    boxes = np.hstack([low, low + sizes]).astype(np.float32)
    expected = [int((math.log2(w / 4) + math.log2(h / 4)) / 2) for w, h in boxes[:, 2:] - boxes[:, :2]]
    for lowest, highest in ((2, 8), (5, 7), (5, 5)):
        levels = command.assigned_levels(boxes, lowest, highest)
        assert levels.tolist() == [min(max(level, lowest), highest) for level in expected]
    assert len(command.assigned_levels(boxes[:0], 3, 7)) == 0


def test_boxes_are_resized_as_photos_are():
    """The shorter side to 800, unless the longer one became more than 1333; x and y each by its own ratio."""
    box = np.float32([10, 20, 30, 50])
    sizes = [(400, 400), (468, 624), (1000, 3000)]
    garments = [[Garment(0, box, np.zeros((25, 3), np.float32))] * number for number in (1, 0, 2)]
    photos = [
        Photo(f"{index}.jpg", index, *size, own)
        for index, (size, own) in enumerate(zip(sizes, garments, strict=True))
    ]
    boxes = command.resized_boxes(AnnotationTable.from_photos(photos, DEEPFASHION2), 800, 1333)
    tall = box * np.tile([444 / 1000, 1333 / 3000], 2)
    np.testing.assert_allclose(boxes, [2 * box, tall, tall], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "nobody"),
        (["plain"], "dataset 'plain': expected the names of its landmarks"),
        (["sizeless"], "photo 0 of the list, a.jpg: no 'width'"),
        (["deepfashion2_train"], "prepare_deepfashion2"),
        (["mine", "--config-file", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_read_is_exit_status_1(photos, register, capsys, arguments, message):
    register(photos)
    DatasetCatalog.register("plain", list)
    DatasetCatalog.register("sizeless", lambda: [{"file_name": "a.jpg"}])
    MetadataCatalog.get("sizeless").keypoint_schema = DEEPFASHION2
    assert check(*arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""
    assert not Path("output").exists()
