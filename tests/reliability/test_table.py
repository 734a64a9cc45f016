"""The campaign's own counting, and the page that its table goes into. These run by default."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.campaign import FAULT, Campaign, Row, markdown, replace_table, rows_of


def test_trials_are_counted_and_faults_told_at_the_end():
    rows, drawn = [], []

    def attempt(rng):
        drawn.append(rng.random())
        assert len(drawn) != 2, "the second one"
        return "well" if len(drawn) % 2 else "otherwise"

    with pytest.raises(pytest.fail.Exception, match="kind: trial 1: AssertionError: the second one"):
        Campaign(0.5, rows.append).run("kind", 10, 7, attempt)
    assert drawn == [np.random.default_rng([7, index]).random() for index in range(5)]
    assert rows[0][:4] == ("kind", 5, 7, f"3 well, 1 {FAULT}, 1 otherwise")


def test_a_small_share_is_one_trial_and_cases_are_tried_all():
    rows = []
    campaign = Campaign(0.001, rows.append)
    campaign.run("drawn", 20, 1, lambda rng: "well")
    campaign.each("cases", {name: lambda: "well" for name in "abc"})
    assert [row[:4] for row in rows] == [("drawn", 1, 1, "1 well"), ("cases", 3, "-", "3 well")]


def report(nodeid, when="call", *, rows=(), skipped=False):
    return SimpleNamespace(
        nodeid=nodeid,
        when=when,
        keywords={"reliability": 1},
        user_properties=[("reliability", list(row)) for row in rows],
        skipped=skipped,
        longrepr=("a.py", 3, "Skipped: no disk") if skipped else None,
    )


def test_the_table_has_all_rows_once_in_the_order_of_the_files(tmp_path):
    first, second = (Row(what, 2, 1, "2 well", "0.1") for what in ("first", "second"))
    reports = [report("b.py::test_x", rows=[second]), report("b.py::test_x", "teardown", rows=[second])]
    reports += [report("a.py::test_x", rows=[first]), report("c.py::test_no_disk", "setup", skipped=True)]
    reports.append(SimpleNamespace(nodeid="a.py::test_other", when="call", keywords={}))
    rows = rows_of(reports)
    assert rows == [first, second, Row("no disk", 0, "-", "skipped: no disk", "-")]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- campaign -->\nold\n<!-- end of campaign -->\nafter\n")
    for _ in range(2):
        replace_table(page, markdown(rows, 0.25))
    lines = page.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert sum(line.startswith("| ") for line in lines) == 4 and "A share of 0.25" in page.read_text()
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"page\.md: expected <!-- campaign -->"):
        replace_table(page, "")
