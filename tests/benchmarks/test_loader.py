"""The benchmark of the training loader."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T

from benchmarks import loader
from benchmarks.__main__ import main
from benchmarks.loader import OTHERS, READ, RESIZE, STEPS

CONFIG = str(Path(__file__).parents[2] / "configs/sample/kgdet_tiny.yaml")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    for name, value in {"DRAWN": 3, "DRAWN_SIDE": 96, "WARM_UP": 2}.items():
        monkeypatch.setattr(loader, name, value)


def test_rates_and_steps_of_drawn_photos(tmp_path, capsys):
    path, resize = tmp_path / "figures.json", T.ResizeTransform.apply_image
    options = ["--photos", "5", "--workers", "0", "--sizes", "64", "32", "--json", str(path)]
    assert main(["loader", *options, "--opts", "INPUT.COLOR.CONTRAST", "0.4"]) == 0
    assert T.ResizeTransform.apply_image is resize
    rows = json.loads(path.read_text())["results"]
    assert [row["size"] for row in rows] == [64, 32]
    for row in rows:
        (rate,) = row["rates"]
        assert rate["workers"] == 0 and rate["photos_per_second"] > 0
        steps = row["steps_ms"]
        assert steps["crop"] == 0
        assert all(steps[name] > 0 for name in {*STEPS, OTHERS} - {"crop", "flip"})
        assert steps["all"] < 1000
    printed = capsys.readouterr().out
    assert "106 x 64, 0 workers: " in printed and "colour" in printed and "crop" not in printed


def test_summary_of_steps():
    columns = {"all": [400, 500, 660], READ: [100, 200, 300], RESIZE: [100, 200, 300], OTHERS: [200, 100, 60]}
    figures = loader.summary(
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    )
    expected = [200, 200, 100, 500, 0.25]  # the ratios are 1, 0.25, 0.1
    np.testing.assert_allclose(list(figures.values()), expected)


def test_a_registered_dataset_is_measured(tmp_path, capsys):
    name = loader.register_drawn_photos(tmp_path)
    assert main(["loader", "--dataset", name, "--photos", "5", "--workers", "0", "--sizes", "32"]) == 0
    assert "53 x 32, 0 workers: " in capsys.readouterr().out


def test_what_cannot_be_measured_is_told(capsys):
    assert main(["loader", "--dataset", "nowhere"]) == 1
    assert "--dataset: 'nowhere' is not registered" in capsys.readouterr().err
    assert main(["loader", "--sizes", "32", "--opts", "INPUT.COLOUR", "1"]) == 1
    assert "INPUT.COLOUR" in capsys.readouterr().err
    for options in (["--photos", "4"], ["--workers", "-1"], ["--sizes", "0"], ["--sizes", "x"]):
        with pytest.raises(SystemExit):
            main(["loader", *options])
        assert f"argument {options[0]}: expected a whole number from " in capsys.readouterr().err


def test_what_a_training_waits_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loader, "STEPS_OF_WARM_UP", 1)
    path, name = tmp_path / "waits.json", loader.register_drawn_photos(tmp_path)
    opts = ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()"]
    opts += ["SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    arguments = ["--training", CONFIG, "--photos", "5", "--workers", "0"]
    assert main(["loader", *arguments, "--json", str(path), "--opts", *opts]) == 0
    (row,) = json.loads(path.read_text())["results"]
    assert row["workers"] == 0 and row["waits"] > 0 and row["computes"] > 0 and 0 < row["waiting_share"] < 1
    assert "waiting_share" in capsys.readouterr().out
