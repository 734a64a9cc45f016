"""A map between the names of KGDet's weights in the release and in this project.

The release is written against mmdetection: ``backbone.layer1``, ``neck.lateral_convs.0``,
``bbox_head.kp_rep_block_1``.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FROZEN = ("stem", "res2")  # Detectron2's FrozenBatchNorm2d counts no batches


@dataclass(frozen=True)
class Architecture:
    """The differences between released models.

    Attributes:
        depth: of the ResNet, 50 or 101.
        columns: points of each column of the aggregation, ``MODEL.KGDET.COLUMNS``.
        num_stages: ``MODEL.KGDET.NUM_STAGES``.
    """

    depth: int
    columns: list[int]
    num_stages: int


# Weights that an architecture can be read from, by the release's names and by ours: blocks of the third group
# of the ResNet, stages of the head, columns of the second stage.
_KEY_PATTERNS = {
    "release": (
        r"backbone\.layer3\.(\d+)\.conv1\.weight",
        r"bbox_head\.kp_rep_block_(\d+)\.cls_out\.weight",
        r"bbox_head\.kp_rep_block_2\.cls_dfmconv(_\d)?\.weight",
    ),
    "ours": (
        r"backbone\.bottom_up\.res4\.(\d+)\.conv1\.weight",
        r"head\.stages\.(\d+)\.cls_score\.weight",
        r"head\.stages\.1\.cls_aggregation\.convs\.(\d)\.weight",
    ),
}


def read_architecture(state: Mapping[str, Tensor], names: str) -> Architecture:
    """Read the architecture of a model from its weights.

    Args:
        state: the weights.
        names: how they are named, "release" or "ours".

    Raises:
        ValueError: they are of no KGDet, or of none whose ResNet and head can be recognised.
    """
    blocks, stages, columns = (_select(state, pattern) for pattern in _KEY_PATTERNS[names])
    if not stages or not columns:
        raise ValueError(f"expected weights of a KGDet with two stages or more, got {_preview(state)}")
    return Architecture(
        depth=_depth(len(blocks)),
        columns=[weight.shape[-2] * weight.shape[-1] for weight in columns],
        num_stages=len(stages),
    )


def _select(state: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    """Return the weights whose whole name matches, in order of their names."""
    return [state[name] for name in sorted(state) if re.fullmatch(pattern, name)]


def read_resnet_depth(state: Mapping[str, Tensor]) -> int:
    """Read the depth of torchvision's ResNet from its weights.

    Raises:
        ValueError: they are of no ResNet-50 or -101.
    """
    return _depth(sum(bool(re.fullmatch(r"layer3\.\d+\.conv3\.weight", name)) for name in state))


def _depth(blocks: int) -> int:
    depths = {numbers[2]: depth for depth, numbers in _BLOCKS.items()}
    if blocks not in depths:
        raise ValueError(f"expected a ResNet with {sorted(depths)} blocks in its third group, got {blocks}")
    return depths[blocks]


def rename_keys(
    state: Mapping[str, Tensor], names: Mapping[str, str | None], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Return weights under other names.

    Args:
        state: the weights.
        names: of every weight that has to be there, the new name, None where it is dropped.
        shapes: of those that are kept, by their old names.

    Raises:
        ValueError: lists the weights that are left over, those that are missing, and those of another shape.
    """
    problems = {
        "unknown": [name for name in state if name not in names],
        "missing": [name for name in names if name not in state],
        "of another shape": [
            f"{name} (expected {shapes.get(name)}, got {tuple(state[name].shape)})"
            for name, new in names.items()
            if new and name in state and shapes.get(name) != tuple(state[name].shape)
        ],
    }
    if any(problems.values()):
        listed = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys]
        raise ValueError("weights do not fit; " + "; ".join(listed))
    return {new: state[name] for name, new in names.items() if new}


def _preview(names: Iterable[str], limit: int = 5) -> str:
    """Return the first names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit] or ["none"]) + more


def mmdet_key_map(*, depth: int, columns: list[int], num_stages: int) -> dict[str, str | None]:
    """Return every name in a released checkpoint -> the name in a KGDet with the full neck.

    None stands where KGDet has no such weight.

    Args:
        depth: of the ResNet, 50 or 101.
        columns: ``MODEL.KGDET.COLUMNS``; the release has one column or three.
        num_stages: ``MODEL.KGDET.NUM_STAGES``.

    Raises:
        ValueError: a depth that was not released.
    """
    if depth not in _BLOCKS:
        raise ValueError(f"depth: expected one of {sorted(_BLOCKS)}, got {depth}")
    return {**_backbone_names(_BLOCKS[depth]), **_neck_names(), **_head_names(columns, num_stages)}


def torchvision_key_map(*, depth: int, counted: bool) -> dict[str, str | None]:
    """Return every name in torchvision's ResNet -> the name in a KGDet, None where it has none.

    Args:
        depth: 50 or 101.
        counted: whether its BatchNorms count batches; in old files they do not.
    """
    names = {name.removeprefix("backbone."): ours for name, ours in _backbone_names(_BLOCKS[depth]).items()}
    names |= {"fc.weight": None, "fc.bias": None}
    return {name: ours for name, ours in names.items() if counted or not name.endswith("num_batches_tracked")}


def _backbone_names(blocks: tuple[int, ...]) -> dict[str, str | None]:
    names = _conv_and_norm("backbone.conv1", "backbone.bn1", "stem.conv1")
    for layer, count in enumerate(blocks, start=1):
        for block in range(count):
            theirs, ours = f"backbone.layer{layer}.{block}", f"res{layer + 1}.{block}"
            for conv in (1, 2, 3):
                names |= _conv_and_norm(f"{theirs}.conv{conv}", f"{theirs}.bn{conv}", f"{ours}.conv{conv}")
            if block == 0:
                names |= _conv_and_norm(
                    f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}.shortcut"
                )
    return names


def _conv_and_norm(conv: str, norm: str, ours: str) -> dict[str, str | None]:
    target = f"backbone.bottom_up.{ours}"
    names: dict[str, str | None] = {f"{conv}.weight": f"{target}.weight"}
    for field in _NORM:
        counted = field == "num_batches_tracked" and ours.startswith(_FROZEN)
        names[f"{norm}.{field}"] = None if counted else f"{target}.norm.{field}"
    return names


_GN_FIELDS = (("conv.weight", "weight"), ("gn.weight", "norm.weight"), ("gn.bias", "norm.bias"))
_NECK_LAYERS = {
    "lateral_convs.0": "laterals.p3",
    "lateral_convs.1": "laterals.p4",
    "lateral_convs.2": "laterals.p5",
    "fpn_convs.0": "outputs.p3",
    "fpn_convs.1": "outputs.p4",
    "fpn_convs.2": "outputs.p5",
    "fpn_convs.3": "extras.p6",
    "fpn_convs.4": "extras.p7",
}


def _neck_names() -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for theirs, ours in _NECK_LAYERS.items():
        for field, our_field in _GN_FIELDS:
            names[f"neck.{theirs}.{field}"] = f"backbone.{ours}.{our_field}"
    return names


def _head_names(columns: list[int], num_stages: int) -> dict[str, str | None]:
    names: dict[str, str | None] = {"bbox_head.moment_transfer": "head.moment_scale"}
    for theirs, ours in (("cls_convs", "cls_tower"), ("reg_convs", "keypoint_tower")):
        for index in range(3):
            for field, our_field in _GN_FIELDS:
                names[f"bbox_head.{theirs}.{index}.{field}"] = f"head.{ours}.{index}.{our_field}"
    branches = {"cls": "cls_aggregation", "keypts": "keypoint_aggregation"}
    outputs = {"cls_out": "cls_score", "keypts_out": "keypoint_offsets", "reppts_out": "encode_points"}
    for stage in range(num_stages):
        theirs, ours = f"bbox_head.kp_rep_block_{stage + 1}", f"head.stages.{stage}"
        for field in ("weight", "bias"):
            for output, our_output in outputs.items():
                names[f"{theirs}.{output}.{field}"] = f"{ours}.{our_output}.{field}"
            if stage == 0:
                for branch, our_branch in branches.items():
                    names[f"{theirs}.{branch}_conv.{field}"] = f"{ours}.{our_branch}.conv.{field}"
        for index, points in enumerate(columns if stage else []):
            size = f"_{math.isqrt(points)}" if len(columns) > 1 else ""
            for branch, our_branch in branches.items():
                names[f"{theirs}.{branch}_dfmconv{size}.weight"] = f"{ours}.{our_branch}.convs.{index}.weight"
    return names
