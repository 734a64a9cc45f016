#!/usr/bin/env python
r"""Count a model's parameters and multiply-adds, by part.

    python tools/analyze.py --config-file configs/kgdet_R50.yaml
    python tools/analyze.py --config-file configs/kgdet_R50.yaml --size 1333 800 MODEL.RESNETS.DEPTH 101

No weights, data or GPU are needed. Columns:

    parameters     of all layers, frozen ones included
    trainable      those that learn; the paper's "param."
    conv G         10^9 multiply-adds of convolutions and matrix products
    deformable G   the same of deformable convolutions
    total G        both together: what one image costs; of an R-CNN, the most that one can cost
    paper's G      the paper's "FLOPs": no deformable convolutions, but biases, ReLU, BatchNorm and pooling

Some systems of the paper's Table 1 have parts that ours lack or have otherwise, as the neck's parts that
reach no output (MODEL.FPN.FULL). Each such difference has its row, and a second sum has them all: it is the
one to hold against the paper.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from detectron2.config import CfgNode
from tabulate import SEPARATING_LINE, tabulate

from kgdet_d2.analysis import Counts, count_parts, table_1_differences, total
from kgdet_d2.config import load_config
from kgdet_d2.utils.io import write_json

GIGA = 1e9
HEADERS = ["part", "parameters", "trainable", "conv G", "deformable G", "total G", "paper's G"]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="YAML")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[1280, 800], metavar=("WIDTH", "HEIGHT"), help="in pixels"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the counts there, too")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    cfg = load_config(args.config_file, args.opts)
    parts = count_parts(cfg, *args.size)
    sums = {"as built": total(parts)}
    differences = table_1_differences(cfg, *args.size)
    if differences:
        sums["as Table 1 counts"] = sums["as built"] + total(differences)
    print("{} at {} x {} pixels".format(args.config_file, *args.size))
    if "rpn" in parts:
        print(box_budget(cfg))
    print()
    print(table(parts, differences, sums))
    for name, counts in sums.items():
        parameters, flops = counts.trainable / 1e6, counts.paper_flops / GIGA
        print(f"The paper's convention, {name}: {parameters:.2f} M / {flops:.2f} G")
    if args.json:
        write_counts(args, parts, differences, sums)


def box_budget(cfg: CfgNode) -> str:
    proposals, detections = cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.TEST.DETECTIONS_PER_IMAGE
    return (
        "and as many boxes as there can be:\n"
        f"box head: {proposals} proposals (MODEL.RPN.POST_NMS_TOPK_TEST)\n"
        f"other heads: {detections} detections (TEST.DETECTIONS_PER_IMAGE)"
    )


def table(parts: dict[str, Counts], differences: dict[str, Counts], sums: dict[str, Counts]) -> str:
    """The parts and their sum; the differences to what the paper counts and the sum with them."""
    rows = []
    for terms, (name, counts) in zip((parts, differences), sums.items(), strict=False):
        rows += [*itertools.starmap(_row, terms.items()), SEPARATING_LINE, _row(name, counts)]
    alignment = ["left", *["right"] * (len(HEADERS) - 1)]
    return tabulate(rows, HEADERS, colalign=alignment, disable_numparse=True) + "\n"


def _row(name: str, counts: Counts) -> list[str]:
    billions = (counts.convolution, counts.deformable, counts.multiply_adds, counts.paper_flops)
    numbers = [f"{counts.parameters:,}", f"{counts.trainable:,}", *(f"{n / GIGA:.2f}" for n in billions)]
    return [name, *numbers]


def write_counts(
    args: argparse.Namespace,
    parts: dict[str, Counts],
    differences: dict[str, Counts],
    sums: dict[str, Counts],
) -> None:
    """``config_file``, ``overrides``, ``width`` and ``height`` in pixels, and every count in full."""

    def in_full(counts: dict[str, Counts]) -> dict[str, dict[str, int]]:
        return {
            name: asdict(c) | {"multiply_adds": c.multiply_adds, "paper_flops": c.paper_flops}
            for name, c in counts.items()
        }

    width, height = args.size
    report = {"config_file": args.config_file, "overrides": args.opts, "width": width, "height": height}
    report |= {"parts": in_full(parts), "differences": in_full(differences), "sums": in_full(sums)}
    write_json(args.json, report)


if __name__ == "__main__":
    main()
