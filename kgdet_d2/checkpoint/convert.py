#!/usr/bin/env python
r"""Turn weights of the released KGDet into a checkpoint of this project, or back.

    python tools/convert_official_weights.py kgdet_r50.pth weights/kgdet_r50.pth
    python train_net.py --config-file configs/kgdet_R50.yaml --eval-only MODEL.WEIGHTS weights/kgdet_r50.pth
    python tools/convert_official_weights.py --reverse weights/kgdet_r50.pth kgdet_r50.pth

The input is an mmdetection checkpoint, of three columns or one, on ResNet-50 or -101; the tool tells which,
and prints the changes to the config that it needs. Torchvision's ImageNet weights (resnet50-*.pth) are taken,
too: they become a backbone to start training from.

The input's pickle is not executed: anything but tensors and plain Python is refused. The output holds every
weight. Those of the neck that reach no output are not built by default (MODEL.FPN.FULL False); Detectron2
then warns that the checkpoint has keys that are not used, and loads the rest.
"""

import argparse
import hashlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

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
from kgdet_d2.utils.io import atomic_write

CONFIG = Path(__file__).resolve().parents[1] / "configs/kgdet_R50.yaml"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reverse", action="store_true", help="from this project's names to the release's")
    parser.add_argument(
        "--config-file",
        type=Path,
        default=CONFIG,
        metavar="YAML",
        help="of a model with the weights' classes, landmarks and widths; default: configs/kgdet_R50.yaml",
    )
    parser.add_argument("input", type=Path, metavar="IN")
    parser.add_argument("output", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    checkpoint = read_checkpoint(args.input)
    convert = to_release if args.reverse else from_release
    try:
        converted, opts = convert(checkpoint, str(args.config_file), origin_of(args.input))
    except ValueError as error:
        raise ValueError(f"{args.input}: {error}") from error
    with atomic_write(args.output) as file:
        torch.save(converted, file)
    print(f"{args.output}: written")
    changes = " ".join(f'{key} "{value}"' for key, value in opts.items())
    print(f"Changes that {args.config_file.name} needs for this model: {changes or 'none'}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A file by ``torch.save`` of a dict, of tensors and plain Python alone.

    Raises:
        FileNotFoundError: no such file. ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"an object of {found[1]}, which is not executed" if found else "a file that is no such thing"
        raise ValueError(f"{path}: expected tensors and plain Python by torch.save, got {what}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: expected a dict, got {type(checkpoint).__name__}")
    return checkpoint


def origin_of(path: Path) -> dict[str, str]:
    """What the converted file says of where it comes from."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def from_release(
    checkpoint: Mapping[str, Any], config_file: str, origin: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our checkpoint of the release's or torchvision's, and the changes that the config needs.

    The checkpoint has ``model``, ``__author__`` for Detectron2's log, and ``origin``: the file's name and
    SHA-256, its ``meta``, and what was ``dropped``, with values where they are single numbers.
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
    model = rename_keys(state, names, {name: shapes.get(ours) for name, ours in names.items() if ours})
    dropped = {name: state[name] for name, ours in names.items() if not ours}
    dropped = {name: value.item() if value.ndim == 0 else None for name, value in dropped.items()}
    origin = {**origin, "meta": checkpoint.get("meta", {}), "dropped": dropped}
    return {"model": model, "__author__": author, "origin": origin}, opts


def to_release(
    checkpoint: Mapping[str, Any], config_file: str, origin: dict[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The release's checkpoint, ``state_dict`` and ``meta``, of ours, and the changes that the config needs.

    What was dropped on the way here comes back. In a model that was trained here it is 0: counters of batches
    that nothing reads.
    """
    state, before = checkpoint.get("model", {}), checkpoint.get("origin", {})
    architecture = read_architecture(state, "ours")
    opts = changes_to(config_file, keys_of(architecture))
    names = mmdet_key_map(**vars(architecture))
    back = {ours: name for name, ours in names.items() if ours}
    kept = rename_keys(state, back, model_shapes(config_file, opts))
    dropped = before.get("dropped", {})
    state_dict = OrderedDict(
        (name, kept[name] if ours else torch.tensor(dropped.get(name, 0))) for name, ours in names.items()
    )
    return {"state_dict": state_dict, "meta": {**before.get("meta", {}), "converted_from": origin}}, opts


def keys_of(architecture: Architecture) -> dict[str, Any]:
    """The config's keys that an architecture decides; stages weigh as in the release."""
    return {
        "MODEL.RESNETS.DEPTH": architecture.depth,
        "MODEL.KGDET.COLUMNS": architecture.columns,
        "MODEL.KGDET.NUM_STAGES": architecture.num_stages,
        "MODEL.KGDET.LOSS.STAGE_WEIGHTS": [0.5] * (architecture.num_stages - 1) + [1.0],
    }


def changes_to(config_file: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the config's values that are other ones in the file."""
    cfg = load_config(config_file, [])
    return {key: value for key, value in values.items() if attrgetter(key)(cfg) != value}


def model_shapes(config_file: str, opts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of the config's model with the full neck."""
    full = {**opts, "MODEL.FPN.FULL": True, "MODEL.DEVICE": "meta"}
    cfg = load_config(config_file, [item for pair in full.items() for item in pair])
    with torch.device("meta"):
        state = KGDet(cfg).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


if __name__ == "__main__":
    main()
