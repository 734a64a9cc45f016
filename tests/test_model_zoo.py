"""tools/model_zoo.py: the page, and rows of its tables."""

import json

import pytest

from tools import model_zoo
from tools.model_zoo import NOT_RUN, PAGE, PAPER, ROOT


def row(config, dataset, box, landmark=None, seeds=2, std=2.0):
    """A row of tools/compare.py's comparison.json."""
    run = {"dataset": dataset, "commit": "abc", "versions": {"torch": "9"}, "hardware": "a machine"}
    run |= {"iterations": 5, "batch": 4}
    told = lambda mean: None if mean is None else {"mean": mean, "std": std}  # noqa: E731
    scores = dict(zip(model_zoo.SCORES, map(told, (box, box + 10, box + 1, landmark)), strict=True))
    costs = {"parameters": 3e6, "multiply_adds": 4e9, "ms": {"median": 5.0}, "timed_on": "it", "threads": 1}
    return {"config": config, "scores": scores, **costs, "runs": [run] * seeds}


def line_of(config, text):
    return next(line for line in text.splitlines() if f"`{config}`" in line)


def test_the_page_is_what_the_stored_results_say():
    assert PAGE.read_text() == model_zoo.page(model_zoo.read_results()), "run tools/model_zoo.py"


@pytest.mark.parametrize("paper", PAPER, ids=lambda paper: paper.title)
def test_the_paper_s_rows_are_whole_and_their_configs_exist(paper):
    for config, scores in paper.rows.items():
        assert (ROOT / config).is_file() and len(scores) in (0, len(paper.scores))
    assert set(paper.scores) <= model_zoo.SCORES.keys()


def test_configs_say_the_paper_s_numbers_too():
    """Where a config's comment has the paper's box AP, it is the one in the table."""
    for paper in PAPER:
        for config, scores in paper.rows.items():
            comment = (ROOT / config).read_text()
            assert not scores or "box AP" not in comment or f"{scores[0]} box AP" in comment, config


def test_without_results_every_row_says_that_nobody_has_run_it():
    text = model_zoo.page({})
    for paper in PAPER:
        for config, scores in paper.rows.items():
            line = line_of(config, text)
            assert NOT_RUN in line and all(f"{value:.1f}" in line for value in scores)


def test_ours_stand_beside_the_paper_s():
    text = model_zoo.page({"big": [row("configs/kgdet_R50.yaml", "deepfashion2_val", 50.0, 20.0)]})
    line = line_of("configs/kgdet_R50.yaml", text)
    assert "67.9" in line and "50.00 ± 2.00" in line and "20.00 ± 2.00" in line and NOT_RUN not in line
    assert NOT_RUN in line_of("configs/fcos_R50.yaml", text) and "## Big" not in text


def test_the_same_config_on_other_data_is_no_result_on_deepfashion2():
    text = model_zoo.page({"drawn": [row("configs/kgdet_R50.yaml", "synthfashion_val", 50.0)]})
    assert NOT_RUN in line_of("configs/kgdet_R50.yaml", text)
    drawn = text[text.index("## Drawn: synthfashion_val") :]
    assert "50.00 ± 2.00" in drawn and "a machine" in drawn and "abc" in drawn


def test_difference_and_its_error():
    rows = [row("a.yaml", "mine", 30.0, seeds=4), row("b.yaml", "mine", 33.5, seeds=4)]
    line = line_of("b.yaml", model_zoo.differences(rows))
    assert "-3.50" in line and "1.41" in line  # sqrt(2^2 / 4 + 2^2 / 4)


def test_one_seed_has_no_error():
    rows = [row(name, "mine", 30.0, seeds=1, std=None) for name in ("a.yaml", "b.yaml")]
    assert "nan" in line_of("b.yaml", model_zoo.differences(rows))


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_zoo, "RESULTS", tmp_path)
    monkeypatch.setattr(model_zoo, "PAGE", tmp_path / "PAGE.md")
    (tmp_path / "drawn.json").write_text(json.dumps([row("a.yaml", "mine", 30.0)]))
    assert model_zoo.main([]) == 0 and "## Drawn: mine" in (tmp_path / "PAGE.md").read_text()
    (tmp_path / "broken.json").write_text("[")
    assert model_zoo.main([]) == 1
    assert "broken.json: expected a comparison.json" in capsys.readouterr().err
