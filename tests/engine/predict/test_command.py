"""What ``kgdet predict`` writes, with a model of random weights."""

import json

import cv2
import numpy as np
import pyarrow.parquet as pq
from detectron2.data import DatasetCatalog

from kgdet_d2 import FashionPredictor
from kgdet_d2.engine.predict import outputs
from kgdet_d2.schema import KeypointSchema
from tests.helpers.predict_runs import ALL, contents, predict


def test_tables(whole, photos, weights):
    """They hold what the predictor finds on each photo alone: a batch's photos change nothing for others."""
    table = pq.read_table(whole / "photos.parquet").to_pylist()
    assert [row["photo"] for row in table] == [
        "a/1.jpg",
        "a/2.jpg",
        "a/3.png",
        *(f"b/{n}.jpg" for n in "12349"),
    ]
    *good, bad = table
    assert bad["garments"] is bad["height"] is None and "9.jpg: cannot read the image" in bad["error"]
    assert all(row["garments"] == 3 and row["error"] is None for row in good)
    assert (good[0]["height"], good[0]["width"]) == (90, 60)
    garments = pq.read_table(whole / "garments.parquet")
    schema = KeypointSchema.from_dict(json.loads(garments.schema.metadata[b"kgdet_schema"]))
    assert schema.name == "deepfashion2" and len(garments) == sum(row["garments"] for row in good)
    predictor = FashionPredictor.from_checkpoint(weights, "cpu", 0.0)
    rows = garments.to_pylist()
    for photo in good:
        expected = predictor(photos / photo["photo"])
        found = [row for row in rows if row["photo"] == photo["photo"]]
        assert [row["class"] for row in found] == expected.names
        for row, box, score, points in zip(
            found, expected.boxes, expected.scores, expected.keypoints, strict=True
        ):
            np.testing.assert_allclose([row[name] for name in ("x1", "y1", "x2", "y2")], box, atol=1e-2)
            np.testing.assert_allclose(row["score"], score, atol=1e-5)
            columns = [row[f"landmark_{name}"] for name in ("x", "y", "score")]
            np.testing.assert_allclose(np.transpose(columns), points, atol=1e-2)


def test_other_forms(whole):
    images = json.loads((whole / "coco_images.json").read_text())
    results = json.loads((whole / "coco_results.json").read_text())
    assert [image["id"] for image in images["images"]] == list(range(1, 8))
    assert len(images["categories"]) == 13 and len(results) == 21
    assert {result["image_id"] for result in results} == set(range(1, 8))
    assert len(results[0]["keypoints"]) == 3 * 294
    lines = [json.loads(line) for line in (whole / "garments.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [image["file_name"] for image in images["images"]]
    first = pq.read_table(whole / "garments.parquet").to_pylist()[0]
    assert lines[0]["garments"][0]["class"] == first["class"]
    assert next(iter(lines[0]["garments"][0]["landmarks"].values()))[0] == first["landmark_x"][0]
    pictures = sorted(path.relative_to(whole / "pictures").as_posix() for path in whole.glob("pictures/*/*"))
    assert pictures == sorted(f"{image['file_name']}.jpg" for image in images["images"])
    assert cv2.imread(str(whole / "pictures/a/1.jpg.jpg")).shape == (768, 512, 3)
    crops = list(whole.glob("crops/a/1.jpg/*.jpg"))
    assert 0 < len(crops) <= 3 and all(cv2.imread(str(crop)) is not None for crop in crops)
    assert not (whole / "parts").exists()


def test_pages_of_figures(whole):
    """Of each part one, as parts are small; its rows are the drawn pictures of the part's photos."""
    assert sorted(path.name for path in (whole / "figures").iterdir()) == [
        "000000.jpg",
        "000003.jpg",
        "000006.jpg",
    ]
    page = cv2.imread(str(whole / "figures/000006.jpg"))  # of b/4.jpg alone, for b/9.jpg cannot be read
    drawn = cv2.imread(str(whole / "pictures/b/4.jpg.jpg"))
    assert page.shape[:2] == (400, 300)
    expected = cv2.resize(drawn, (300, 400), interpolation=cv2.INTER_AREA)
    assert np.abs(page.astype(int) - expected).mean() < 5


def test_no_garment_anywhere(photos, weights, tmp_path):
    output = tmp_path / "found"
    assert predict(output, weights, photos / "a", "--formats", *ALL, threshold=0.99) == 0
    assert len(pq.read_table(output / "garments.parquet")) == 0
    assert json.loads((output / "coco_results.json").read_text()) == []
    assert [row["garments"] for row in pq.read_table(output / "photos.parquet").to_pylist()] == [0, 0, 0]


def test_workers_change_nothing(whole, photos, weights, tmp_path):
    assert predict(tmp_path, weights, photos, "--formats", "coco", "--workers", "3") == 1
    for name in ("garments.parquet", "photos.parquet", "coco_results.json", "coco_images.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_registered_dataset(photos, weights, tmp_path):
    records = [{"file_name": str(photos / f"b/{n}.jpg"), "image_id": 10 * n} for n in (2, 1)]
    DatasetCatalog.register("test_predict", lambda: records)
    try:
        assert predict(tmp_path / "found", weights, "--dataset", "test_predict") == 0
        assert predict(tmp_path / "both", weights, photos, "--dataset", "test_predict") == 1
    finally:
        DatasetCatalog.remove("test_predict")
    rows = pq.read_table(tmp_path / "found" / "photos.parquet").to_pylist()
    assert [(row["photo"], row["image_id"]) for row in rows] == [("2.jpg", 20), ("1.jpg", 10)]


def test_a_dataset_without_photos(weights, tmp_path):
    DatasetCatalog.register("test_predict_none", list)
    try:
        assert predict(tmp_path, weights, "--dataset", "test_predict_none", "--formats", *ALL) == 0
    finally:
        DatasetCatalog.remove("test_predict_none")
    assert len(pq.read_table(tmp_path / "photos.parquet")) == 0
    assert json.loads((tmp_path / "coco_images.json").read_text())["images"] == []
    assert sorted(contents(tmp_path)) == [
        "coco_images.json",
        "coco_results.json",
        "garments.jsonl",
        "garments.parquet",
        "photos.parquet",
        "run.json",
    ]


def test_tables_of_more_rows_than_are_held(whole, photos, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_ROWS", 5)
    assert predict(tmp_path, weights, photos) == 1
    table = pq.ParquetFile(tmp_path / "garments.parquet")
    assert [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)] == [9, 9, 3]
    assert table.read().equals(pq.read_table(whole / "garments.parquet"))
