import benchmark_annotations
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.data.convert.coco_export import write_official_coco


@pytest.fixture
def files(tmp_path, monkeypatch):
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    annotations = benchmark_annotations.made_up_annotations(30, 50)
    assert len(annotations) == 30 and len(annotations.category_id) == 50
    annotations.save(tmp_path / "train.npz")
    with open(tmp_path / "train.json", "wb") as stream:
        write_official_coco(stream, annotations, visible_only=False)
    return {"compact": tmp_path / "train.npz", "usual JSON": tmp_path / "train.json"}


def test_both_ways_read_the_same_garments(files):
    """What is compared does the same work: the same photos, boxes and labelled landmarks."""
    compact, usual = (
        {record["image_id"]: record["annotations"] for record in benchmark_annotations.WAYS[way](str(file))}
        for way, file in files.items()
    )
    assert compact.keys() == usual.keys() and len(compact) > 20
    for image_id, garments in compact.items():
        for mine, theirs in zip(garments, usual[image_id], strict=True):
            x, y, width, height = theirs["bbox"]
            assert mine["bbox"] == [x, y, x + width, y + height]
            assert sum(mine["keypoints"][2::3] > 0) == sum(v > 0 for v in theirs["keypoints"][2::3])


def test_a_reading_is_measured(files, monkeypatch):
    monkeypatch.setattr(benchmark_annotations, "BATCHES", 2)
    figures = benchmark_annotations.measure("compact", str(files["compact"]), 0)
    assert 0 < figures["load s"] and 0 < figures["first s"]
    assert figures["peak GB"] >= figures["imports GB"] > 0.1


def test_the_table_has_medians_and_ratios():
    def runs(*load_seconds):
        return [dict.fromkeys(benchmark_annotations.HEADERS[1:], 1.0) | {"load s": s} for s in load_seconds]

    text = benchmark_annotations.table({"compact": runs(1, 2, 9), "usual JSON": runs(8, 4, 3)})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [row[2] for row in rows if row[0] in ("compact", "usual JSON", "ratio")] == ["2.00", "4.00", "2.0"]
