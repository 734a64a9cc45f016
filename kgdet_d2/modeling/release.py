"""The released system's names for KGDet's weights.

The release is written against mmdetection: ``backbone.layer1``, ``neck.lateral_convs.0``,
``bbox_head.kp_rep_block_1``.
"""

import math

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FROZEN = ("stem", "res2")  # Detectron2's FrozenBatchNorm2d counts no batches


def release_names(*, depth: int, columns: list[int], num_stages: int) -> dict[str, str | None]:
    """Every name in a released checkpoint -> the name in a KGDet with the full neck, None where it has none.

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


def _neck_names() -> dict[str, str | None]:
    theirs = [f"lateral_convs.{index}" for index in range(3)] + [f"fpn_convs.{index}" for index in range(5)]
    ours = [f"{part}.p{level}" for part in ("laterals", "outputs") for level in (3, 4, 5)]
    ours += ["extras.p6", "extras.p7"]
    return {
        f"neck.{a}.{field}": f"backbone.{b}.{our_field}"
        for a, b in zip(theirs, ours, strict=True)
        for field, our_field in _GN_FIELDS
    }


_GN_FIELDS = (("conv.weight", "weight"), ("gn.weight", "norm.weight"), ("gn.bias", "norm.bias"))


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
            names |= {f"{theirs}.{a}.{field}": f"{ours}.{b}.{field}" for a, b in outputs.items()}
            if stage == 0:
                names |= {
                    f"{theirs}.{a}_conv.{field}": f"{ours}.{b}.conv.{field}" for a, b in branches.items()
                }
        for index, points in enumerate(columns if stage else []):
            size = f"_{math.isqrt(points)}" if len(columns) > 1 else ""
            for a, b in branches.items():
                names[f"{theirs}.{a}_dfmconv{size}.weight"] = f"{ours}.{b}.convs.{index}.weight"
    return names
