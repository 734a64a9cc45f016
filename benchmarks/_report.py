"""What benchmarks have in common around their figures: a report, its tables, types of options."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from kgdet_d2.evaluation.report import report_json
from kgdet_d2.utils.environment import measured_with
from kgdet_d2.utils.io import atomic_write


class Report:
    """Rows of figures with the settings and the environment that they were measured in.

    Attributes:
        settings: the command's options.
        environment: commit, hardware, versions, threads.
        rows: a dict each of figures, numbers or their quartiles, and of their "ratios" to other rows'.
    """

    def __init__(self, args: argparse.Namespace):
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        self.settings = json.loads(json.dumps(settings, default=str))
        self.environment = measured_with(getattr(args, "device", "cpu"))
        self.environment["threads"] = getattr(args, "threads", torch.get_num_threads())
        self.rows: list[dict] = []

    def add_ratios(self, name: str, figure: str, same: Sequence[str], /, **fixed: object) -> None:
        """Set a ratio of every row that has a reference.

        Args:
            name: under which ``row["ratios"]`` holds it.
            figure: whose median is divided by the reference's.
            same: keys in which the reference is as the row.
            fixed: values of the reference. A row without a reference, or with one of 0, gets no ratio.
        """
        for row in self.rows:
            wanted = {key: row[key] for key in same} | fixed
            for other in self.rows:
                if all(other[key] == value for key, value in wanted.items()) and _median(other[figure]):
                    row["ratios"][name] = _median(row[figure]) / _median(other[figure])

    def write(self, path: Path) -> None:
        """Write all as JSON, null for nan."""
        with atomic_write(path) as file:
            file.write(report_json({"settings": self.settings, **self.environment, "results": self.rows}))


def _median(figure: Mapping[str, float] | float) -> float:
    return figure["median"] if isinstance(figure, Mapping) else figure


def markdown(rows: Sequence[Mapping[str, object]], **formats: str) -> str:
    """Return a table with a column for every key of any row; what is missing or None is blank.

    Args:
        rows: their values by the columns' headers.
        formats: of a column's floats, or of all others' as ``default``; ".2f" unless given.
    """
    headers = list(dict.fromkeys(key for row in rows for key in row))
    default = formats.get("default", ".2f")
    cells = [
        [
            f"{value:{formats.get(key, default)}}" if isinstance(value, float) else value
            for key, value in ((key, row.get(key)) for key in headers)
        ]
        for row in rows
    ]
    numeric = [any(isinstance(row.get(key), int | float) for row in rows) for key in headers]
    alignment = ["right" if number else "left" for number in numeric]
    return tabulate(cells, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def add_opts(parser: argparse.ArgumentParser) -> None:
    """Add ``--opts``, the last option of a command that reads a config."""
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="changes to the config"
    )


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number from ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse
