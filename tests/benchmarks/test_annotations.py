"""The benchmark of annotation files."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks import annotations as benchmark
from benchmarks.__main__ import main
from kgdet_d2.data.convert.coco_export import write_official_coco
from tests.helpers.in_process import InProcess


@pytest.fixture
def files(tmp_path, monkeypatch):
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    annotations = benchmark.random_annotations(30, 50)
    assert len(annotations) == 30 and len(annotations.category_id) == 50
    annotations.save(tmp_path / "train.npz")
    with open(tmp_path / "train.json", "wb") as stream:
        write_official_coco(stream, annotations, visible_only=False)
    return {"compact": tmp_path / "train.npz", "usual JSON": tmp_path / "train.json"}


def test_both_ways_read_the_same_garments(files):
    """What is compared does the same work: the same photos, boxes and labelled landmarks."""
    compact, usual = (
        {record["image_id"]: record["annotations"] for record in benchmark.READERS[reader](str(file))}
        for reader, file in files.items()
    )
    assert compact.keys() == usual.keys() and len(compact) > 20
    for image_id, garments in compact.items():
        for mine, theirs in zip(garments, usual[image_id], strict=True):
            x, y, width, height = theirs["bbox"]
            assert mine["bbox"] == [x, y, x + width, y + height]
            assert sum(mine["keypoints"][2::3] > 0) == sum(v > 0 for v in theirs["keypoints"][2::3])


def test_a_reading_is_measured(files, monkeypatch):
    monkeypatch.setattr(benchmark, "BATCHES", 2)
    for workers in (0, 1):
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.data.pop("compact", None)
        figures = benchmark.read("compact", str(files["compact"]), workers)
        assert 0 < figures["file GB"] < 1e-3 and 0 < figures["load s"] and 0 < figures["first s"]
        assert figures["peak GB"] >= figures["imports GB"] > 0.1
        assert (figures["worker GB"] > 0) == (workers > 0)


def test_medians_and_ratios(monkeypatch, capsys, tmp_path):
    seconds = {"compact": [1.0, 2.0, 9.0], "usual JSON": [8.0, 4.0, 3.0]}

    def read(reader, file, workers):
        assert workers == 0
        return dict.fromkeys([*benchmark.FIGURES, "imports GB"], 1.0) | {"load s": seconds[reader].pop(0)}

    monkeypatch.setattr(benchmark, "new_process", InProcess)
    monkeypatch.setattr(benchmark, "read", read)
    options = ["--photos", "9", "--garments", "12", "--workers", "0", "--json", str(tmp_path / "runs.json")]
    assert main(["annotations", *options]) == 0
    text = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    columns = [line[2] for line in lines if line and line[0] in ("compact", "usual JSON", "ratio")]
    assert columns == ["2.00", "4.00", "2.0"]
    assert "9 photos, 12 garments, 0 workers" in text and "imports: 1.00 GB of each peak" in text
    rows = json.loads((tmp_path / "runs.json").read_text())["results"]
    assert [[run["load s"] for run in row["runs"]] for row in rows] == [[1, 2, 9], [8, 4, 3]]
