"""Conversion of the released KGDet's weights to this project's, and back: the command ``kgdet convert``."""

import argparse
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from kgdet_d2.checkpoint.files import read_checkpoint
from kgdet_d2.checkpoint.mmdet import (
    Architecture,
    mmdet_key_map,
    read_architecture,
    read_resnet_depth,
    rename_keys,
    torchvision_key_map,
)
from kgdet_d2.config import load_config
from kgdet_d2.modeling.meta_arch import KGDet
from kgdet_d2.utils.command import command_parser
from kgdet_d2.utils.io import atomic_write

DESCRIPTION = """Turn weights of the released KGDet into a checkpoint of this project, or back.

    kgdet convert kgdet_r50.pth weights/kgdet_r50.pth
    kgdet train --config-file kgdet_R50.yaml --eval-only MODEL.WEIGHTS weights/kgdet_r50.pth
    kgdet convert --reverse weights/kgdet_r50.pth kgdet_r50.pth

The input is an mmdetection checkpoint, of three columns or one, on ResNet-50 or -101; which one is read from
the weights, and the changes to the config that it needs are printed. Torchvision's ImageNet weights
(resnet50-*.pth) are taken, too: they become a backbone to start training from.

The input's pickle is not executed: anything but tensors and plain Python is refused. The output holds every
weight. Those of the neck that reach no output are not built by default (MODEL.FPN.FULL False); Detectron2
then warns that the checkpoint has keys that are not used, and loads the rest.
"""
RELEASE_CONFIG = "kgdet_R50.yaml"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet convert``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument("--reverse", action="store_true", help="from this project's names to the release's")
    parser.add_argument(
        "--config-file",
        default=RELEASE_CONFIG,
        metavar="YAML",
        help="of a model with the weights' classes, landmarks and widths; default: %(default)s",
    )
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT")
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert a file, and print the changes that the config needs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else, or weights that do not fit; names the file.
    """
    checkpoint = read_checkpoint(args.input)
    convert = to_release if args.reverse else from_release
    try:
        converted, opts = convert(checkpoint, args.config_file, origin_of(args.input))
    except ValueError as error:
        raise ValueError(f"{args.input}: {error}") from error
    with atomic_write(args.output) as file:
        torch.save(converted, file)
    print(f"{args.output}: written")
    changes = " ".join(f'{key} "{value}"' for key, value in opts.items())
    print(f"Changes that {Path(args.config_file).name} needs for this model: {changes or 'none'}")


def origin_of(path: Path) -> dict[str, str]:
    """Return the name and SHA-256 of a file, which the converted file keeps."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def from_release(
    checkpoint: Mapping[str, Any], config_file: str, origin: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a checkpoint of the release's or torchvision's to ours.

    Args:
        checkpoint: with ``state_dict`` and ``meta``, or a state dict alone.
        config_file: of a model with the weights' classes, landmarks and widths.
        origin: see :func:`origin_of`.

    Returns:
        Our checkpoint, and the changes that the config needs, KEY -> value. The checkpoint has ``model``,
        ``__author__`` for Detectron2's log, and ``origin``: the file's name and SHA-256, its ``meta``, and
        what was ``dropped``, with values where they are single numbers.

    Raises:
        ValueError: the weights are of no such model.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if "layer1.0.conv1.weight" in state:
        author, depth = "torchvision", read_resnet_depth(state)
        opts = changes_to(config_file, {"MODEL.RESNETS.DEPTH": depth})
        counted = any(name.endswith("num_batches_tracked") for name in state)
        names = torchvision_key_map(depth=depth, counted=counted)
    else:
        author, architecture = "KGDet's release", read_architecture(state, "release")
        opts = changes_to(config_file, keys_of(architecture))
        names = mmdet_key_map(**vars(architecture))
    shapes = model_shapes(config_file, opts)
    model = rename_keys(state, names, {name: shapes[ours] for name, ours in names.items() if ours in shapes})
    dropped = {name: state[name] for name, ours in names.items() if not ours}
    dropped = {name: value.item() if value.ndim == 0 else None for name, value in dropped.items()}
    history = {**origin, "meta": checkpoint.get("meta", {}), "dropped": dropped}
    return {"model": model, "__author__": author, "origin": history}, opts


def to_release(
    checkpoint: Mapping[str, Any], config_file: str, origin: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a checkpoint of ours to the release's, ``state_dict`` and ``meta``.

    What was dropped on the way here comes back. In a model that was trained here it is 0: counters of batches
    that nothing reads.

    Args:
        checkpoint: with ``model``, and ``origin`` where it was converted.
        config_file: of a model with the weights' classes, landmarks and widths.
        origin: see :func:`origin_of`.

    Returns:
        The release's checkpoint, and the changes that the config needs, KEY -> value.

    Raises:
        ValueError: the weights are of no KGDet with the full neck.
    """
    state, earlier = checkpoint.get("model", {}), checkpoint.get("origin", {})
    architecture = read_architecture(state, "ours")
    opts = changes_to(config_file, keys_of(architecture))
    names = mmdet_key_map(**vars(architecture))
    back = {ours: name for name, ours in names.items() if ours}
    kept = rename_keys(state, back, model_shapes(config_file, opts))
    dropped = earlier.get("dropped", {})
    state_dict = OrderedDict(
        (name, kept[name] if ours else torch.tensor(dropped.get(name, 0))) for name, ours in names.items()
    )
    return {"state_dict": state_dict, "meta": {**earlier.get("meta", {}), "converted_from": origin}}, opts


def keys_of(architecture: Architecture) -> dict[str, Any]:
    """Return the config's keys that an architecture decides; stages weigh as in the release."""
    return {
        "MODEL.RESNETS.DEPTH": architecture.depth,
        "MODEL.KGDET.COLUMNS": architecture.columns,
        "MODEL.KGDET.NUM_STAGES": architecture.num_stages,
        "MODEL.KGDET.LOSS.STAGE_WEIGHTS": [0.5] * (architecture.num_stages - 1) + [1.0],
    }


def changes_to(config_file: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the config file's."""
    cfg = load_config(config_file, [])
    return {key: value for key, value in values.items() if attrgetter(key)(cfg) != value}


def model_shapes(config_file: str, opts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights of the config's model with the full neck."""
    full = {**opts, "MODEL.FPN.FULL": True, "MODEL.DEVICE": "meta"}
    cfg = load_config(config_file, [item for pair in full.items() for item in pair])
    with torch.device("meta"):
        state = KGDet(cfg).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}
