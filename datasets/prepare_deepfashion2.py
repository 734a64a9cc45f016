"""Convert DeepFashion2's native folders to the annotation files that kgdet_d2 registers.

    python datasets/prepare_deepfashion2.py --root datasets/deepfashion2

For each split it writes ``<split>.npz`` and ``<split>_report.tsv``, a line for everything that was left out.
With --official-coco it also writes the files that the official evaluation reads, 294 landmarks a garment:
``<split>_coco_all.json``, and ``<split>_coco_visible.json`` where occluded landmarks are not labelled.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from kgdet_d2.data.convert.cli import exit_status, prepare_parser
from kgdet_d2.data.convert.coco_export import write_official_coco
from kgdet_d2.data.convert.deepfashion2 import read_split
from kgdet_d2.data.convert.records import write_split

_KNOWN_SPLITS = ("train", "validation")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; None: this process's."""
    parser = prepare_parser(__doc__, "deepfashion2")
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="default: train and validation where they are"
    )
    parser.add_argument("--no-segmentation", action="store_true", help="leave the polygons out")
    parser.add_argument(
        "--official-coco", action="store_true", help="also write the official evaluation's two files"
    )
    return parser.parse_args(argv)


def find_splits(root: Path, named: list[str] | None) -> list[str]:
    """Return the splits named, or where none is, those of the known ones that exist.

    Raises:
        FileNotFoundError: the folder or a split is missing.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder; --root is DeepFashion2's folder")
    splits = named or [split for split in _KNOWN_SPLITS if (root / split).is_dir()]
    if not splits:
        raise FileNotFoundError(f"{root}: expected a folder {' or '.join(_KNOWN_SPLITS)} in it, found none")
    for split in splits:
        if not (root / split).is_dir():
            raise FileNotFoundError(f"{root / split}: there is no such split")
    return splits


def prepare_split(split: str, arguments: argparse.Namespace) -> None:
    """Read a split, and write its files."""
    annotations, problems = read_split(
        arguments.root / split,
        segmentation=not arguments.no_segmentation,
        workers=arguments.workers,
        strict=arguments.strict,
    )
    modes = {"visible": True, "all": False} if arguments.official_coco else {}
    official = {
        f"{split}_coco_{mode}.json": partial(
            write_official_coco,
            annotations=annotations,
            visible_only=visible_only,
            description=f"{split}_coco_{mode}.json",
        )
        for mode, visible_only in modes.items()
    }
    write_split(arguments.output or arguments.root / "annotations", split, annotations, problems, official)


def prepare(arguments: argparse.Namespace) -> None:
    """Convert all splits."""
    for split in find_splits(arguments.root, arguments.splits):
        prepare_split(split, arguments)


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    return exit_status(prepare, parse_arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
