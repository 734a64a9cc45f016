"""``kgdet compare`` with a stand-in for training, and once for real."""

import json
import runpy
from types import SimpleNamespace

import pytest

from kgdet_d2.cli import main
from kgdet_d2.data.register import register_all
from kgdet_d2.engine import compare

CONFIGS = [f"configs/sample/{name}_tiny.yaml" for name in ("kgdet", "fcos")]
NAMES = ["kgdet_tiny", "fcos_tiny"]
QUICK = ["--num-gpus", "0", "--timed", "2", "--opts", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST"]
QUICK += ["64", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2"]


def metrics(**scores):
    return {"iteration": 1, "total_loss": 1.0, **{name.replace("_", "/"): s for name, s in scores.items()}}


@pytest.fixture
def fake_training(monkeypatch):
    """A training that leaves made-up scores, by config and seed; and the runs it is asked for."""
    asked, scores = [], {}

    def run(command, **options):
        opts = dict(zip(command[-4::2], command[-3::2], strict=True))
        name = (compare.Path(command[command.index("--config-file") + 1]).stem, int(opts["SEED"]))
        asked.append(name)
        folder = compare.Path(opts["OUTPUT_DIR"])
        (folder / "metrics.json").write_text(json.dumps(scores.get(name, metrics(bbox_AP=1.0))) + "\n")
        return SimpleNamespace(returncode=3 if scores.get(name) == {"iteration": 1} else 0)

    monkeypatch.setattr(compare.subprocess, "run", run)
    monkeypatch.setattr(compare, "commit", lambda: "abc")
    no_costs = {"parameters": 2, "multiply_adds": 3, "ms": {"median": 4.0}, "timed_on": "this", "threads": 1}
    monkeypatch.setattr(compare, "measure_costs", lambda runs, timed: [no_costs] * len(runs))
    return SimpleNamespace(asked=asked, scores=scores)


def start(output, *arguments, configs=CONFIGS):
    return main(["compare", *configs, "--output", str(output), *arguments, *QUICK])


def rows(output):
    return {row["config"]: row for row in json.loads((output / "comparison.json").read_text())}


def test_every_system_has_its_first_seed_before_any_has_its_second(fake_training, tmp_path):
    assert start(tmp_path, "--seeds", "5", "6") == 0
    assert fake_training.asked == [(name, seed) for seed in (5, 6) for name in NAMES]


def test_means_and_spread_over_the_seeds(fake_training, tmp_path, capsys):
    for seed, value in enumerate((10.0, 20.0, 30.0)):
        fake_training.scores["kgdet_tiny", seed] = metrics(bbox_AP=value, keypoints_AP=value / 10)
    assert start(tmp_path, "--seeds", "0", "1", "2") == 0
    kgdet, fcos = rows(tmp_path).values()
    assert kgdet["scores"]["box AP"] == {"mean": 20.0, "std": 10.0}
    assert kgdet["scores"]["landmark AP"] == {"mean": pytest.approx(2.0), "std": pytest.approx(1.0)}
    assert fcos["scores"]["box AP"] == {"mean": 1.0, "std": 0.0} and fcos["scores"]["landmark AP"] is None
    for number, run in enumerate(kgdet["runs"]):
        assert (run["seed"], run["commit"], run["config"]) == (number, "abc", CONFIGS[0])
        assert run["versions"].keys() >= {"python", "torch", "detectron2"} and run["hardware"]
    printed = capsys.readouterr().out
    assert "20.00 ± 10.00" in printed and "abc" in printed and "Trained: 2 iterations of 2 photos" in printed


def test_one_seed_has_no_spread(fake_training, tmp_path):
    assert start(tmp_path, "--seeds", "1") == 0
    assert rows(tmp_path)[CONFIGS[0]]["scores"]["box AP"] == {"mean": 1.0, "std": None}


def test_what_is_done_is_kept(fake_training, tmp_path):
    assert start(tmp_path, "--seeds", "1") == 0
    assert start(tmp_path, "--seeds", "1", "2") == 0
    assert fake_training.asked == [(name, seed) for seed in (1, 2) for name in NAMES]
    assert [len(row["runs"]) for row in rows(tmp_path).values()] == [2, 2]


def test_only_the_table(fake_training, tmp_path):
    assert start(tmp_path, "--seeds", "1") == 0
    assert start(tmp_path, "--seeds", "1", "2", "--only-table") == 0
    assert len(fake_training.asked) == 2 and [len(row["runs"]) for row in rows(tmp_path).values()] == [1, 1]


def test_a_run_that_fails_is_reported_and_the_others_go_on(fake_training, tmp_path, capsys):
    fake_training.scores["kgdet_tiny", 1] = {"iteration": 1}
    assert start(tmp_path, "--seeds", "1", "2") == 1
    assert len(fake_training.asked) == 4
    error = capsys.readouterr().err
    assert "kgdet_tiny, seed 1: training ended with 3, see " in error and "output.txt" in error
    assert [len(rows(tmp_path)[config]["runs"]) for config in CONFIGS] == [1, 2]
    del fake_training.scores["kgdet_tiny", 1]
    assert start(tmp_path, "--seeds", "1", "2") == 0
    assert fake_training.asked[4:] == [("kgdet_tiny", 1)]


def test_scores_of_an_earlier_iteration_do_not_count(fake_training, tmp_path):
    fake_training.scores["kgdet_tiny", 1] = {**metrics(bbox_AP=50.0), "iteration": 0}
    assert start(tmp_path, "--seeds", "1") == 1
    assert rows(tmp_path).keys() == {CONFIGS[1]}


def test_a_folder_with_other_settings_is_refused(fake_training, tmp_path, capsys):
    folder = tmp_path / "kgdet_tiny" / "seed1"
    folder.mkdir(parents=True)
    run = compare.Run(CONFIGS[0], 1, folder, 0, ("SOLVER.MAX_ITER", "7"))
    (folder / "config.yaml").write_text(run.cfg().dump())
    assert start(tmp_path, "--seeds", "1") == 1
    assert f"{folder / 'config.yaml'} holds other settings" in capsys.readouterr().err
    assert not fake_training.asked


@pytest.mark.parametrize("arguments", [["--seeds", "-1"], ["--jobs", "0"], ["--timed", "1"]])
def test_arguments_that_make_no_sense(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(tmp_path, *arguments)
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(("configs", "seeds"), [(CONFIGS, ["1", "1"]), (CONFIGS[:1] * 2, ["1"])])
def test_nothing_is_compared_with_itself(configs, seeds, tmp_path, capsys):
    assert start(tmp_path, "--seeds", *seeds, configs=configs) == 1
    assert "error: expected different configs and seeds" in capsys.readouterr().err


def test_a_system_for_real(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    sample = ["--root", str(root / "synthfashion"), "--workers", "1"]
    make_synthetic = runpy.run_path("datasets/make_synthetic.py")["main"]
    assert make_synthetic([*sample, "--train", "4", "--validation", "3", "--size", "96"]) == 0
    assert main(["prepare", "deepfashion2", *sample]) == 0
    capsys.readouterr()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    register_all(root)
    output = tmp_path / "out"
    assert start(output, "--seeds", "1", configs=CONFIGS[:1]) == 0
    (row,) = rows(output).values()
    assert row["parameters"] == 3_879_881 and row["multiply_adds"] > 0
    assert row["ms"]["lower"] <= row["ms"]["median"] <= row["ms"]["upper"]
    assert (output / "kgdet_tiny/seed1/model_final.pth").is_file()
    assert start(output, "--seeds", "1", "--only-table", configs=CONFIGS[:1]) == 0  # its own settings fit
    (run,) = row["runs"]
    assert run["scores"].keys() >= {"bbox/AP", "bbox/AP50", "keypoints/AP75"} and run["iterations"] == 2
    assert "2 iterations of 2 photos, synthfashion_val" in capsys.readouterr().out
