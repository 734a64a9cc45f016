#!/usr/bin/env python
r"""Time against AP: one trained model under several settings of inference.

    python tools/benchmark_inference.py --config-file configs/sample/kgdet_tiny.yaml \
        --variant "all cells" --variant "10 cells" MODEL.KGDET.SPARSE_CELLS 10 \
        --variant fused MODEL.INFERENCE.FUSE_BN True --opts MODEL.WEIGHTS output/demo/model_final.pth

Each --variant is a name, and KEY VALUE overrides after those of --opts. All variants load MODEL.WEIGHTS and
are evaluated on the whole of DATASETS.TEST. Then they are timed, photo by photo in turns, from tensor to
detections, on the first --max-images of its photos; the very first warms up and does not count. Changes and
ratios are to the first variant, that of time by the medians.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from tabulate import tabulate
from taking_turns import quartiles, time_in_turns
from torch import nn
from variants import add_variants

from kgdet_d2.config import check_weights, load_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.evaluation import FashionEvaluator
from kgdet_d2.evaluation.report import report_json
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.utils.environment import measured_with
from kgdet_d2.utils.io import atomic_write

SCORES = {"box AP": ("bbox", "AP"), "AP50": ("bbox", "AP50"), "landmark AP": ("keypoints", "AP")}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="YAML")
    add_variants(parser, required=True)
    parser.add_argument("--max-images", type=int, default=50, metavar="N", help="to time on; default: 50")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE, for all variants")
    args = parser.parse_args(arguments)
    names = [name for name, *_ in args.variants]
    if len(set(names)) < len(names) or args.max_images < 2:
        parser.error(f"expected variants of different names and --max-images from 2, got {names}")
    args.variants = {name: overrides for name, *overrides in args.variants}
    return args


def load_configs(args: argparse.Namespace) -> dict[str, CfgNode]:
    """Each variant's config.

    Raises:
        ValueError: one does not fit, or they are not of the same dataset and weights.
        FileNotFoundError: there is no such config or weights.
    """
    cfgs = {}
    for name, overrides in args.variants.items():
        cfgs[name] = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", args.device, *overrides])
        check_weights(cfgs[name], required=True)
    found = {(cfg.MODEL.WEIGHTS, *cfg.DATASETS.TEST) for cfg in cfgs.values()}
    if [len(each) for each in found] != [2]:
        raise ValueError(f"MODEL.WEIGHTS, DATASETS.TEST: expected the same ones in all variants, got {found}")
    return cfgs


def load_model(cfg: CfgNode) -> nn.Module:
    """As ``MODEL.INFERENCE`` wants it."""
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return optimize_for_inference(model, cfg)


@torch.inference_mode()  # what is compiled for it serves both
def measure(cfgs: Mapping[str, CfgNode], max_images: int) -> list[dict]:
    """A row for each variant: scores and time."""
    models = {name: load_model(cfg) for name, cfg in cfgs.items()}
    mappers = {name: FashionDatasetMapper(cfg, is_train=False) for name, cfg in cfgs.items()}
    (dataset_name,) = cfgs[next(iter(cfgs))].DATASETS.TEST
    sigmas = cfgs[next(iter(cfgs))].TEST.KEYPOINT_OKS_SIGMAS
    evaluator = FashionEvaluator(dataset_name, kpt_oks_sigmas=sigmas)
    rows = []
    for name, cfg in cfgs.items():
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mappers[name])
        results = inference_on_dataset(models[name], loader, evaluator)
        scores = {score: results[task][metric] for score, (task, metric) in SCORES.items() if task in results}
        rows.append({"name": name, "scores": scores})
    times = time_in_turns(models, turns(DatasetCatalog.get(dataset_name), mappers, max_images))
    return [row | {"ms": quartiles(times[row["name"]]), "timed": len(times[row["name"]])} for row in rows]


def turns(
    dataset: Sequence[dict], mappers: Mapping[str, FashionDatasetMapper], max_images: int
) -> Iterator[dict[str, list[dict]]]:
    """The first photos as each variant takes them."""
    for row in range(min(max_images, len(dataset))):
        yield {name: [mapper(dataset[row])] for name, mapper in mappers.items()}


def compare_with_first(rows: list[dict]) -> None:
    """Give each row its changes of scores and its ratio of time."""
    first = rows[0]
    for row in rows:
        row["changes"] = {name: value - first["scores"][name] for name, value in row["scores"].items()}
        row["ratio"] = row["ms"]["median"] / first["ms"]["median"]


def table(rows: list[dict]) -> str:
    scores = list(rows[0]["scores"])
    headers = ["variant", *(column for name in scores for column in (name, "change"))]
    headers += ["ms/image", "quartiles", f"/ {rows[0]['name']}"]
    cells = []
    for row in rows:
        ms = row["ms"]
        cells.append([row["name"]])
        for name in scores:
            cells[-1] += [f"{row['scores'][name]:.2f}", f"{row['changes'][name]:+.2f}"]
        cells[-1] += [f"{ms['median']:.1f}", f"{ms['lower']:.1f} - {ms['upper']:.1f}", f"{row['ratio']:.2f}"]
    alignment = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(cells, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        cfgs = load_configs(args)
        rows = measure(cfgs, args.max_images)
        compare_with_first(rows)
        (dataset,) = cfgs[rows[0]["name"]].DATASETS.TEST
        report = {"config": args.config_file, "opts": args.opts, "dataset": dataset}
        report |= {"threads": torch.get_num_threads(), **measured_with(args.device)}
        report["results"] = [row | {"overrides": args.variants[row["name"]]} for row in rows]
        print(table(rows), f"{dataset}; {report['hardware']}, {report['threads']} used.", sep="\n\n")
        if args.json:
            with atomic_write(args.json) as file:
                file.write(report_json(report))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"benchmark_inference.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
