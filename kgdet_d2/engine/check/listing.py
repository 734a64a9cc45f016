"""The problems that ``kgdet check`` found: a table, a list for programs, and a page that leads to all."""

import codecs
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from tabulate import tabulate

from kgdet_d2.data.inspect.problems import Kind, Problem
from kgdet_d2.data.inspect.statistics import Row
from kgdet_d2.engine.check.pictures import draw_problems
from kgdet_d2.engine.check.subject import Subject
from kgdet_d2.utils.io import atomic_write

FOLDER = "problems"  # of the pages of pictures, below the output folder
_COLUMNS = ("problem", "is_error", "photo", "image_id", "garments", "class", "severity", "reason")
_MEANING_WIDTH = 72  # letters, in the printed table
_MOST_PRINTED = 20  # photos with errors


def problem_counts(problems: Mapping[Kind, Sequence[Problem]]) -> list[Row]:
    """Make a row for each kind: how many photos and garments, whether it is an error, and its meaning."""
    return [
        {
            "problem": kind.name,
            "photos": len({problem.photo for problem in found}),
            "garments": len({garment for problem in found for garment in problem.garments}),
            "error": "yes" if kind.is_error else "no",
            "one that": kind.meaning,
        }
        for kind, found in problems.items()
    ]


def print_problems(subject: Subject, problems: Mapping[Kind, Sequence[Problem]]) -> None:
    """Print the table, and the first photos with errors."""
    widths = [None, None, None, None, _MEANING_WIDTH]
    table = tabulate(problem_counts(problems), headers="keys", intfmt=",", maxcolwidths=widths)
    print(f"\nproblems\n{table}")
    errors = [problem for kind, found in problems.items() if kind.is_error for problem in found]
    for problem in errors[:_MOST_PRINTED]:
        print(f"{problem.kind.name}: {subject.paths[problem.photo]}: {problem.reason}")
    if len(errors) > _MOST_PRINTED:
        print(f"and {len(errors) - _MOST_PRINTED:,} photos more, see problems.tsv")


def write_problems(
    output: Path,
    subject: Subject,
    overview: Mapping[str, int],
    problems: Mapping[Kind, Sequence[Problem]],
    *,
    pictures: int,
) -> None:
    """Write ``problems.tsv``, a page of pictures of each kind, and ``index.html``, which leads to all.

    Pages of an earlier check whose problems are gone are removed.

    Args:
        output: the folder.
        subject: the dataset.
        overview: its counts.
        problems: of each kind, the severest first.
        pictures: on a page, at most; 0 for no pages.
    """
    for earlier in (output / FOLDER).glob("*.jpg"):
        earlier.unlink()
    for kind, found in problems.items():
        if found and pictures:
            draw_problems(output / FOLDER / f"{kind.file_stem}.jpg", subject, found[:pictures])
    with atomic_write(output / "problems.tsv") as file:
        _write_list(file, subject, problems)
    page = _page(output, subject, overview, problems, pictures)
    with atomic_write(output / "index.html") as file:
        file.write(page.encode(errors="backslashreplace"))


def _write_list(file: BinaryIO, subject: Subject, problems: Mapping[Kind, Sequence[Problem]]) -> None:
    """Write a line for each problem, tab-separated, with the columns named in the first line."""
    text = codecs.getwriter("utf-8")(file, "backslashreplace")
    writer = csv.writer(text, csv.excel_tab, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for kind, found in problems.items():
        for problem in found:
            writer.writerow(
                [
                    kind.name,
                    int(kind.is_error),
                    subject.paths[problem.photo],
                    subject.image_ids[problem.photo],
                    _numbers(subject, problem),
                    _class_name(subject, problem),
                    f"{problem.severity:.4g}",
                    problem.reason,
                ]
            )


def _numbers(subject: Subject, problem: Problem) -> str:
    """Return the numbers of a problem's garments in their photo, from 1, separated by blanks."""
    first = subject.garments_of(problem.photo).start
    return " ".join(str(garment - first + 1) for garment in problem.garments)


def _class_name(subject: Subject, problem: Problem) -> str:
    if not problem.garments:
        return ""
    return subject.annotations.schema.class_names[subject.annotations.category_id[problem.garments[0]]]


def _page(
    output: Path,
    subject: Subject,
    overview: Mapping[str, int],
    problems: Mapping[Kind, Sequence[Problem]],
    pictures: int,
) -> str:
    environment = Environment(
        loader=PackageLoader("kgdet_d2.engine.check", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("index.html").render(
        name=subject.name,
        overview=overview,
        sections=[_section(output, subject, *each, pictures) for each in problems.items()],
        plots=sorted(path.name for path in output.glob("*.png")),
        has_samples=(output / "samples.jpg").exists(),
    )


def _section(
    output: Path, subject: Subject, kind: Kind, found: Sequence[Problem], pictures: int
) -> dict[str, Any]:
    """Return what the page says of a kind; its page of pictures is "" where there is none."""
    page = f"{FOLDER}/{kind.file_stem}.jpg"
    return {
        "kind": kind,
        "count": len(found),
        "page": page if (output / page).exists() else "",
        "items": [
            {
                "photo": subject.paths[problem.photo],
                "garments": _numbers(subject, problem),
                "class": _class_name(subject, problem),
                "reason": problem.reason,
            }
            for problem in found[:pictures]
        ],
    }
