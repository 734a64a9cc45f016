"""``kgdet predict`` on folders of photos, with a model of random weights."""

import json
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from kgdet_d2 import FashionPredictor
from kgdet_d2.checkpoint.checkpointer import FashionCheckpointer
from kgdet_d2.cli import main
from kgdet_d2.config import load_config
from kgdet_d2.engine.predict import command
from kgdet_d2.modeling.meta_arch import KGDet
from kgdet_d2.schema import KeypointSchema

CONFIG = "configs/sample/kgdet_tiny.yaml"
ALL = ["coco", "jsonl", "pictures", "crops"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.KGDET.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"]
    cfg = load_config(CONFIG, opts)
    folder = tmp_path_factory.mktemp("weights")
    FashionCheckpointer(KGDet(cfg), str(folder), cfg=cfg).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven photos of several shapes in two folders, and one that cannot be read."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    sizes = {"a/1.jpg": (90, 60), "a/2.jpg": (60, 90), "a/3.png": (70, 70), "b/1.jpg": (90, 60)}
    sizes |= {"b/2.jpg": (64, 90), "b/3.jpg": (90, 64), "b/4.jpg": (80, 60)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "b/9.jpg").write_bytes((folder / "b/1.jpg").read_bytes()[:300])
    return folder


def predict(output, weights, *inputs, threshold=0.0, batch=2, resume=False):
    words = [*map(str, inputs), "--weights", weights, "--output", str(output), "--device", "cpu"]
    words += ["--score-threshold", str(threshold), "--workers", "0", "--part-size", "3"]
    words += ["--batch-size", str(batch)]
    return main(["predict", *words, *(["--resume"] if resume else [])])


@pytest.fixture(scope="module")
def whole(photos, weights, tmp_path_factory):
    """The output of a run that was not broken off."""
    output = tmp_path_factory.mktemp("whole") / "found"
    assert predict(output, weights, photos, "--formats", *ALL) == 1
    return output


def count(folder):
    return pq.read_metadata(folder / "garments.parquet").num_rows


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tables(photos, weights, tmp_path):
    """They hold what the predictor finds, photo by photo, as a batch may change scores of random weights."""
    assert predict(tmp_path / "found", weights, photos, batch=1) == 1
    table = pq.read_table(tmp_path / "found" / "photos.parquet").to_pylist()
    assert [row["photo"] for row in table] == [
        "a/1.jpg",
        "a/2.jpg",
        "a/3.png",
        *(f"b/{n}.jpg" for n in "12349"),
    ]
    *good, bad = table
    assert bad["garments"] is bad["height"] is None and "9.jpg: cannot read the image" in bad["error"]
    assert all(3 <= row["garments"] <= 5 and row["error"] is None for row in good)
    assert (good[0]["height"], good[0]["width"]) == (90, 60)
    garments = pq.read_table(tmp_path / "found" / "garments.parquet")
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
    assert len(images["categories"]) == 13 and len(results) == count(whole)
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
    assert 0 < len(crops) <= 5 and all(cv2.imread(str(crop)) is not None for crop in crops)
    assert not (whole / "parts").exists()


class BrokenOffError(BaseException):
    """As a signal would end the process."""


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_broken_off_and_gone_on_with(whole, photos, weights, tmp_path, monkeypatch, after):
    """With the same files, byte by byte; what was done is not done again."""
    output, calls = tmp_path / "found", []
    predict_mapped = FashionPredictor.predict_mapped

    def counted(self, inputs):
        calls.append(len(inputs))
        if len(calls) == after + 1:
            raise BrokenOffError
        return predict_mapped(self, inputs)

    monkeypatch.setattr(FashionPredictor, "predict_mapped", counted)
    with pytest.raises(BrokenOffError):
        predict(output, weights, photos, "--formats", *ALL)
    (output / "parts" / "000001.77.tmp").mkdir(parents=True)
    calls[:] = [0] * 100
    assert predict(output, weights, photos, "--formats", *ALL, resume=True) == 1
    assert sum(calls) == (7 if after < 2 else 4)
    assert contents(output) == contents(whole)


@pytest.mark.parametrize("name", ["garments.parquet", "coco_images.json", "photos.parquet"])
def test_broken_off_while_the_parts_are_joined(whole, photos, weights, tmp_path, monkeypatch, name):
    output, joined = tmp_path / "found", command.merge_parts

    def broken_off(parts, output, schema, formats):
        joined(parts, output, schema, formats)
        (output / name).unlink()
        (output / "photos.parquet").unlink(missing_ok=True)
        raise BrokenOffError

    monkeypatch.setattr(command, "merge_parts", broken_off)
    with pytest.raises(BrokenOffError):
        predict(output, weights, photos, "--formats", *ALL)
    monkeypatch.setattr(command, "merge_parts", joined)
    monkeypatch.setattr(FashionPredictor, "predict_mapped", None)  # nothing is left to predict
    assert predict(output, weights, photos, "--formats", *ALL, resume=True) == 1
    assert contents(output) == contents(whole)


def test_what_is_done_is_not_done_again(whole, photos, weights, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole, tmp_path / "found")
    monkeypatch.setattr(FashionPredictor, "predict_mapped", None)
    assert predict(tmp_path / "found", weights, photos, "--formats", *ALL, resume=True) == 1
    assert contents(tmp_path / "found") == contents(whole)
    printed = capsys.readouterr()
    assert (
        f"{count(whole)} garments on 7 photos" in printed.out
        and "1 of 8 photos could not be read" in printed.err
    )


def test_another_run_s_folder_is_kept(whole, photos, weights, tmp_path, capsys):
    before = contents(whole)
    assert predict(whole, weights, photos, "--formats", *ALL) == 1
    assert "is not empty; --resume goes on" in capsys.readouterr().err
    assert predict(whole, weights, photos, threshold=0.5, resume=True) == 1
    assert "of a run with other score_threshold, formats" in capsys.readouterr().err
    assert predict(whole, weights, photos / "a", "--formats", *ALL, resume=True) == 1
    assert "of a run with other photos" in capsys.readouterr().err
    assert contents(whole) == before
    (tmp_path / "something").touch()
    assert predict(tmp_path, weights, photos, resume=True) == 1
    assert "is of no run, it has no run.json" in capsys.readouterr().err


def test_no_garment_anywhere(photos, weights, tmp_path):
    output = tmp_path / "found"
    assert predict(output, weights, photos / "a", "--formats", *ALL, threshold=0.99) == 0
    assert len(pq.read_table(output / "garments.parquet")) == 0
    assert json.loads((output / "coco_results.json").read_text()) == []
    assert [row["garments"] for row in pq.read_table(output / "photos.parquet").to_pylist()] == [0, 0, 0]


def test_photos_are_read_by_workers(whole, photos, weights, tmp_path):
    output = tmp_path / "found"
    assert predict(output, weights, photos, "--formats", *ALL, "--workers", "2") == 1
    assert contents(output) == contents(whole)


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
