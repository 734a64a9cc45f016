"""``kgdet report``: the page, on random data sets."""

import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from kgdet_d2 import cli
from kgdet_d2.config import load_config
from kgdet_d2.engine import errors, evaluate
from kgdet_d2.engine.report import command, page
from kgdet_d2.evaluation.average_precision import box_average_precision
from kgdet_d2.evaluation.oracle import ORACLES
from kgdet_d2.schema import DEEPFASHION2, FLD, KeypointSchema
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.columns import columns
from tests.helpers.registered import NAME, random_case, register
from tests.helpers.scenes import HEIGHT, WIDTH

VOID = {"meta", "img", "br"}
SECTIONS = ["scores", "curves", "confusion", "errors", "landmarks", "photos", "configuration"]
SHORT = ("--no-subsets", "--no-oracle", "--max-photos", 0)
ODD = KeypointSchema(
    name="odd",
    class_names=('<b>"coat" & more</b>', "Röcke zu $x_$ und $", "plain"),
    keypoint_names=(("left<i>", "right<i>"), ("centre",), ("hem",)),
    slots=((0, 1), (2,), (3,)),
    sigmas=(0.05,) * 4,
    skeleton=(((0, 1),), (), ()),
)


class Page(HTMLParser):
    """A page's elements, text and tables; an element that is not closed where it should be is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text, self.tables = [], [], "", {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.rows, self.title = [], None
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.title] = self.rows

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()
        if self.open and self.open[-1] == "caption":
            self.title = data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def run(module, path, output, *options):
    arguments = ["--predictions", path, "--dataset", NAME, "--output", output, *options]
    module.run(module.make_parser().parse_args(list(map(str, arguments))))


def page_of(path, *options):
    output = path.with_name("report.html")
    run(command, path, output, *options)
    return Page(output.read_text())


def store(scene, path):
    columns(scene)[1].save(path)
    return path


def paint(records, folder):
    """Give each photo a file."""
    folder.mkdir(exist_ok=True)
    for record in records:
        record["file_name"] = str(folder / Path(record["file_name"]).name)
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 150)).save(record["file_name"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with all its parts, and the reports of ``kgdet evaluate`` and ``kgdet errors``."""
    folder = tmp_path_factory.mktemp("whole")
    scene = random_case(FLD)
    paint(scene.records, folder / "photos")
    register(scene.records, FLD)
    stored = store(scene, folder / "predictions.npz")
    options = ("--score-threshold", 0.4)
    made = page_of(stored, "--max-photos", 3, *options)
    run(evaluate, stored, folder, "--subsets", "--errors", *options)
    run(errors, stored, folder, "--oracle", *options)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)
    reports = [json.loads((folder / f"{name}.json").read_text()) for name in ("errors", "evaluation")]
    return made, reports[0] | reports[1]


@pytest.fixture
def no_figures(monkeypatch):
    """Curves and bars are not drawn, which takes a second."""
    empty = dict.fromkeys(("precision_recall", "thresholds", "confusion", "errors"), "data:image/svg+xml,")
    monkeypatch.setattr(page, "figures", lambda *_: empty)


@pytest.fixture
def drawn(catalog, tmp_path, no_figures):
    """A case of FLD's classes with its photos; its predictions."""
    scene = random_case(FLD)
    paint(scene.records, tmp_path / "photos")
    catalog(scene.records, FLD)
    return store(scene, tmp_path / "predictions.npz")


def test_it_is_one_well_formed_file(whole):
    page, _ = whole
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert ids == SECTIONS
    links = [value for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert {link for link in links if link.startswith("#")} == {f"#{section}" for section in SECTIONS}
    assert all(link.startswith(("#", "data:image/")) for link in links)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in page.text and "@import" not in page.text and "http" not in page.text
    (policy,) = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")


def test_it_is_accessible(whole):
    page, _ = whole
    assert page.named("html") == [{"lang": "en"}]
    headings = [tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert headings == ["h1", *["h2"] * len(SECTIONS)]
    assert len(page.named("img")) == 4 + 3 and all(len(image["alt"]) > 20 for image in page.named("img"))
    assert all(drawing["aria-label"] for drawing in page.named("svg"))
    assert None not in page.tables and len(page.tables) == len(page.named("table"))
    assert all(header["scope"] in ("row", "col") for header in page.named("th"))


def text(value, digits=2):
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def test_ap_is_that_of_evaluate(whole):
    page, report = whole
    scores = report["scores"].values()
    rows = page.tables["Average precision by class"][1:]
    for row, (name, garments) in zip(rows, report["garments"].items(), strict=True):
        assert row == [name, str(garments), *(text(score[f"AP-{name}"]) for score in scores)]
    names = ("AP", "AP50", "AP75", "APm", "APl", "ARl")
    header, *rows = page.tables["Average precision"]
    for row, score in zip(rows, scores, strict=True):
        assert [row[header.index(name)] for name in names] == [text(score[name]) for name in names]
    rows = page.tables["Average precision by attribute"][1:]
    for row, subset in zip(rows, report["subsets"], strict=True):
        start = [subset["attribute"], subset["name"], str(subset["garments"]), text(subset["bbox"]["AP"])]
        assert row[:4] == start


def titled(page, start):
    """The rows of the table whose title begins so, without the header."""
    (rows,) = [rows for title, rows in page.tables.items() if title.startswith(start)]
    return rows[1:]


def test_errors_are_those_of_errors(whole):
    page, report = whole
    kinds = [[name, str(row["count"]), text(row["dAP"])] for name, row in report["errors"]["kinds"].items()]
    assert [[row[0], *row[2:]] for row in titled(page, "Errors of boxes")[:-1]] == kinds
    oracles = [[name, text(row["bbox"]["AP"])] for name, row in report["oracles"].items()]
    assert [row[:2] for row in titled(page, "Average precision by oracles")] == oracles
    everything = report["landmark_error"]["visible"]["overall"]["all"]
    (row,) = [row for row in titled(page, "Landmark error, visible") if row[0] == "all"]
    assert row[3:5] == [text(everything["NE"], 4), text(everything["NE_box"], 4)]
    assert row[5] == text(everything["PCK@0.05"])


def test_the_sizes_are_cocos(drawn):
    truth, predictions = evaluate.load(NAME, drawn)
    scores = box_average_precision(truth, predictions)[0].summary()
    rows = page_of(drawn, *SHORT).tables["Average precision by size"][1:]
    sides = np.sqrt(truth.area)
    garments = [(sides < 32).sum(), ((sides >= 32) & (sides < 96)).sum(), (sides >= 96).sum()]
    assert [row[1] for row in rows] == [str(count) for count in garments]
    assert [row[2] for row in rows] == [text(scores[f"AP{size}"]) for size in "sml"]


def test_what_is_left_out(drawn):
    titles = page_of(drawn, *SHORT).tables
    assert not any("attribute" in title or "oracle" in title or "matched" in title for title in titles)


def test_names_are_escaped(catalog, make_scene, tmp_path):
    scene = make_scene(np.random.default_rng(0), ODD, images=3)
    scene.records[0]["file_name"] = "<img src=x onerror=alert(1)>&ü.jpg"
    paint(scene.records, tmp_path / "photos & <more>")
    Path(scene.records[1]["file_name"]).unlink()
    catalog(scene.records, ODD)
    page = page_of(store(scene, tmp_path / "<u>predictions.npz"), *SHORT, "--max-photos", 100)
    assert [row[0] for row in page.tables["Average precision by class"][1:]] == list(ODD.class_names)
    assert "<img src=x onerror=alert(1)>&ü.jpg" in page.text
    assert "<u>predictions.npz" in page.text
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert "left<i>" in page.text and {"i", "u"}.isdisjoint(tag for tag, _ in page.elements)
    assert any('<b>"coat" & more</b>' in image["alt"] for image in page.named("img"))


def test_boxes_alone(scene, tmp_path, no_figures):
    for output in scene.outputs:
        output.remove("pred_keypoints")
    page = page_of(store(scene, tmp_path / "predictions.npz"), "--max-photos", 2)
    assert "landmarks" not in [attributes.get("id") for attributes in page.named("h2")]
    assert not page.named("svg") and "andmark" not in page.text
    assert [row[0] for row in titled(page, "Average precision by oracles")] == list(ORACLES)[:3]
    header, row = page.tables["Detections matched with garments"]
    assert len(row) == 4 and header == ["garments", "found", "right class, %", "median IoU"]
    assert [row[0] for row in page.tables["Average precision"][1:]] == ["box"]


def test_nothing_predicted(scene, tmp_path):
    Predictions.empty(scene.schema).save(tmp_path / "none.npz")
    page = page_of(tmp_path / "none.npz", "--no-subsets")
    assert f"{len(scene.records)} of the photos were not predicted" in page.text
    assert page.tables["Average precision"][1][1] == "0.00"
    assert "The 0 worst" not in page.text and "nan" not in page.text
    assert all(len(rows) > 1 for title, rows in page.tables.items())


def test_nothing_to_find(catalog, tmp_path):
    scene = random_case(DEEPFASHION2, most_garments=0)
    catalog(scene.records, DEEPFASHION2)
    page = page_of(store(scene, tmp_path / "predictions.npz"))
    assert set(page.tables["Average precision"][1][1:]) == {"-"}
    assert "nan" not in page.text.replace("predictions", "")


def test_photos_that_cannot_be_read_are_named(catalog, make_scene, no_figures, tmp_path):
    scene = make_scene(np.random.default_rng(0), FLD, images=4)
    paint(scene.records, tmp_path / "photos")
    catalog(scene.records, FLD)
    photos = sorted((tmp_path / "photos").iterdir())
    photos[0].unlink()
    photos[1].write_bytes(b"not a photo")
    page = page_of(store(scene, tmp_path / "predictions.npz"), *SHORT, "--max-photos", 100)
    assert "2 of these photos could not be read" in page.text
    assert all(f"{photo.name}: cannot read the image" in page.text for photo in photos[:2])
    pictures = [image["alt"] for image in page.named("img") if image["src"].startswith("data:image/jpeg")]
    shown = {alt.split(". Ground truth")[0] for alt in pictures}
    assert shown == {photo.name for photo in photos[2:]}


def test_the_configuration(drawn, tmp_path):
    assert "configuration is not known" in page_of(drawn, *SHORT).text
    of_run = tmp_path / "run" / "inference" / NAME / "predictions.npz"
    of_run.parent.mkdir(parents=True)
    shutil.copy(drawn, of_run)
    (tmp_path / "run" / "config.yaml").write_text("OF_THE_RUN: <yes>\n")
    page = page_of(of_run, *SHORT)
    assert "OF_THE_RUN: <yes>" in page.text and "run/config.yaml" in page.text
    page = page_of(of_run, *SHORT, "--config-file", "sample/kgdet_tiny.yaml")
    assert load_config("sample/kgdet_tiny.yaml", []).dump() in page.text and "OF_THE_RUN" not in page.text


def test_unusable_input_is_told_in_a_line(drawn, tmp_path, capsys):
    def failure(path, *options):
        arguments = ["--dataset", NAME, "--output", str(tmp_path / "report.html"), *options]
        assert cli.main(["report", "--predictions", str(path), *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "report.html").exists()
        return line

    assert "nowhere.npz" in failure(tmp_path / "nowhere.npz")
    assert "no_config.yaml" in failure(drawn, "--config-file", "no_config.yaml")
    with pytest.raises(SystemExit):
        cli.main(["report", "--predictions", str(drawn), "--dataset", NAME])
    assert "--output" in capsys.readouterr().err
