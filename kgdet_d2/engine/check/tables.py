"""The tables of ``kgdet check``: what a dataset holds, and the verdict on its flip map."""

from collections import Counter

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from tabulate import tabulate

from kgdet_d2.data import AnnotationTable
from kgdet_d2.data.inspect import statistics
from kgdet_d2.data.inspect.flip_check import (
    AGREES,
    CONTRADICTED,
    OPEN,
    TOO_CLOSE,
    TOO_FEW,
    FlipCheck,
)
from kgdet_d2.data.inspect.statistics import Row
from kgdet_d2.modeling.assigners import assign_by_center
from kgdet_d2.schema import KeypointSchema

PYRAMID = (3, 7)  # p3..p7


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
        row = {verdict: counts[verdict] for verdict in (AGREES, CONTRADICTED, TOO_CLOSE, TOO_FEW, OPEN)}
        verdicts.append({"class": schema.class_names[check.category_id], **row})
    print("\nflip map: landmarks whose partners agree with the places of mirrored frontal garments")
    print(tabulate(verdicts, headers="keys"))
    for row in flip_rows(checks, schema):
        if row["verdict"] == CONTRADICTED:
            print("{class}: {landmark} is paired with {partner}, {better partner} fits better".format(**row))
    for name, reason in schema.unpaired_classes.items():
        print(f"{name}: {reason}, so its pairs of left and right are left open in the schema")
    for row in flip_rows(checks, schema):
        if row["verdict"] == OPEN and row["better partner"] != row["landmark"]:
            print("{class}: by its place {landmark} is paired with {better partner}".format(**row))


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
