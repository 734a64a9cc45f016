import json

import benchmark_loader
import numpy as np
import pytest
from benchmark_loader import OTHERS, READ, RESIZE, STEPS
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    for name, value in {"DRAWN": 3, "DRAWN_SIDE": 96, "WARM_UP": 2}.items():
        monkeypatch.setattr(benchmark_loader, name, value)


def test_rates_and_steps_of_drawn_photos(tmp_path, capsys):
    path, resize = tmp_path / "figures.json", T.ResizeTransform.apply_image
    options = ["--photos", "5", "--workers", "0", "--sizes", "64", "32", "--json", str(path)]
    assert benchmark_loader.main([*options, "--opts", "INPUT.COLOR.CONTRAST", "0.4"]) == 0
    assert T.ResizeTransform.apply_image is resize
    report = json.loads(path.read_text())
    assert [(rate["size"], rate["workers"]) for rate in report["rates"]] == [(64, 0), (32, 0)]
    assert all(rate["photos_per_second"] > 0 for rate in report["rates"])
    for steps in report["steps_ms"].values():
        assert steps["crop"] == 0
        assert all(steps[name] > 0 for name in {*STEPS, OTHERS} - {"crop", "flip"})
        assert steps["all"] < 1000
    printed = capsys.readouterr().out
    assert "106 x 64, 0 workers: " in printed and "colour" in printed and "crop" not in printed


def test_summary_of_steps():
    times = {READ: [0.1, 0.2, 0.3], RESIZE: [0.1, 0.2, 0.3], OTHERS: [0.2, 0.1, 0.06]}
    figures = benchmark_loader.summary(times)
    expected = [200, 200, 100, 500, 0.25]  # the wholes are 0.4, 0.5, 0.66, the ratios 1, 0.25, 0.1
    np.testing.assert_allclose(list(figures.values()), expected)


def test_a_registered_dataset_is_measured(tmp_path, capsys):
    name = benchmark_loader.register_drawn_photos(tmp_path)
    assert benchmark_loader.main(["--dataset", name, "--photos", "5", "--workers", "0", "--sizes", "32"]) == 0
    assert "53 x 32, 0 workers: " in capsys.readouterr().out


def test_what_cannot_be_measured_is_told(capsys):
    assert benchmark_loader.main(["--dataset", "nowhere"]) == 1
    assert "--dataset: 'nowhere' is not registered" in capsys.readouterr().err
    assert benchmark_loader.main(["--sizes", "32", "--opts", "INPUT.COLOUR", "1"]) == 1
    assert "INPUT.COLOUR" in capsys.readouterr().err
    for options in (["--photos", "4"], ["--workers", "-1"], ["--sizes", "0"], ["--sizes", "x"]):
        with pytest.raises(SystemExit):
            benchmark_loader.main(options)
        assert f"argument {options[0]}: expected a whole number from " in capsys.readouterr().err


def test_what_a_training_waits_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_loader, "STEPS_OF_WARM_UP", 1)
    path, name = tmp_path / "waits.json", benchmark_loader.register_drawn_photos(tmp_path)
    opts = ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()"]
    opts += ["SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    arguments = ["--training", "configs/sample/kgdet_tiny.yaml", "--photos", "5", "--workers", "0"]
    assert benchmark_loader.main([*arguments, "--json", str(path), "--opts", *opts]) == 0
    (row,) = json.loads(path.read_text())["iterations"]
    assert row["workers"] == 0 and row["waits"] > 0 and row["computes"] > 0 and 0 < row["waiting_share"] < 1
    assert "share of waiting" in capsys.readouterr().out
