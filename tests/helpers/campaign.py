"""The campaign of tests/reliability, a plugin of pytest: how much is tried, the table of what came of it.

A row is a kind of trial. Rows travel with pytest's reports, also from processes of pytest-xdist.
"""

import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tabulate import tabulate

_ROW = "reliability"  # the name of a row among a report's properties, and of the marker
_SHOWN = 5  # faults of a kind that are printed in full
_TABLE = re.compile(r"(?<=<!-- campaign -->\n).*?(?=<!-- end of campaign -->)", re.S)
FAULT = "**fault**"


class Row(NamedTuple):
    what: str
    tried: int
    seed: int | str
    outcomes: str
    minutes: str


class Campaign:
    """Makes the trials of a test.

    Args:
        share: of the whole number of trials, 0..1.
        report: takes a row.
    """

    def __init__(self, share: float, report: Callable[[Row], None]):
        self._share, self._report = share, report

    def run(self, what: str, number: int, seed: int, attempt: Callable[[np.random.Generator], str]) -> None:
        """Make ``number`` trials or the share of them, at least one; trial i draws from ``[seed, i]``.

        Args:
            attempt: makes a trial and returns its outcome in a few words. An exception is a fault; all of
                them are told at the end, with the numbers of their trials.
        """
        count = max(1, round(self._share * number))
        draws = {f"trial {index}": np.random.default_rng([seed, index]) for index in range(count)}
        self._try(what, seed, {name: partial(attempt, rng) for name, rng in draws.items()})

    def each(self, what: str, cases: Mapping[str, Callable[[], str]]) -> None:
        """Try each of some cases, whatever the share; nothing is drawn."""
        self._try(what, "-", cases)

    def _try(self, what: str, seed: int | str, trials: Mapping[str, Callable[[], str]]) -> None:
        outcomes, faults, began = Counter(), [], time.monotonic()
        for name, attempt in trials.items():
            try:
                outcomes[attempt()] += 1
            except Exception as error:
                outcomes[FAULT] += 1
                faults.append(f"{what}: {name}: {type(error).__name__}: {error}")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        minutes = f"{(time.monotonic() - began) / 60:.1f}"
        self._report(Row(what, len(trials), seed, counts, minutes))
        if faults:
            more = [f"... {len(faults) - _SHOWN} more faults"] if len(faults) > _SHOWN else []
            pytest.fail("\n".join([*faults[:_SHOWN], *more]), pytrace=False)


@pytest.fixture
def campaign(request) -> Campaign:
    def report(row: Row) -> None:
        request.node.user_properties.append((_ROW, list(row)))

    return Campaign(request.config.getoption("reliability_share"), report)


def pytest_addoption(parser):
    group = parser.getgroup("reliability", "the campaign of tests/reliability, -m reliability")
    group.addoption(
        "--reliability-share", type=float, default=1.0, metavar="S", help="of the trials, 0..1; default 1"
    )
    group.addoption("--reliability-table", type=Path, metavar="FILE", help="a page whose table is replaced")


def pytest_terminal_summary(terminalreporter, config):
    reports = chain.from_iterable(terminalreporter.stats.values())  # and items that were not selected
    rows = rows_of(report for report in reports if isinstance(report, pytest.TestReport))
    if not rows:
        return
    table = markdown(rows, config.getoption("reliability_share"))
    terminalreporter.section("reliability")
    terminalreporter.write_line(table)
    if page := config.getoption("reliability_table"):
        replace_table(page, table)


def rows_of(reports) -> list[Row]:
    """The rows of reports, and one for each test that was skipped, in the order of the files."""
    found = []
    for report in reports:
        if _ROW not in getattr(report, "keywords", {}):
            continue
        rows = [Row(*row) for name, row in report.user_properties if name == _ROW]
        if report.skipped:
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            name = report.nodeid.partition("::test_")[2].replace("_", " ")
            rows.append(Row(name, 0, "-", f"skipped: {reason}", "-"))
        if report.when == "call" or report.skipped:
            found += [(report.nodeid, row) for row in rows]
    return [row for _, row in sorted(found, key=lambda item: item[0])]


def markdown(rows: list[Row], share: float) -> str:
    """The table, and what it was made with."""
    versions = {"kgdet_d2": version("kgdet_d2"), "PyTorch": torch.__version__, "NumPy": np.__version__}
    versions["Python"] = platform.python_version()
    listed = ", ".join(" ".join(pair) for pair in versions.items())
    heading = f"A share of {share:g} of the whole; {os.cpu_count()} cores, {platform.system()}, {listed}:"
    headers = ("what", "tried", "seed", "what came of it", "minutes")
    return f"{heading}\n\n{tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)}\n"


def replace_table(page: Path, table: str) -> None:
    """Replace what is between the marks of a page.

    Raises:
        ValueError: there are no such marks.
    """
    content = page.read_text(encoding="utf-8")
    if not _TABLE.search(content):
        raise ValueError(f"{page}: expected <!-- campaign --> and <!-- end of campaign -->, found none")
    page.write_text(_TABLE.sub(lambda found: f"\n{table}\n", content), encoding="utf-8")
