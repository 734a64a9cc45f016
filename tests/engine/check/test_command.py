"""``kgdet check`` on small datasets, registered as columns and as dicts."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from kgdet_d2.cli import main
from kgdet_d2.data import AnnotationTable, register_fashion
from kgdet_d2.engine.check import command
from kgdet_d2.engine.check.pictures import SHEET_CELL, choose_samples
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import Garment, Photo

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / "configs/kgdet_R50_P5-P7.yaml")
PLOTS = {"garments.png", "boxes.png", "levels.png", "landmarks.png", "flip_map.png", "attributes.png"}
LISTS = {"statistics.json", "problems.tsv", "index.html"}
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
    """Register photos, with a picture of a colour of its own for each."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    monkeypatch.chdir(tmp_path)

    def register(photos, schema=DEEPFASHION2):
        Path("image").mkdir()
        for number, photo in enumerate(photos):
            Image.new("RGB", (photo.width, photo.height), (90, 90, number)).save(
                Path("image", photo.file_name)
            )
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
    assert {path.name for path in Path("out").iterdir()} == PLOTS | LISTS | {"samples.jpg"}
    for name in PLOTS:
        assert cv2.imread(f"out/{name}").std() > 5
    assert cv2.imread("out/samples.jpg").shape == (SHEET_CELL[1], 2 * SHEET_CELL[0], 3)

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
    size = SHEET_CELL[1], 6 * SHEET_CELL[0], 3  # six of eight
    assert cv2.imread("output/check_dataset/mine/samples.jpg").shape == size
    for photo in photos[:8]:
        Path("image", photo.file_name).unlink(missing_ok=True)
    assert check("mine", "--output", "out") == 0
    assert {path.name for path in Path("out").iterdir()} == LISTS


@pytest.mark.parametrize("photos", [[], [Photo("1.png", 1, 9, 9, [])]], ids=["nothing", "no garment"])
def test_empty_datasets(photos, register):
    register(photos, FLD)
    assert check("mine", "--config-file", CONFIG) == 0
    found = report()
    assert found["overview"]["photos"] == len(photos) and found["attributes"] == []
    assert {row["verdict"] for row in found["flip map"]} == {"too few garments to tell"}
    written = {path.name for path in Path("output/check_dataset/mine").iterdir()}
    assert written == PLOTS - {"attributes.png"} | LISTS


def test_samples_are_random_and_no_photo_comes_twice(photos):
    annotations = AnnotationTable.from_photos(photos, DEEPFASHION2)
    chosen = choose_samples(annotations, 3, seed=1)
    assert len(set(chosen)) == 3 and {name for _, name in chosen} == {"skirt"}
    assert chosen == choose_samples(annotations, 3, seed=1) != choose_samples(annotations, 3, seed=2)
    assert len(choose_samples(annotations, 100, seed=1)) == 40
    assert choose_samples(annotations, 0, seed=1) == []


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


def problems(output="output/check_dataset/mine"):
    with open(Path(output, "problems.tsv"), newline="") as file:
        return list(csv.DictReader(file, dialect=csv.excel_tab))


def changed_skirt(photo, *, box=(10, 20, 50, 80), twice=False, **xyv):
    """The photo with another box, landmarks of other places (k0=(x, y, v)), or the skirt twice."""
    (skirt,) = photo.garments
    keypoints = skirt.keypoints.copy()
    for name, values in xyv.items():
        keypoints[int(name.removeprefix("k"))] = values
    changed = replace(skirt, box=np.float32(box), keypoints=keypoints)
    return replace(photo, garments=[changed] * (1 + twice))


def test_suspicions_are_listed_and_drawn_and_no_error(photos, register, no_plots):
    photos[0] = changed_skirt(photos[0], box=(10, 20, 50, 40))
    photos[1] = changed_skirt(photos[1], k2=(0, 0, 2))
    photos[2] = changed_skirt(photos[2], twice=True)
    photos[3] = changed_skirt(photos[3], box=(30, 20, 30, 80))
    (skirt,) = photos[4].garments
    flipped = replace(skirt, keypoints=skirt.keypoints[DEEPFASHION2.local_flip(SKIRT)])
    photos[4] = replace(photos[4], garments=[flipped])
    register(photos)
    assert check("mine", "--pictures", "2") == 0
    assert [(row["problem"], row["photo"], row["garments"]) for row in problems()] == [
        ("box without area", "image/4.png", "1"),
        ("landmarks outside the box", "image/1.png", "1"),
        ("landmarks outside the box", "image/2.png", "1"),
        ("landmarks at the origin", "image/2.png", "1"),
        ("left and right exchanged", "image/5.png", "1"),
        ("garment twice", "image/3.png", "1 2"),
    ]
    assert {row["class"] for row in problems()} == {"skirt"} and {row["is_error"] for row in problems()} == {
        "0"
    }
    counts = {row["problem"]: (row["photos"], row["garments"]) for row in report()["problems"]}
    assert counts["landmarks outside the box"] == (2, 2) and counts["garment twice"] == (1, 2)
    assert counts["tiny box"] == (0, 0) and "missing photo" not in counts  # which --decode looks for

    folder = Path("output/check_dataset/mine")
    pages = {page.name for page in Path(folder, "problems").iterdir()}
    assert pages == {f"{name.replace(' ', '_')}.jpg" for name, (photos, _) in counts.items() if photos}
    page = cv2.imread(str(folder / "problems/landmarks_outside_the_box.jpg"))
    assert page.shape == (SHEET_CELL[1], 2 * SHEET_CELL[0], 3)
    index = Path(folder, "index.html").read_text()
    links = [link for link in re.findall('(?:href|src)="([^"]+)"', index) if not link.startswith("#")]
    assert {f"problems/{name}" for name in pages} <= set(links)
    assert all(Path(folder, link).is_file() for link in links)


def test_decoding_finds_bad_photos_and_is_exit_status_1(photos, register, capsys, no_plots):
    register(photos)
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    Image.fromarray(noise).save("image/2.png")
    content = Path("image/2.png").read_bytes()
    Path("image/2.png").write_bytes(content[:9000] + bytes(9) + content[9009:])
    Path("image/3.png").write_bytes(content[:9000])
    Path("image/4.png").unlink()
    Image.new("RGB", (96, 64)).save("image/5.png")
    Path("image/6.png").write_bytes(Path("image/1.png").read_bytes())
    assert check("mine", "--decode", "--workers", "2") == 1
    assert [(row["problem"], row["photo"], row["image_id"]) for row in problems()] == [
        ("missing photo", "image/4.png", "4"),
        ("unread photo", "image/3.png", "3"),
        ("damaged photo", "image/2.png", "2"),
        ("photo of another size", "image/5.png", "5"),
        ("double photo", "image/6.png", "6"),
    ]
    printed = capsys.readouterr().out
    assert "\nmissing photo: image/4.png: no such file\n" in printed
    assert "\ndamaged photo: image/2.png: " in printed and "double photo: " not in printed
    pages = Path("output/check_dataset/mine/problems")
    drawn = {"damaged_photo.jpg", "photo_of_another_size.jpg", "double_photo.jpg"}
    assert {page.name for page in pages.iterdir()} == drawn

    for number in (2, 3, 4, 5):
        Image.new("RGB", (64, 96), (number, 0, 0)).save(f"image/{number}.png")
    assert check("mine", "--decode", "--workers", "1", "--pictures", "3") == 0  # one photo is twice there
    assert [page.name for page in pages.iterdir()] == ["double_photo.jpg"]
    assert check("mine", "--decode", "--pictures", "0") == 0
    assert not list(pages.iterdir())


def test_the_same_file_twice_is_seen_without_reading(photos, register, no_plots):
    register(photos[:1])
    (record,) = DatasetCatalog.get("mine")
    DatasetCatalog.register("dicts", lambda: [record, {**record, "image_id": "two"}])
    MetadataCatalog.get("dicts").keypoint_schema = DEEPFASHION2
    for further in ([], ["--decode"]):
        assert check("dicts", *further) == 0
        (found,) = problems("output/check_dataset/dicts")
        assert (found["problem"], found["image_id"]) == ("double photo", "two")


def test_a_class_without_pairs_is_named(photos, register, capsys, no_plots):
    pairs = tuple(None if index == SKIRT else own for index, own in enumerate(DEEPFASHION2.flip_pairs))
    register(photos, replace(DEEPFASHION2, flip_pairs=pairs))
    assert check("mine") == 0
    printed = capsys.readouterr().out
    assert "\nskirt: " in printed and "left open in the schema" in printed
    assert "skirt: by its place 1 waist_left is paired with 3 waist_right\n" in printed


@pytest.mark.parametrize("photos", [[], [Photo("1.png", 1, 1, 1, [])]], ids=["nothing", "one small photo"])
def test_decoding_of_little(photos, register, no_plots):
    register(photos, FLD)
    assert check("mine", "--decode") == 0
    assert problems() == []
