"""Convert FLD's text lists to the annotation files that kgdet_d2 registers.

    python datasets/prepare_fld.py --root datasets/fld

For each split it writes ``<split>.npz`` and ``<split>_report.tsv``, a line for everything that was left out.
``lists_report.tsv`` lists the problems that concern no split alone: photos in none, wrong numbers of rows.
"""

import argparse
import sys

from kgdet_d2.data.convert.cli import exit_status, prepare_parser
from kgdet_d2.data.convert.fld import SPLITS, read_lists, read_split
from kgdet_d2.data.convert.records import count_problems, write_report, write_split
from kgdet_d2.utils.io import atomic_write


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; None: this process's."""
    parser = prepare_parser(__doc__, "fld")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: all three")
    return parser.parse_args(argv)


def prepare(arguments: argparse.Namespace) -> None:
    """Convert the splits, and write a report of the lists."""
    root, output = arguments.root, arguments.output or arguments.root / "annotations"
    splits, problems = read_lists(root, strict=arguments.strict)
    report = output / "lists_report.tsv"
    with atomic_write(report) as file:
        write_report(file, problems)
    if problems:
        print(f"{report}: {len(problems)} problems\n{count_problems(problems)}", file=sys.stderr)
    for split in arguments.splits:
        annotations, problems = read_split(
            root, split, splits[split], workers=arguments.workers, strict=arguments.strict
        )
        write_split(output, split, annotations, problems)


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    return exit_status(prepare, parse_arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
