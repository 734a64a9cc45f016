"""Figure 5 of a comparison: its models, their correlation, the picture, and the command's option."""

import json
import math
from pathlib import Path

import pytest
from matplotlib import pyplot

from kgdet_d2.cli import main
from kgdet_d2.engine import compare
from kgdet_d2.engine.compare_figure import Model, choose_models, correlation, describe, draw, write_figure
from tools.model_zoo import PAPER

KGDET, FCOS, R_CNN = (f"configs/sample/{name}_tiny.yaml" for name in ("kgdet", "fcos", "match_rcnn"))


def row(config, box, landmark, *overrides):
    """What a row of comparison.json has for the figure."""
    box, landmark = ({"mean": value, "std": None} if value is not None else None for value in (box, landmark))
    return {
        "config": config,
        "scores": {"box AP": box, "landmark AP": landmark},
        "runs": [{"overrides": list(overrides)}],
    }


def paper_rows():
    (table4,) = [table for table in PAPER if "Table 4" in table.title]
    return [row(config, box, landmark) for config, (box, landmark) in table4.rows.items()]


def line(*points):
    return [Model(f"m{x}", x, y, 9) for x, y in points]


def test_the_paper_s_models():
    models, left_out = choose_models(paper_rows())
    assert [model.points for model in models] == [9, 25, 49, 83, 83, 83, 83, 83] and not left_out
    assert models[0] == Model("table4_0", landmark_ap=30.2, box_ap=63.9, points=9)
    x, y = ([getattr(model, name) for model in models] for name in ("landmark_ap", "box_ap"))
    mean_x, mean_y = sum(x) / 8, sum(y) / 8
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spread = math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))
    assert correlation(models) == pytest.approx(covariance / spread)
    assert describe(models).endswith("over 8 models: 0.980")


def test_overrides_count_and_models_that_lack_something_are_named():
    rows = [row(KGDET, 10.0, 2.0, "MODEL.KGDET.COLUMNS", "[49]"), row(FCOS, 20.0, None)]
    models, left_out = choose_models([*rows, row(R_CNN, 30.0, 10.0)])
    assert models == [Model("kgdet_tiny", 2.0, 10.0, 49)]
    assert left_out == {"fcos_tiny": "landmark AP", "match_rcnn_tiny": "informative points"}


def test_correlation_by_hand():
    assert correlation(line((1, 1), (2, 2), (3, 3))) == pytest.approx(1)
    assert correlation(line((1, 3), (2, 2), (3, 1))) == pytest.approx(-1)
    assert correlation(line((1, 1), (2, 3), (3, 1))) == pytest.approx(0)


@pytest.mark.parametrize("models", [line(), line((1, 1)), line((1, 1), (2, 2)), line((1, 5), (2, 5), (3, 5))])
def test_correlation_that_says_nothing(models):
    assert math.isnan(correlation(models)) and describe(models).endswith("models: undefined")


def test_the_picture():
    models, _ = choose_models(paper_rows())
    (axes,) = draw(models).axes
    (discs,) = axes.collections
    assert discs.get_offsets().tolist() == [[model.landmark_ap, model.box_ap] for model in models]
    areas = discs.get_sizes()
    assert areas / areas[0] == pytest.approx([model.points / 9 for model in models])
    assert sorted(text.get_text() for text in axes.texts) == [f"{m.name} ({m.points})" for m in models]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("landmark AP", "box AP")
    assert "0.980" in axes.get_title() and not pyplot.get_fignums()


@pytest.mark.parametrize(("name", "begin"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_file_s_ending_is_its_format(name, begin, tmp_path):
    (told,) = write_figure(tmp_path / name, paper_rows())
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert told.startswith(f"Figure: {tmp_path / name}. Pearson correlation")


def test_no_figure_of_no_models(tmp_path):
    with pytest.raises(ValueError, match=r"a.png: expected a model with landmark AP .*fcos_tiny"):
        write_figure(tmp_path / "a.png", [row(FCOS, 20.0, None)])
    assert not list(tmp_path.iterdir())


# --- the option ---


def compare_stored(folder, rows, *arguments):
    """``kgdet compare --only-table`` where only comparison.json is left."""
    (folder / "comparison.json").write_text(json.dumps(rows))
    return main(["compare", KGDET, FCOS, "--output", str(folder), "--only-table", *arguments])


@pytest.fixture
def stored_rows(monkeypatch):
    monkeypatch.setattr(compare, "table", lambda rows: f"{len(rows)} rows")
    monkeypatch.setattr(compare, "conditions", lambda rows: [])
    return [row(KGDET, 10.0, 2.0), row(FCOS, 20.0, None), row(R_CNN, 30.0, 10.0)]


def test_figure_of_a_stored_comparison(tmp_path, stored_rows, capsys):
    assert compare_stored(tmp_path, stored_rows, "--figure") == 0
    printed = capsys.readouterr().out
    assert "2 rows" in printed and "over 1 models: undefined" in printed
    assert "Not in the figure: fcos_tiny, which has no landmark AP." in printed
    assert (tmp_path / "figure5.png").is_file()
    assert json.loads((tmp_path / "comparison.json").read_text()) == stored_rows


def test_figure_under_a_name(tmp_path, stored_rows):
    assert compare_stored(tmp_path, stored_rows, "--figure", str(tmp_path / "own.svg")) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.json", "own.svg"}


def test_no_figure_unless_asked_for(tmp_path, stored_rows):
    assert compare_stored(tmp_path, stored_rows) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


def test_a_config_is_no_figure(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", FCOS, "--output", str(tmp_path), "--figure", KGDET])
    assert "expected a file that ends in .png or .svg, got" in capsys.readouterr().err
    assert Path(KGDET).is_file()
