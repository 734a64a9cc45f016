"""The command ``kgdet check``: a look at a registered dataset before training on it."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.transforms import ResizeShortestEdge
from matplotlib.figure import Figure
from tabulate import tabulate

from kgdet_d2.config import load_config
from kgdet_d2.data import AnnotationTable, FashionDataset
from kgdet_d2.data.images import read_image
from kgdet_d2.data.inspect import plots, statistics
from kgdet_d2.data.inspect.flip_check import (
    AGREES,
    CONTRADICTED,
    TOO_CLOSE,
    TOO_FEW,
    FlipCheck,
    check_flip_map,
)
from kgdet_d2.data.inspect.statistics import Row
from kgdet_d2.figure_page import fit, grid, titled, write_jpeg
from kgdet_d2.modeling.assigners import assign_by_center
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.utils.catalog import schema_of_dataset
from kgdet_d2.utils.command import at_least, command_parser
from kgdet_d2.utils.io import atomic_write
from kgdet_d2.visualizer import FashionVisualizer

DESCRIPTION = """Look at a registered dataset before training on it.

    kgdet check deepfashion2_train --config-file kgdet_R50.yaml

Prints how many photos, garments and landmarks there are, how large, how visible, with which attributes, and
on which pyramid level each garment falls once photos are resized as for testing. Writes the same as
statistics.json and as plots (PNG), and photos with garments of each class, drawn, as samples.jpg.

The flip map is checked too: landmarks of mirrored frontal garments must lie where their partners lie. The
exit status is 1 when a class's landmarks contradict it, or the dataset cannot be read.
"""
PYRAMID = (3, 7)  # p3..p7
SHEET_COLUMNS = 6
SHEET_CELL = (400, 440)  # width, height in pixels


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet check``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("dataset", metavar="NAME", help="a registered one")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: output/check_dataset/NAME")
    parser.add_argument(
        "--config-file",
        metavar="YAML",
        help="its INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and levels count; default: 800, 1333, p3..p7",
    )
    parser.add_argument(
        "--samples", type=at_least(0), default=2, metavar="N", help="drawn per class; default 2"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the choice of samples; default 0")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print and write what a dataset holds; return 1 where its flip map is contradicted, else 0.

    Raises:
        ValueError, OSError: the dataset or the config cannot be read.
    """
    cfg = load_config(args.config_file, []) if args.config_file else get_cfg()
    schema = schema_of_dataset(args.dataset)
    dataset = DatasetCatalog.get(args.dataset)
    if isinstance(dataset, FashionDataset):
        annotations = dataset.annotations
    else:
        # Numbered anew: a check needs no ids, and those of the dicts may be missing, repeated or strings.
        numbered = ({**record, "image_id": number} for number, record in enumerate(dataset))
        annotations = AnnotationTable.from_dataset_dicts(numbered, schema)
    output = args.output or Path("output/check_dataset", args.dataset)
    shorter, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    overview = statistics.overview(annotations) | {"resized to": shorter, "but at most to": longest}
    tables = count(annotations, cfg)
    checks = check_flip_map(annotations)
    print_all(args.dataset, overview, tables, checks, schema)
    report = {"dataset": args.dataset, "overview": overview, **tables, "flip map": flip_rows(checks, schema)}
    with atomic_write(output / "statistics.json") as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")
    write_plots(output, annotations, tables, checks)
    samples = choose_samples(annotations, args.samples, args.seed)
    draw_samples(output / "samples.jpg", dataset, MetadataCatalog.get(args.dataset), samples)
    print(f"Statistics, plots and samples are in {output}")
    return int(any(CONTRADICTED in check.verdict for check in checks))


def count(annotations: AnnotationTable, cfg: CfgNode) -> dict[str, list[Row]]:
    """Return all tables by title; the levels are those of training's own assignment."""
    boxes = resized_boxes(annotations, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    low, high = PYRAMID
    names = [f"below p{low}", *(f"p{level}" for level in range(low, high + 1)), f"above p{high}"]
    level = assigned_levels(boxes, low - 1, high + 1) - (low - 1)
    tables = {
        "garments per photo": statistics.garments_per_photo(annotations),
        "classes": statistics.classes(annotations),
        "sizes": statistics.sizes(annotations),
        "levels": statistics.levels(annotations, level, names),
    }
    if cfg.MODEL.BACKBONE.NAME.endswith("lean_fpn_backbone"):  # whose garments have a level each
        config_levels = [int(name.removeprefix("p")) for name in cfg.MODEL.FPN.OUT_FEATURES]
        level = assigned_levels(boxes, config_levels[0], config_levels[-1]) - config_levels[0]
        tables["levels of the config"] = statistics.levels(annotations, level, cfg.MODEL.FPN.OUT_FEATURES)
    return tables | {
        "attributes": statistics.attributes(annotations),
        "landmarks": statistics.keypoints(annotations),
    }


def resized_boxes(annotations: AnnotationTable, short_side: int, long_side: int) -> np.ndarray:
    """Return the boxes in photos resized to these sides, in pixels, as for testing: float32 (G, 4)."""
    sizes = np.column_stack([annotations.height, annotations.width])
    unique, size_index = np.unique(sizes, axis=0, return_inverse=True)
    resized = [ResizeShortestEdge.get_output_shape(*size, short_side, long_side) for size in unique.tolist()]
    ratio = (np.reshape(resized, (-1, 2)) / unique)[:, ::-1]  # of each size: x, y
    image_ratio = ratio[size_index.reshape(-1)]  # (N, 2)
    garment_ratio = np.repeat(image_ratio, np.diff(annotations.garment_offsets), axis=0)  # (G, 2)
    return (annotations.box * np.tile(garment_ratio, 2)).astype(np.float32)


def assigned_levels(boxes: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Return the pyramid level that training assigns each box to, by its own function.

    Of one location of each level at the box's centre, the positive one is on that level.

    Args:
        boxes: float32 (G, 4), x1 y1 x2 y2 in pixels.
        lowest: the first of the levels.
        highest: the last of them.

    Returns:
        int64 (G,), lowest..highest.
    """
    strides = 2.0 ** torch.arange(lowest, highest + 1)
    valid = torch.ones(len(strides), dtype=torch.bool)

    def assign(box: torch.Tensor) -> torch.Tensor:
        locations = ((box[:2] + box[2:]) / 2).expand(len(strides), 2)
        return assign_by_center(box[None], locations, strides, valid, num_positives=1)

    if len(boxes) == 0:
        return np.zeros(0, dtype=np.int64)
    garment = torch.vmap(assign)(torch.from_numpy(boxes))  # (G, L): 0, the only one, or BACKGROUND
    return lowest + garment.argmax(dim=1).numpy()


def print_all(
    name: str,
    overview: dict[str, int],
    tables: dict[str, list[Row]],
    checks: list[FlipCheck],
    schema: KeypointSchema,
) -> None:
    """Print all tables, and each landmark whose partner in the flip map is contradicted."""
    print(name)
    print(tabulate([[what, f"{number:,}"] for what, number in overview.items()], colalign=("left", "right")))
    for title, rows in tables.items():
        digits = ".4g" if title == "sizes" else ".3f"
        print(f"\n{title}\n" + tabulate(rows, headers="keys", intfmt=",", floatfmt=digits, missingval="-"))
    verdicts = []
    for check in checks:
        counts = Counter(check.verdict)
        row = {verdict: counts[verdict] for verdict in (AGREES, CONTRADICTED, TOO_CLOSE, TOO_FEW)}
        verdicts.append({"class": schema.class_names[check.category_id], **row})
    print("\nflip map: landmarks whose partners agree with the places of mirrored frontal garments")
    print(tabulate(verdicts, headers="keys"))
    for row in flip_rows(checks, schema):
        if row["verdict"] == CONTRADICTED:
            print("{class}: {landmark} is paired with {partner}, {better partner} fits better".format(**row))


def flip_rows(checks: list[FlipCheck], schema: KeypointSchema) -> list[Row]:
    """Return a row for each landmark, named with its number in the class from 1; lengths in boxes, 0..1."""

    def length(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    rows = []
    for check in checks:
        names = [f"{n} {name}" for n, name in enumerate(schema.keypoint_names[check.category_id], 1)]
        rows += [
            {
                "class": schema.class_names[check.category_id],
                "landmark": name,
                "frontal garments": int(check.garments[index]),
                "x": length(check.median_xy[index, 0]),
                "y": length(check.median_xy[index, 1]),
                "partner": names[check.partner[index]],
                "better partner": names[check.suggested_partner[index]],
                "distance to partner": length(check.partner_distance[index]),
                "distance to itself": length(check.own_distance[index]),
                "verdict": check.verdict[index],
            }
            for index, name in enumerate(names)
        ]
    return rows


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


def choose_samples(annotations: AnnotationTable, per_class: int, seed: int) -> list[tuple[int, str]]:
    """Choose photos at random: so many of each class, or all, no photo twice.

    Returns:
        (photo's row, class's name) of each.
    """
    rng = np.random.default_rng(seed)
    chosen: dict[int, str] = {}
    for index, name in enumerate(annotations.schema.class_names):
        left = np.setdiff1d(annotations.garment_image[annotations.category_id == index], list(chosen))
        chosen |= dict.fromkeys(rng.permutation(left)[:per_class].tolist(), name)
    return list(chosen.items())


def draw_samples(
    path: Path, dataset: Sequence[dict], metadata: Metadata, chosen: list[tuple[int, str]]
) -> None:
    """Write the drawn photos on one page; those that cannot be read are reported and left out."""
    figures = []
    for index, title in chosen:
        record = dataset[index]
        try:
            image = read_image(record["file_name"], "RGB")
        except RuntimeError as error:
            print(f"sample left out: {error}", file=sys.stderr)
            continue
        drawn = FashionVisualizer(image, metadata).draw_dataset_dict(record).get_image()[:, :, ::-1]
        figures.append(fit(titled(drawn, f"{title}: {Path(record['file_name']).name}"), SHEET_CELL))
    if figures:
        write_jpeg(path, grid(figures, SHEET_COLUMNS))
