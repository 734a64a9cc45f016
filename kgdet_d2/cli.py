"""The command ``kgdet``: one name for everything that this package does from a shell."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from kgdet_d2 import __version__
from kgdet_d2.utils.command import exit_status
from kgdet_d2.utils.modules import import_modules


class Command(NamedTuple):
    """A command's module, which is imported when the command runs.

    Attributes:
        module: has ``make_parser()``, and ``run(args)`` that returns an exit status or None.
        summary: one line of the list of commands.
    """

    module: str
    summary: str


COMMANDS = {
    "train": Command("kgdet_d2.engine.trainer", "train a model, or evaluate one with --eval-only"),
    "prepare": Command(
        "kgdet_d2.data.convert.prepare",
        "make annotation files of a dataset: deepfashion2, fld, or coco, your own",
    ),
    "check": Command("kgdet_d2.engine.check.command", "look at a dataset before training on it"),
    "draw": Command("kgdet_d2.engine.draw", "draw predictions beside the ground truth"),
    "predict": Command("kgdet_d2.engine.predict.command", "find the garments of photos, folders and films"),
    "demo": Command("kgdet_d2.engine.demo", "draw garments, by the arguments of Detectron2's demo"),
    "app": Command("kgdet_d2.engine.app.command", "find the garments of photos in a browser"),
    "export": Command("kgdet_d2.engine.export", "write a model as a file that runs without this package"),
    "evaluate": Command("kgdet_d2.engine.evaluate", "evaluate stored predictions again, without the model"),
    "errors": Command("kgdet_d2.engine.errors", "tell what costs AP: kinds of errors, oracles"),
    "report": Command("kgdet_d2.engine.report.command", "write what an evaluation found as one HTML page"),
    "export-dataset": Command(
        "kgdet_d2.engine.export_dataset",
        "write data and predictions for COCO, CVAT, FiftyOne, Label Studio",
    ),
    "analyze": Command("kgdet_d2.complexity", "count a model's parameters and multiply-adds"),
    "convert": Command("kgdet_d2.checkpoint.convert", "convert the released KGDet's weights, or back"),
    "fetch-backbone": Command("kgdet_d2.checkpoint.fetch", "fetch ImageNet weights of a small backbone"),
    "compare": Command("kgdet_d2.engine.compare", "train several systems alike and tabulate them"),
    "cross-validate": Command(
        "kgdet_d2.engine.cross_validate", "train on parts of a small dataset, evaluate on the photos left out"
    ),
    "install-detectron2": Command("kgdet_d2.install_detectron2", "install the Detectron2 that is needed"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    Args:
        arguments: the command's name and its arguments; default: those of the process.
    """
    args = _make_parser().parse_args(arguments)
    command = COMMANDS[args.command]

    def run() -> int | None:
        import_modules(args.imported, "--import")
        module = import_module(command.module)
        parser = module.make_parser()
        parser.prog = f"kgdet {args.command}"
        return module.run(parser.parse_args(args.arguments))

    return exit_status(run)


def _make_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    summaries = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="kgdet",
        description="KGDet, Keypoint-Guided Fashion Detection, on Detectron2.",
        epilog="\n".join(["commands, each with its own --help:", *summaries]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kgdet_d2 {__version__}")
    parser.add_argument(
        "--import",
        dest="imported",
        action="append",
        default=[],
        metavar="MODULE",
        help="of your own, which registers datasets; imported first; may be given again",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="of the command")
    return parser


if __name__ == "__main__":
    sys.exit(main())
