"""What a training finds in its output folder: nothing, its own checkpoints, or those of another training."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

_OF_THE_MACHINE = ("MODEL.WEIGHTS", "MODEL.DEVICE")  # may differ where a training goes on
_SHOWN = 5  # keys in a message


def check_output_folder(cfg: CfgNode, *, resume: bool, overwrite: bool) -> None:
    """Refuse to train where checkpoints would be lost or mixed up.

    Args:
        cfg: of the training.
        resume: go on from the folder's last checkpoint.
        overwrite: begin anew, though there are checkpoints.

    Raises:
        FileExistsError: there are checkpoints, and neither was asked for.
        ValueError: the training to go on with has another model; names the keys.
    """
    folder = Path(cfg.OUTPUT_DIR)
    checkpoints = sorted(folder.glob("model_*.pth"), key=os.path.getmtime)
    if not checkpoints:
        if resume:
            logger.warning("--resume: there is no checkpoint in %s; the training begins anew", folder)
        return
    if not (resume or overwrite):
        raise FileExistsError(
            f"OUTPUT_DIR: {folder} has checkpoints, {checkpoints[-1].name} the last; go on from it with "
            "--resume, begin anew with --overwrite, or name another folder"
        )
    if resume:
        _check_same_model(folder / "config.yaml", cfg)


def _check_same_model(file: Path, cfg: CfgNode) -> None:
    """Compare ``MODEL`` with that of the folder's config, where it is there."""
    if not file.is_file():
        return
    earlier = dict(_leaves(yaml.safe_load(file.read_text())["MODEL"], "MODEL"))
    now = dict(_leaves(yaml.safe_load(cfg.dump())["MODEL"], "MODEL"))
    # Keys that an earlier version of the program did not have had their defaults then.
    both = [key for key in now if key in earlier and key not in _OF_THE_MACHINE]
    differ = [key for key in both if earlier[key] != now[key]]
    if differ:
        shown = [f"{key} (expected {earlier[key]!r}, got {now[key]!r})" for key in differ[:_SHOWN]]
        more = f", and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise ValueError(f"--resume: {file} is of another model: {', '.join(shown)}{more}")


def _leaves(node: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value
