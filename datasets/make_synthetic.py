#!/usr/bin/env python
"""Make the synthetic sample: drawn photos in DeepFashion2's native tree.

    <root>/{train,validation}/image/000001.jpg
    <root>/{train,validation}/annos/000001.json

Photo number n of a split depends on the seed, the split and n alone. ``<root>/synthetic.json`` records what
was made; a run with the same arguments finds it there and does nothing. Other photos of an earlier run go;
a folder with photos and without such a record is left alone.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from kgdet_d2.figure_page import grid, write_jpeg
from kgdet_d2.synthetic import GENERATOR_VERSION, SPLITS, generate_photo
from kgdet_d2.synthetic.annotate import draw_annotation
from kgdet_d2.utils.io import atomic_write

RECORD = "synthetic.json"
JPEG_QUALITY = 92


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as file:
        file.write(content)


def write_photo(index: int, *, folder: Path, split: str, seed: int, size: int) -> None:
    """Make one photo and write it with its annotation, the image first."""
    photo = generate_photo(index, seed=seed, split=split, size=size)
    name = f"{index + 1:06d}"
    write_jpeg(folder / "image" / f"{name}.jpg", photo.image, quality=JPEG_QUALITY)
    write_whole(folder / "annos" / f"{name}.json", json.dumps(photo.annotation).encode())


def make_split(root: Path, split: str, count: int, *, seed: int, size: int, workers: int) -> None:
    """Write one split; the photos it held before go."""
    folder = root / split
    for part, ending in (("image", "*.jpg"), ("annos", "*.json")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for old in (folder / part).glob(ending):
            old.unlink()
    job = partial(write_photo, folder=folder, split=split, seed=seed, size=size)
    progress = partial(tqdm, total=count, desc=f"drawing {split}", unit="photo")
    if workers == 1:
        for index in progress(range(count)):
            job(index)
        return
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for _ in progress(pool.imap_unordered(job, range(count), chunksize=8)):
            pass


def read_record(root: Path) -> dict | None:
    """Return what an earlier run noted; None where none has written here.

    Raises:
        ValueError: the record is not JSON, or there are photos but no record: they are not ours to replace.
    """
    path = root / RECORD
    if path.is_file():
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{path}: expected JSON, {error}; remove the file to make the sample anew"
            ) from None
    for split in SPLITS:
        if any((root / split).glob("*/*")):
            raise ValueError(f"{root / split}: holds files that no run of this script has made (no {RECORD})")
    return None


def write_record(root: Path, record: dict) -> None:
    """Note what a run makes, so that a later one finds it."""
    write_whole(root / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def number_from(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type: an integer in low..high, low at least 0."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text!r}")
        return int(text)

    return parse


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    default_root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "synthfashion"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    count = number_from(0, 999_999)
    parser.add_argument("--root", type=Path, default=default_root, help=f"default: {default_root}")
    parser.add_argument("--train", type=count, default=2000, help="photos (default 2000)")
    parser.add_argument("--validation", type=count, default=200, help="photos (default 200)")
    parser.add_argument("--size", type=number_from(64, 4096), default=256, help="long side, px (default 256)")
    parser.add_argument("--seed", type=number_from(0, 2**31 - 1), default=0, help="default 0")
    parser.add_argument("--workers", type=number_from(1, 256), default=1, help="processes (default 1)")
    parser.add_argument("--contact-sheet", type=Path, help="draw 24 annotated training photos on this page")
    return parser.parse_args(arguments)


def make(root: Path, counts: dict[str, int], *, seed: int, size: int, workers: int) -> None:
    """Make the whole sample, unless it is there."""
    record = {"generator_version": GENERATOR_VERSION, "seed": seed, "size": size, **counts}
    total = " + ".join(str(counts[split]) for split in SPLITS)
    if read_record(root) == {**record, "finished": True}:
        print(f"{root}: already there ({total} photos)")
        return
    root.mkdir(parents=True, exist_ok=True)
    write_record(root, {**record, "finished": False})
    for split in SPLITS:
        make_split(root, split, counts[split], seed=seed, size=size, workers=workers)
    write_record(root, {**record, "finished": True})
    print(f"{root}: made {total} photos")


def write_contact_sheet(path: Path, *, seed: int, size: int) -> None:
    """Draw one photo of each of the first 24 pairs of the training split, with its annotation, on a page."""
    tiles = []
    for index in range(0, 48, 2):
        photo = generate_photo(index, seed=seed, size=size)
        tiles.append(draw_annotation(photo.image, photo.annotation, side=size))
    write_jpeg(path, grid(tiles, columns=6), quality=72)


def main(arguments: list[str] | None = None) -> int:
    """Make the sample; return 0, or 1 after an error, which is printed."""
    args = parse_arguments(arguments)
    cv2.setNumThreads(1)
    counts = {"train": args.train, "validation": args.validation}
    try:
        make(args.root, counts, seed=args.seed, size=args.size, workers=args.workers)
        if args.contact_sheet:
            write_contact_sheet(args.contact_sheet, seed=args.seed, size=args.size)
    except (OSError, ValueError) as error:
        print(f"make_synthetic.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
