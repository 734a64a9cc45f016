#!/usr/bin/env python
r"""Look at a registered dataset before training on it.

    python tools/check_dataset.py deepfashion2_train --config-file configs/kgdet_R50.yaml

Prints how many photos, garments and landmarks there are, how large, how visible, with which attributes, and
on which pyramid level each garment falls once photos are resized as for testing. Writes the same as
``statistics.json`` and as plots (PNG), and photos with garments of each class, drawn, as ``samples.jpg``.

The flip map is checked too: landmarks of mirrored frontal garments must lie where their partners lie. The
exit status is 1 when a class's landmarks contradict it, 2 when the dataset cannot be read.
"""

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
from detectron2.structures import BoxMode
from matplotlib.figure import Figure
from tabulate import tabulate

from draw_predictions import fit, grid, titled, write_jpeg
from kgdet_d2.config import load_config
from kgdet_d2.data import AnnotationTable, FashionDataset
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
from kgdet_d2.data.mapper import read_image
from kgdet_d2.modeling.assigners import assign_by_center
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import Garment, Photo
from kgdet_d2.utils.catalog import schema_of_dataset
from kgdet_d2.utils.io import atomic_write
from kgdet_d2.visualizer import FashionVisualizer

PYRAMID = (3, 7)  # p3..p7
SHEET_COLUMNS = 6
SHEET_CELL = (400, 440)  # width, height in pixels
PHOTO_KEYS = {"file_name", "height", "width", "image_id", "annotations"}
GARMENT_KEYS = {"bbox", "bbox_mode", "category_id", "keypoints", "segmentation", "iscrowd"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="NAME", help="a registered one")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: output/check_dataset/NAME")
    parser.add_argument(
        "--config-file",
        metavar="YAML",
        help="its INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST and levels count; default: 800, 1333, p3..p7",
    )
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="drawn per class; default 2")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples; default 0")
    args = parser.parse_args(arguments)
    if args.samples < 0 or args.seed < 0:
        parser.error(f"--samples, --seed: expected 0 or more, got {args.samples} and {args.seed}")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    output = args.output or Path("output/check_dataset", args.dataset)
    try:
        cfg = load_config(args.config_file, []) if args.config_file else get_cfg()
        dataset = DatasetCatalog.get(args.dataset)
        annotations = columns_of(dataset, schema_of_dataset(args.dataset))
    except (KeyError, ValueError, OSError) as error:
        print(f"check_dataset.py: {error}", file=sys.stderr)
        return 2
    shorter, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    overview = statistics.overview(annotations) | {"resized to": shorter, "but at most to": longest}
    tables = count(annotations, cfg)
    checks = check_flip_map(annotations)
    print_all(args.dataset, overview, tables, checks, annotations.schema)
    report = {"dataset": args.dataset, "overview": overview, **tables}
    report["flip map"] = flip_rows(checks, annotations.schema)
    with atomic_write(output / "statistics.json") as file:
        file.write(json.dumps(report, indent=1, allow_nan=False).encode() + b"\n")
    write_plots(output, annotations, tables, checks)
    chosen = choose_samples(annotations, args.samples, args.seed)
    draw_samples(output / "samples.jpg", dataset, MetadataCatalog.get(args.dataset), chosen)
    print(f"Statistics, plots and samples are in {output}")
    return int(any(CONTRADICTED in check.verdict for check in checks))


def columns_of(dataset: FashionDataset | Sequence[dict], schema: KeypointSchema) -> AnnotationTable:
    """The columns that a dataset is made of; plain dataset dicts are turned into columns.

    Raises:
        ValueError: dicts without a size or a class, or that do not fit the schema or one another.
    """
    if isinstance(dataset, FashionDataset):
        return dataset.annotations
    photos = []
    for number, record in enumerate(dataset):
        try:
            photos.append(_photo(number, record, schema))
        except KeyError as error:
            raise ValueError(f"photo {number} of the list, {record.get('file_name')}: no {error}") from error
    return AnnotationTable.from_photos(photos, schema)


def _photo(number: int, record: dict, schema: KeypointSchema) -> Photo:
    garments = [_garment(annotation, schema) for annotation in record.get("annotations", ())]
    attributes = {key: value for key, value in record.items() if key not in PHOTO_KEYS}
    return Photo(record["file_name"], number, record["width"], record["height"], garments, attributes)


def _garment(annotation: dict, schema: KeypointSchema) -> Garment:
    index = annotation["category_id"]
    absent = np.zeros(3 * schema.num_class_keypoints(index))
    return Garment(
        index,
        np.array(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)),
        np.reshape(annotation.get("keypoints", absent), (-1, 3)),
        attributes={key: value for key, value in annotation.items() if key not in GARMENT_KEYS},
    )


def count(annotations: AnnotationTable, cfg: CfgNode) -> dict[str, list[Row]]:
    """All tables by title."""
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
        own = [int(name.removeprefix("p")) for name in cfg.MODEL.FPN.OUT_FEATURES]
        level = assigned_levels(boxes, own[0], own[-1]) - own[0]
        tables["levels of the config"] = statistics.levels(annotations, level, cfg.MODEL.FPN.OUT_FEATURES)
    return tables | {
        "attributes": statistics.attributes(annotations),
        "landmarks": statistics.keypoints(annotations),
    }


def resized_boxes(annotations: AnnotationTable, short_side: int, long_side: int) -> np.ndarray:
    """float32 (G, 4): the boxes in photos resized to these sides, in pixels, as for testing."""
    old = np.column_stack([annotations.height, annotations.width])
    unique, photo = np.unique(old, axis=0, return_inverse=True)
    new = [ResizeShortestEdge.get_output_shape(*shape, short_side, long_side) for shape in unique.tolist()]
    scale = (np.reshape(new, (-1, 2)) / unique)[photo.reshape(-1), ::-1]  # x, y
    scale = np.repeat(scale, np.diff(annotations.garment_offsets), axis=0)
    return (annotations.box * np.tile(scale, 2)).astype(np.float32)


def assigned_levels(boxes: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """int64 (G,): the pyramid level, lowest..highest, whose cells answer for each box (G, 4).

    Training's own assignment is asked: of a cell of each level at the box's centre, which is positive?
    """
    strides = 2.0 ** torch.arange(lowest, highest + 1)
    valid = torch.ones(len(strides), dtype=torch.bool)

    def assign(box: torch.Tensor) -> torch.Tensor:
        cells = ((box[:2] + box[2:]) / 2).expand(len(strides), 2)
        return assign_by_center(box[None], cells, strides, valid, num_positives=1)

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
    print(name)
    print(tabulate([[what, f"{number:,}"] for what, number in overview.items()], colalign=("left", "right")))
    for title, rows in tables.items():
        digits = ".4g" if title == "sizes" else ".3f"
        print(f"\n{title}\n" + tabulate(rows, headers="keys", intfmt=",", floatfmt=digits, missingval="-"))
    rows = [
        {"class": schema.class_names[check.category_id]}
        | {verdict: Counter(check.verdict)[verdict] for verdict in (AGREES, CONTRADICTED, TOO_CLOSE, TOO_FEW)}
        for check in checks
    ]
    print("\nflip map: landmarks whose partners agree with the places of mirrored frontal garments")
    print(tabulate(rows, headers="keys"))
    for row in flip_rows(checks, schema):
        if row["verdict"] == CONTRADICTED:
            print("{class}: {landmark} is paired with {partner}, {better partner} fits better".format(**row))


def flip_rows(checks: list[FlipCheck], schema: KeypointSchema) -> list[Row]:
    """A row for each landmark, named with its number in the class from 1; lengths are of the box, 0..1."""

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
    """(photo, class's name), at random: so many photos of each class, or all, no photo twice."""
    rng = np.random.default_rng(seed)
    photo = np.repeat(np.arange(len(annotations)), np.diff(annotations.garment_offsets))
    chosen: dict[int, str] = {}
    for index, name in enumerate(annotations.schema.class_names):
        left = np.setdiff1d(photo[annotations.category_id == index], list(chosen))
        chosen |= dict.fromkeys(rng.permutation(left)[:per_class].tolist(), name)
    return list(chosen.items())


def draw_samples(
    path: Path, dataset: Sequence[dict], metadata: Metadata, chosen: list[tuple[int, str]]
) -> None:
    """Write the drawn photos on one page; what cannot be read is told and left out."""
    cells = []
    for index, title in chosen:
        record = dataset[index]
        try:
            photo = read_image(record["file_name"], "RGB")
        except RuntimeError as error:
            print(f"sample left out: {error}", file=sys.stderr)
            continue
        drawn = FashionVisualizer(photo, metadata).draw_dataset_dict(record).get_image()[:, :, ::-1]
        cells.append(fit(titled(drawn, f"{title}: {Path(record['file_name']).name}"), SHEET_CELL))
    if cells:
        write_jpeg(path, grid(cells, SHEET_COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
