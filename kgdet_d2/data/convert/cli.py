"""Common arguments and exit statuses of the commands that convert native datasets."""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from kgdet_d2.data.convert.parallel import default_workers

_INTERRUPTED = 130  # the exit status of a command ended by Ctrl-C


def prepare_parser(description: str, dataset: str) -> argparse.ArgumentParser:
    """Make a parser with ``--root``, ``--output``, ``--workers`` and ``--strict``.

    Args:
        description: the command's.
        dataset: the folder's name below ``$DETECTRON2_DATASETS``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / dataset
    parser.add_argument("--root", type=Path, default=root, help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: <root>/annotations")
    parser.add_argument(
        "--workers",
        type=_at_least_one,
        default=default_workers(),
        metavar="N",
        help="processes; default: one for each core, here %(default)s",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at a split's first problem and write nothing of it"
    )
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def exit_status(prepare: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Run a command, and turn a fault of the data or the machine into one line and a status above 0.

    Args:
        prepare: the command.
        arguments: its arguments.

    Returns:
        0, 1 after an error, 130 after Ctrl-C.
    """
    try:
        prepare(arguments)
    except (OSError, ValueError, BrokenProcessPool) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing of this split was written", file=sys.stderr)
        return _INTERRUPTED
    return 0
