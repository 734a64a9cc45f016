"""The command ``kgdet prepare``: from a dataset's own annotations to compact annotation files."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from kgdet_d2.data.convert import coco_prepare, deepfashion2, fld
from kgdet_d2.data.convert.coco_export import write_official_coco
from kgdet_d2.data.convert.records import count_problems, write_report, write_split
from kgdet_d2.utils.command import at_least, command_parser
from kgdet_d2.utils.io import atomic_write
from kgdet_d2.utils.processes import default_workers

DESCRIPTION = """Turn a dataset's own annotations into the compact files that kgdet_d2 registers.

    kgdet prepare deepfashion2 --root datasets/deepfashion2
    kgdet prepare fld --root datasets/fld
    kgdet prepare coco --json train.json --images photos --name mine

For each split it writes <split>.npz and <split>_report.tsv, a line for everything that was left out.
"""
DEEPFASHION2_DESCRIPTION = """Turn DeepFashion2's native tree into the compact files that kgdet_d2 registers.

    kgdet prepare deepfashion2 --root datasets/deepfashion2

For each split it writes <split>.npz and <split>_report.tsv, a line for everything that was left out. The test
split has photos alone: they can be predicted, and not evaluated. With
--official-coco it also writes what the official evaluation reads, 294 landmarks a garment, twice:
<split>_coco_all.json, and <split>_coco_visible.json where occluded landmarks are not labelled.
"""
FLD_DESCRIPTION = """Turn FLD's text lists into the compact files that kgdet_d2 registers.

    kgdet prepare fld --root datasets/fld

For each split it writes <split>.npz and <split>_report.tsv, a line for everything that was left out.
lists_report.tsv has what concerns no split alone: photos that are in none, wrong numbers of rows.
"""
_TEST = "test"  # whose annotations are not published
_KNOWN_SPLITS = ("train", "validation", _TEST)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet prepare``, with a parser for each dataset."""
    parser = command_parser(DESCRIPTION)
    datasets = parser.add_subparsers(title="datasets", required=True, metavar="DATASET")

    deepfashion2_parser = _add_dataset(datasets, "deepfashion2", DEEPFASHION2_DESCRIPTION)
    _add_root(deepfashion2_parser, "deepfashion2")
    add = deepfashion2_parser.add_argument
    add("--splits", nargs="+", metavar="SPLIT", help="default: train, validation and test, where they are")
    add("--no-segmentation", action="store_true", help="leave the polygons out")
    add("--official-coco", action="store_true", help="also write the official evaluation's two files")
    deepfashion2_parser.set_defaults(prepare=prepare_deepfashion2)

    fld_parser = _add_dataset(datasets, "fld", FLD_DESCRIPTION)
    _add_root(fld_parser, "fld")
    fld_parser.add_argument(
        "--splits", nargs="+", choices=fld.SPLITS, default=fld.SPLITS, help="default: all three"
    )
    fld_parser.set_defaults(prepare=prepare_fld)

    coco_parser = _add_dataset(datasets, "coco", coco_prepare.DESCRIPTION)
    coco_prepare.add_arguments(coco_parser)
    coco_parser.set_defaults(prepare=coco_prepare.prepare)
    return parser


def _add_root(parser: argparse.ArgumentParser, name: str) -> None:
    """Add ``--root`` and ``--output``."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / name
    parser.add_argument("--root", type=Path, default=root, help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: <root>/annotations")


def _add_dataset(
    datasets: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, description: str
) -> argparse.ArgumentParser:
    """Add a parser with ``--workers`` and ``--strict``."""
    parser = datasets.add_parser(
        name,
        help=description.splitlines()[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workers",
        type=at_least(1),
        default=default_workers(),
        metavar="N",
        help="processes; default: one for each core, here %(default)s",
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at a split's first problem and write nothing of it"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Prepare a dataset.

    Raises:
        OSError, ValueError: the tree cannot be read, or has a problem with ``--strict``.
    """
    try:
        args.prepare(args)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing of this split was written") from None


def prepare_deepfashion2(args: argparse.Namespace) -> None:
    """Write the annotation files of DeepFashion2's splits."""
    for split in find_splits(args.root, args.splits):
        how = {"workers": args.workers, "strict": args.strict}
        if split == _TEST and not (args.root / split / "annos").exists():
            annotations, problems = deepfashion2.read_photos_alone(args.root / split, **how)
        else:
            annotations, problems = deepfashion2.read_split(
                args.root / split, segmentation=not args.no_segmentation, **how
            )
        official = {}
        for mode, visible_only in {"visible": True, "all": False}.items() if args.official_coco else ():
            name = f"{split}_coco_{mode}.json"
            official[name] = partial(
                write_official_coco, annotations=annotations, visible_only=visible_only, description=name
            )
        write_split(args.output or args.root / "annotations", split, annotations, problems, official)


def find_splits(root: Path, names: list[str] | None) -> list[str]:
    """Return the splits that are named, or else those of DeepFashion2's that are there.

    Raises:
        FileNotFoundError: there is no such folder, or no such split.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder; --root is DeepFashion2's folder")
    splits = names or [split for split in _KNOWN_SPLITS if (root / split).is_dir()]
    if not splits:
        raise FileNotFoundError(f"{root}: expected a folder {' or '.join(_KNOWN_SPLITS)} in it, found none")
    for split in splits:
        if not (root / split).is_dir():
            raise FileNotFoundError(f"{root / split}: there is no such split")
    return splits


def prepare_fld(args: argparse.Namespace) -> None:
    """Write the annotation files of FLD's splits, and the report on its lists."""
    output = args.output or args.root / "annotations"
    splits, problems = fld.read_lists(args.root, strict=args.strict)
    report = output / "lists_report.tsv"
    with atomic_write(report) as file:
        write_report(file, problems)
    if problems:
        print(f"{report}: {len(problems)} problems\n{count_problems(problems)}", file=sys.stderr)
    for split in args.splits:
        annotations, problems = fld.read_split(
            args.root, split, splits[split], workers=args.workers, strict=args.strict
        )
        write_split(output, split, annotations, problems)
