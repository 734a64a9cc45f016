"""The arguments of ``kgdet check``, and the order of what it does."""

import argparse
import json
from pathlib import Path

from detectron2.config import get_cfg
from matplotlib.figure import Figure

from kgdet_d2.config import load_config
from kgdet_d2.data import AnnotationTable
from kgdet_d2.data.inspect import photos, plots, statistics, suspicions
from kgdet_d2.data.inspect.flip_check import CONTRADICTED, FlipCheck, check_flip_map
from kgdet_d2.data.inspect.photos import PhotoFile, check_photos
from kgdet_d2.data.inspect.problems import DOUBLE_PHOTO, Kind, Problem, by_kind, double_photos
from kgdet_d2.data.inspect.statistics import Row
from kgdet_d2.data.inspect.suspicions import find_suspicions
from kgdet_d2.engine.check.listing import print_problems, problem_counts, write_problems
from kgdet_d2.engine.check.pictures import choose_samples, draw_samples
from kgdet_d2.engine.check.subject import Subject
from kgdet_d2.engine.check.tables import count, flip_rows, print_all, resized_boxes
from kgdet_d2.utils.command import at_least, command_parser
from kgdet_d2.utils.io import atomic_write
from kgdet_d2.utils.processes import default_workers

DESCRIPTION = """Look at a registered dataset before training on it.

    kgdet check deepfashion2_train --config-file kgdet_R50.yaml --decode

Prints how many photos, garments and landmarks there are, how large, how visible, with which attributes, and
on which pyramid level each garment falls once photos are resized as for testing. Writes the same as
statistics.json and as plots (PNG), and photos with garments of each class, drawn, as samples.jpg.

With --decode every photo is read, strictly: those that are missing, cut off or damaged are listed, those of
another size than their annotation's, and those whose pixels are those of another. It finds any damage of a
PNG. A JPEG has no check sums: of one, what was cut out or overwritten by some hundred bytes is found, but of
changes of single bytes one in five.

Annotations are looked through for what is suspicious: boxes that do not hold their landmarks, that are tiny,
beyond the photo or of an odd form, landmarks at one point, coinciding or at (0, 0), garments whose left and
right are exchanged, and garments annotated twice. problems.tsv has all problems, index.html leads to a page
of pictures of each kind.

The flip map is checked too: landmarks of mirrored frontal garments must lie where their partners lie.

Exit status: 1 when photos cannot be read as they are annotated (with --decode), when a class's landmarks
contradict the flip map, or when the dataset cannot be read at all; 0 when there are only suspicions.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet check``."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("dataset", metavar="NAME", help="a registered one")
    add("--output", type=Path, metavar="DIR", help="default: output/check_dataset/NAME")
    add(
        "--config-file",
        metavar="YAML",
        help="its INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and levels count; default: 800, 1333, p3..p7",
    )
    add("--decode", action="store_true", help="read all photos")
    add(
        "--workers",
        type=at_least(1),
        default=default_workers(),
        metavar="N",
        help="processes that read them; default: one per core, here %(default)s",
    )
    add("--samples", type=at_least(0), default=2, metavar="N", help="drawn per class; default 2")
    add("--seed", type=at_least(0), default=0, help="of the choice of samples; default 0")
    add(
        "--pictures",
        type=at_least(0),
        default=12,
        metavar="N",
        help="drawn of each kind of problem, the severest; default 12",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Print and write what a dataset holds; return 1 where it has errors, 0 for suspicions or nothing.

    Raises:
        ValueError, OSError: the dataset or the config cannot be read.
        concurrent.futures.process.BrokenProcessPool: a worker was killed.
    """
    cfg = load_config(args.config_file, []) if args.config_file else get_cfg()
    subject = Subject.load(args.dataset)
    annotations, schema = subject.annotations, subject.annotations.schema
    output = args.output or Path("output/check_dataset", args.dataset)
    shorter, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    overview = statistics.overview(annotations) | {"resized to": shorter, "but at most to": longest}
    tables = count(annotations, cfg)
    checks = check_flip_map(annotations)
    resized = resized_boxes(annotations, shorter, longest)
    of_photos, kinds = find_photo_problems(subject, decode=args.decode, workers=args.workers)
    of_garments = find_suspicions(annotations, resized, checks)
    problems = by_kind([*of_photos, *of_garments], [*kinds, *suspicions.KINDS])

    print_all(args.dataset, overview, tables, checks, schema)
    print_problems(subject, problems)
    report = {"dataset": args.dataset, "overview": overview, **tables, "flip map": flip_rows(checks, schema)}
    report["problems"] = problem_counts(problems)
    with atomic_write(output / "statistics.json") as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")
    write_plots(output, annotations, tables, checks)
    draw_samples(output / "samples.jpg", subject, choose_samples(annotations, args.samples, args.seed))
    write_problems(output, subject, overview, problems, pictures=args.pictures)
    print(f"Statistics, plots, samples and problems are in {output}; {output / 'index.html'} leads to all")
    contradicted = any(CONTRADICTED in check.verdict for check in checks)
    return int(contradicted or any(kind.is_error and found for kind, found in problems.items()))


def find_photo_problems(
    subject: Subject, *, decode: bool, workers: int
) -> tuple[list[Problem], tuple[Kind, ...]]:
    """Find what is wrong with photos: by reading them, or by their names alone.

    Returns:
        The problems, and the kinds that were looked for.
    """
    if not decode:
        return double_photos(subject.paths, subject.paths), (DOUBLE_PHOTO,)
    sizes = subject.annotations.width.tolist(), subject.annotations.height.tolist()
    files = [PhotoFile(*photo) for photo in zip(subject.paths, *sizes, strict=True)]
    return check_photos(files, workers=workers), photos.KINDS


def write_plots(
    output: Path, annotations: AnnotationTable, tables: dict[str, list[Row]], checks: list[FlipCheck]
) -> None:
    """Write the tables as PNG files."""
    figures: dict[str, Figure] = {
        "garments": plots.garments_figure(tables["classes"], tables["garments per photo"]),
        "boxes": plots.boxes_figure(annotations),
        "levels": plots.levels_figure(tables["levels"]),
        "landmarks": plots.keypoints_figure(tables["landmarks"]),
        "flip_map": plots.flip_map_figure(checks, annotations.schema),
    }
    if tables["attributes"]:
        figures["attributes"] = plots.attributes_figure(tables["attributes"])
    for name, figure in figures.items():
        with atomic_write(output / f"{name}.png") as file:
            figure.savefig(file, format="png")
