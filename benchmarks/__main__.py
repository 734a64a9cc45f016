"""Measure time and memory: ``python -m benchmarks COMMAND``, which has a ``--help`` of its own."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import annotations, evaluation, loader, model
from benchmarks._report import Report

COMMANDS = {module.__name__.split(".")[-1]: module for module in (model, loader, annotations, evaluation)}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        raw = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(
            name, help=module.__doc__.splitlines()[0], description=module.__doc__, formatter_class=raw
        )
        module.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error is one line on standard error and the exit status 1."""
    args = build_parser().parse_args(arguments)
    try:
        report = Report(args)
        COMMANDS[args.command].measure(args, report)
        if args.json:
            report.write(args.json)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"benchmarks {args.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
