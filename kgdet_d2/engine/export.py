"""The command ``kgdet export``."""

import argparse
import re
from pathlib import Path

from kgdet_d2.export.aggregation import SPELLINGS
from kgdet_d2.export.options import SUFFIXES, ExportOptions
from kgdet_d2.predictor import FashionPredictor, predictor_config
from kgdet_d2.utils.command import command_parser

DESCRIPTION = """Write a model as one file that runs without this package.

    kgdet export --weights model_final.pth --format onnx --output model.onnx
    kgdet export --weights model_final.pth --format pt2 --output model.pt2 --photos photos/*.jpg

The file takes RGB photos of any number and size, and gives boxes, scores, classes and landmarks; what it is
of, landmarks' names and the rule of sizes stand in its metadata. It is written only if, run by onnxruntime or
PyTorch on photos of two sizes and on two together, it finds what the model finds: boxes and landmarks to
0.001 pixel, scores to 0.00001. docs/EXPORT.md has more.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet export``."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE")
    add("--format", required=True, choices=tuple(SUFFIXES))
    add("--output", required=True, type=Path, metavar="FILE", help="that ends in .onnx or .pt2")
    add("--config-file", metavar="YAML", help="of weights that do not say what model they are of")
    add("--aggregation", choices=SPELLINGS, default=ExportOptions.aggregation, help="default deform_conv")
    add("--batch", type=_number, default=None, metavar="dynamic|N", help="photos of a batch; default dynamic")
    add("--size", type=_size, default=None, metavar="dynamic|HxW", help="of the input; default dynamic")
    add("--no-nms", action="store_true", help="give what is predicted everywhere, select nothing")
    add("--photos", nargs="+", default=[], metavar="PHOTO", help="to compare on; default: drawn ones")
    add("--score-threshold", type=float, default=0.5, metavar="S", help="for the metadata; default 0.5")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides of the config")
    return parser


def run(args: argparse.Namespace) -> None:
    """Export a model and print how what it finds differs from before.

    Raises:
        FileNotFoundError, ValueError, ImportError, RuntimeError: see :meth:`FashionPredictor.export`.
    """
    options = {
        "format": args.format,
        "aggregation": args.aggregation,
        "batch": args.batch,
        "size": args.size,
        "nms": not args.no_nms,
    }
    cfg = predictor_config(args.weights, "cpu", args.config_file, args.opts)
    ExportOptions(**options).check(cfg, args.output)  # before the weights are read
    predictor = FashionPredictor.from_config(cfg, score_threshold=args.score_threshold)
    difference = predictor.export(args.output, photos=args.photos, **options)
    print(
        f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB; of {difference.compared} "
        f"{'places' if args.no_nms else 'detections'} compared the largest differences are "
        f"{difference.pixels:.1g} px and {difference.score:.1g} in score"
    )


def _number(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected dynamic or a number of photos, got {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int] | None:
    if text == "dynamic":
        return None
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if sides is None:
        raise argparse.ArgumentTypeError(f"expected dynamic or HEIGHTxWIDTH in pixels, got {text!r}")
    return int(sides[1]), int(sides[2])
