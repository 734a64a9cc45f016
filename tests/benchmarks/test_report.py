"""Reports of the benchmarks, and how the commands fail."""

import argparse
import json
import math
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS, main
from benchmarks._report import Report, at_least, markdown


def test_ratios_are_of_medians_and_to_the_row_with_the_same_and_fixed_keys():
    report = Report(argparse.Namespace())
    for name, mode, seconds in [("a", 1, 2.0), ("b", 1, 3.0), ("a", 2, 0.0), ("b", 2, 5.0), ("b", 3, 1.0)]:
        times = {"median": seconds, "lower": 0, "upper": 9}
        report.rows.append({"name": name, "mode": mode, "s": times, "GB": 2 * seconds, "ratios": {}})
    report.add_ratios("to a", "s", ["mode"], name="a")
    report.add_ratios("to a, GB", "GB", ["mode"], name="a")
    expected = [{"to a": 1, "to a, GB": 1}, {"to a": 1.5, "to a, GB": 1.5}]
    assert [row["ratios"] for row in report.rows] == [*expected, {}, {}, {}]


def test_a_report_is_written_with_its_settings_and_environment(tmp_path):
    report = Report(argparse.Namespace(device="cpu", threads=3, checkout=[Path("there")], json=tmp_path))
    report.rows.append({"AP": math.nan})
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written.keys() == {"settings", "hardware", "commit", "versions", "threads", "results"}
    assert written["settings"] == {"device": "cpu", "threads": 3, "checkout": ["there"]}
    assert written["threads"] == 3 and written["results"] == [{"AP": None}]


def test_a_table_has_a_column_for_every_key():
    rows = [{"name": "first", "a": 1.25, "n": 7}, {"name": "second", "b": 2.0, "a": None}]
    lines = markdown(rows, b=".0f").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["name", "a", "n", "b"]
    assert cells[2:] == [["first", "1.25", "7", ""], ["second", "", "", "2"]]
    assert [cell[-1] for cell in cells[1]] == ["-", ":", ":", ":"]
    assert "1.2 " in markdown(rows, default=".1f")


@pytest.mark.parametrize("text", ["4", "-5", "5.0", "x"])
def test_numbers_below_the_least_are_refused(text):
    assert at_least(5)("5") == 5
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a whole number from 5, got '{text}'"):
        at_least(5)(text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert COMMANDS[command].__doc__.strip().splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize("kind", [OSError, RuntimeError, ValueError])
def test_an_error_is_one_line(kind, monkeypatch, capsys, tmp_path):
    def fail(args, report):
        raise kind("what is wrong")

    monkeypatch.setattr(COMMANDS["annotations"], "measure", fail)
    assert main(["annotations", "--json", str(tmp_path / "report.json")]) == 1
    assert capsys.readouterr().err == "benchmarks annotations: what is wrong\n"
    assert not list(tmp_path.iterdir())
