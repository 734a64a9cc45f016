"""``kgdet compare`` with a stand-in for training, and once for real."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from kgdet_d2.cli import main
from kgdet_d2.data.register import register_all
from kgdet_d2.engine import compare, compare_runs

CONFIGS = [f"configs/sample/{name}_tiny.yaml" for name in ("kgdet", "fcos")]
NAMES = ["kgdet_tiny", "fcos_tiny"]
QUICK = ["--num-gpus", "0", "--timed", "2", "--opts", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST"]
QUICK += ["64", "SOLVER.IMS_PER_BATCH", "2"]


def metrics(**scores):
    return {"iteration": 1, "total_loss": 1.0, **{name.replace("_", "/"): s for name, s in scores.items()}}


@pytest.fixture
def fake_training(monkeypatch):
    """A training that leaves made-up scores, by config and seed; and the runs it is asked for.

    A short one to measure speed leaves a made-up time for an iteration, by config.
    """
    asked, scores, trials, speeds, schedules = [], {}, [], {}, []

    def run(command, **options):
        words = command[command.index("--dist-url") + 2 :]
        opts = dict(zip(words[::2], words[1::2], strict=True))
        folder, config = Path(opts["OUTPUT_DIR"]), Path(command[command.index("--config-file") + 1]).stem
        name = (config, int(opts["SEED"]))
        if opts.get("DATASETS.TEST") == "()":
            trials.append(name)
            if config in speeds:
                lines = [{"iteration": 19, "time": 9.0}, {"iteration": 24, "time": speeds[config]}]
                (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
            return SimpleNamespace(returncode=0 if config in speeds else 4)
        asked.append(name)
        schedules.append((int(opts["SOLVER.MAX_ITER"]), opts["SOLVER.STEPS"]))
        line = {"time": 0.5, **scores.get(name, metrics(bbox_AP=1.0))}
        line["iteration"] += schedules[-1][0] - 2  # the last one, where it is 1
        (folder / "metrics.json").write_text(json.dumps(line) + "\n")
        speed = "Overall training speed: {} iterations in 0:00:02 ({} s / it)\n"
        (folder / "log.txt").write_text(speed.format(10, "0.2000") + speed.format(30, "0.4000"))
        return SimpleNamespace(returncode=3 if scores.get(name) == {"iteration": 1} else 0)

    monkeypatch.setattr(compare_runs.subprocess, "run", run)
    monkeypatch.setattr(compare_runs, "commit", lambda: "abc")
    no_costs = {"parameters": 2, "multiply_adds": 3, "ms": {"median": 4.0}, "timed_on": "this", "threads": 1}
    monkeypatch.setattr(compare, "measure_costs", lambda runs, timed: [no_costs] * len(runs))
    return SimpleNamespace(asked=asked, scores=scores, trials=trials, speeds=speeds, schedules=schedules)


def start(output, *arguments, configs=CONFIGS, budget=("--iterations", "2"), opts=()):
    return main(["compare", *configs, "--output", str(output), *budget, *arguments, *QUICK, *opts])


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
    assert (
        "20.00 ± 10.00" in printed
        and "abc" in printed
        and "Trained: 2 iterations in batches of 2 photos" in printed
    )


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
    run = compare_runs.Run(CONFIGS[0], 1, folder, 0, (), iterations=7)
    (folder / "config.yaml").write_text(run.cfg().dump())
    assert start(tmp_path, "--seeds", "1") == 1
    assert f"{folder / 'config.yaml'} holds other settings" in capsys.readouterr().err
    assert not fake_training.asked


@pytest.mark.parametrize(
    "arguments",
    [["--seeds", "-1"], ["--jobs", "0"], ["--timed", "1"], ["--iterations", "0"], ["--seconds", "0"]],
)
def test_arguments_that_make_no_sense(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(tmp_path, *arguments)
    assert "expected" in capsys.readouterr().err


def test_iterations_and_seconds_exclude_each_other(tmp_path, capsys):
    with pytest.raises(SystemExit):
        start(tmp_path, "--seconds", "5")
    assert "not allowed with argument --iterations" in capsys.readouterr().err


# --- the budget ---


STEPPED = ("SOLVER.MAX_ITER", "1000", "SOLVER.STEPS", "(600,900)")


def test_without_a_budget_each_config_s_own_iterations_count(fake_training, tmp_path, monkeypatch):
    own = []
    monkeypatch.setattr(compare_runs.Run, "_train", lambda run, threads, *opts: own.append(opts) or 1)
    assert start(tmp_path, "--seeds", "1", budget=()) == 1
    assert len(own) == 2 and "SOLVER.MAX_ITER" not in own[0] and "SOLVER.STEPS" not in own[0]


def test_steps_of_the_learning_rate_keep_their_shares(fake_training, tmp_path):
    assert start(tmp_path, "--seeds", "1", budget=("--iterations", "100"), opts=STEPPED) == 0
    assert fake_training.schedules == [(100, "(60, 90)")] * 2
    assert start(tmp_path / "short", "--seeds", "1", budget=("--iterations", "1"), opts=STEPPED) == 0


def test_seconds_give_each_system_its_iterations(fake_training, tmp_path, capsys):
    """60 s at 0.4 s, and at 0.25 s, of which the trial's first time does not count."""
    fake_training.speeds |= {"kgdet_tiny": 0.4, "fcos_tiny": 0.25}
    assert start(tmp_path, "--seeds", "1", "2", budget=("--seconds", "60"), opts=STEPPED) == 0
    assert fake_training.schedules == [(150, "(90, 135)"), (240, "(144, 216)")] * 2
    assert fake_training.trials == fake_training.asked == [(name, seed) for seed in (1, 2) for name in NAMES]
    kgdet, fcos = rows(tmp_path).values()
    for row, speed, iterations in ((kgdet, 0.4, 150), (fcos, 0.25, 240)):
        for run in row["runs"]:
            budget = {"seconds": 60, "seconds_per_iteration": speed, "iterations": iterations}
            assert run["budget"] == budget and run["iterations"] == iterations
            assert run["seconds_per_iteration"] == 0.5
            assert run["training_seconds"] == pytest.approx(iterations * 0.35)  # (10 x 0.2 + 30 x 0.4) / 40
    printed = capsys.readouterr().out
    assert "Trained: 60 s in batches of 2 photos" in printed and "s/iteration" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| configs/sample/fcos")]
    assert "240" in line and "0.500" in line
    assert not [path for path in (tmp_path / "fcos_tiny/seed1").iterdir() if path.is_dir()]


def test_an_interrupted_run_keeps_its_iterations(fake_training, tmp_path):
    """They are not measured again, and the run's own settings fit."""
    fake_training.speeds["kgdet_tiny"] = 0.4
    fake_training.scores["kgdet_tiny", 1] = {"iteration": 1}
    arguments = {"configs": CONFIGS[:1], "budget": ("--seconds", "60")}
    assert start(tmp_path, "--seeds", "1", **arguments) == 1
    folder = tmp_path / "kgdet_tiny/seed1"
    opts = tuple(QUICK[QUICK.index("--opts") + 1 :])
    begun = compare_runs.Run(CONFIGS[0], 1, folder, 0, opts, seconds=60)
    (folder / "config.yaml").write_text(begun.cfg().dump())
    fake_training.speeds["kgdet_tiny"] = 0.1
    del fake_training.scores["kgdet_tiny", 1]
    assert start(tmp_path, "--seeds", "1", **arguments) == 0
    assert len(fake_training.trials) == 1
    assert [iterations for iterations, _ in fake_training.schedules] == [150, 150]


@pytest.mark.parametrize("budget", [("--seconds", "30"), ("--iterations", "150"), ()])
def test_a_folder_with_another_budget_is_refused(fake_training, budget, tmp_path, capsys):
    """150 iterations were chosen for 60 seconds before, or were asked for."""
    fake_training.speeds["kgdet_tiny"] = 0.4
    earlier = ("--iterations", "150") if "30" in budget else ("--seconds", "60")
    assert start(tmp_path, "--seeds", "1", configs=CONFIGS[:1], budget=earlier) == 0
    folder = tmp_path / "kgdet_tiny/seed1"
    opts = tuple(QUICK[QUICK.index("--opts") + 1 :])
    begun = compare_runs.Run(CONFIGS[0], 1, folder, 0, opts, iterations=150)
    (folder / "config.yaml").write_text(begun.cfg().dump())
    same_schedule = "150" in budget  # so many iterations are so many, however they were chosen
    assert start(tmp_path, "--seeds", "1", configs=CONFIGS[:1], budget=budget) == (0 if same_schedule else 1)
    assert same_schedule or "holds other settings" in capsys.readouterr().err


def test_a_speed_that_cannot_be_measured_is_reported(fake_training, tmp_path, capsys):
    fake_training.speeds["kgdet_tiny"] = 0.4
    assert start(tmp_path, "--seeds", "1", budget=("--seconds", "60")) == 1
    assert "fcos_tiny, seed 1: measuring its speed ended with 4, see " in capsys.readouterr().err
    assert fake_training.asked == [("kgdet_tiny", 1)]


def test_a_budget_below_an_iteration_is_one_iteration(fake_training, tmp_path):
    fake_training.speeds["kgdet_tiny"] = 10.0
    assert start(tmp_path, "--seeds", "1", configs=CONFIGS[:1], budget=("--seconds", "1")) == 0
    assert fake_training.schedules == [(1, "()")]


@pytest.mark.parametrize(("configs", "seeds"), [(CONFIGS, ["1", "1"]), (CONFIGS[:1] * 2, ["1"])])
def test_nothing_is_compared_with_itself(configs, seeds, tmp_path, capsys):
    assert start(tmp_path, "--seeds", *seeds, configs=configs) == 1
    assert "error: expected different configs and seeds" in capsys.readouterr().err


@pytest.mark.slow
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
    real = {"configs": CONFIGS[:1], "budget": ("--seconds", "1")}
    assert start(output, "--seeds", "1", **real) == 0
    (row,) = rows(output).values()
    assert row["parameters"] == 3_879_881 and row["multiply_adds"] > 0
    assert row["ms"]["lower"] <= row["ms"]["median"] <= row["ms"]["upper"]
    assert (output / "kgdet_tiny/seed1/model_final.pth").is_file()
    assert start(output, "--seeds", "1", "--only-table", **real) == 0  # its own settings fit
    (run,) = row["runs"]
    assert run["scores"].keys() >= {"bbox/AP", "bbox/AP50", "keypoints/AP75"}
    assert run["iterations"] == max(round(1 / run["budget"]["seconds_per_iteration"]), 1)
    if run["iterations"] >= 3:  # Detectron2 times no less
        assert run["training_seconds"] > 0 and run["seconds_per_iteration"] > 0
    assert "Trained: 1 s in batches of 2 photos, synthfashion_val" in capsys.readouterr().out
