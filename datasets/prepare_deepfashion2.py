"""Turn DeepFashion2's native tree into the compact annotation files that kgdet_d2 registers.

    python datasets/prepare_deepfashion2.py --root datasets/deepfashion2

For each split it writes ``<split>.npz`` and ``<split>_report.txt``, a line for everything that was left out.
"""

import argparse
import os
import sys
from pathlib import Path

from kgdet_d2.data.deepfashion2 import read_split
from kgdet_d2.files import whole_file

_KNOWN_SPLITS = ("train", "validation")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "deepfashion2"
    parser.add_argument("--root", type=Path, default=root, help="default: %(default)s")
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="default: train and validation where they are"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: <root>/annotations")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default: %(default)s")
    parser.add_argument(
        "--strict", action="store_true", help="stop at a split's first problem and write nothing of it"
    )
    return parser.parse_args(argv)


def find_splits(root: Path, named: list[str] | None) -> list[str]:
    """The splits asked for, or else those of the known ones that are there."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder; --root is DeepFashion2's folder")
    splits = named or [split for split in _KNOWN_SPLITS if (root / split).is_dir()]
    if not splits:
        raise FileNotFoundError(f"{root}: expected a folder {' or '.join(_KNOWN_SPLITS)} in it, found none")
    for split in splits:
        if not (root / split).is_dir():
            raise FileNotFoundError(f"{root / split}: there is no such split")
    return splits


def prepare(folder: Path, output: Path, *, workers: int, strict: bool) -> None:
    annotations, problems = read_split(folder, workers=workers, strict=strict)
    file, report = output / f"{folder.name}.npz", output / f"{folder.name}_report.txt"
    annotations.save(file)
    with whole_file(report) as stream:
        stream.write("".join(f"{problem}\n" for problem in problems).encode())
    print(f"{file}: {len(annotations)} photos, {len(annotations.category_id)} garments")
    if problems:
        print(
            f"{folder}: {len(problems)} problems, what they concern was left out: see {report}",
            file=sys.stderr,
        )


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    output = arguments.output or arguments.root / "annotations"
    try:
        for split in find_splits(arguments.root, arguments.splits):
            prepare(arguments.root / split, output, workers=arguments.workers, strict=arguments.strict)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
