"""Turn FLD's text lists into the compact annotation files that kgdet_d2 registers.

    python datasets/prepare_fld.py --root datasets/fld

For each split it writes ``<split>.npz`` and ``<split>_report.tsv``, a line for everything that was left out.
``lists_report.tsv`` has what concerns no split alone: photos that are in none, wrong numbers of rows.
"""

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from kgdet_d2.data.fld import SPLITS, read_lists, read_split
from kgdet_d2.data.native import count_problems, write_report, write_split
from kgdet_d2.data.reading import default_workers
from kgdet_d2.files import whole_file

_INTERRUPTED = 130  # the exit status of a command ended by Ctrl-C


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "fld"
    parser.add_argument("--root", type=Path, default=root, help="default: %(default)s")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="default: all three")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: <root>/annotations")
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        metavar="N",
        help="processes; default: one for each core, here %(default)s",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first problem and write nothing of its split"
    )
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error(f"--workers: expected 1 or more, got {arguments.workers}")
    return arguments


def prepare(arguments: argparse.Namespace) -> None:
    root, output = arguments.root, arguments.output or arguments.root / "annotations"
    splits, problems = read_lists(root, strict=arguments.strict)
    report = output / "lists_report.tsv"
    with whole_file(report) as file:
        write_report(file, problems)
    if problems:
        print(f"{report}: {len(problems)} problems\n{count_problems(problems)}", file=sys.stderr)
    for split in arguments.splits:
        annotations, problems = read_split(
            root, split, splits[split], workers=arguments.workers, strict=arguments.strict
        )
        write_split(output, split, annotations, problems)


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        prepare(arguments)
    except (OSError, ValueError, BrokenProcessPool) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing of this split was written", file=sys.stderr)
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
