"""The heads that the release was recorded with: their sizes, weights and ground truth."""

import functools

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, Keypoints

from kgdet_d2.checkpoint.mmdet import mmdet_key_map
from kgdet_d2.config import load_config
from kgdet_d2.modeling.heads.kgdet_head import KGDetHead
from kgdet_d2.modeling.heads.reppoints_head import RepPointsHead
from tests.helpers.release_recordings import Recording, weight

STAGES = (1, 2, 3)
HEADS = {  # recording: columns, strides, the levels' height and width
    "head3_p5": ((9, 25, 49), [32], [(8, 10)]),
    "head3_p567": ((9, 25, 49), [32, 64, 128], [(10, 12), (5, 6), (3, 3)]),
    "head1_n9_p5": ((9,), [32], [(8, 10)]),
}
# The recordings' names -> ours, of a stage's outputs and of the losses.
FIELDS = {"cls": "logits", "kpt": "keypoints", "bbox": "boxes"}
LOSSES = {"cls": "cls", "bbox": "box", "kpt": "keypoint"}


def garments(recording: Recording, image: int | None) -> Instances:
    """Return the recorded ground truth of one image; its number is None where the recording has but one."""
    end = "" if image is None else f"_{image}"
    instances = Instances(tuple(recording[f"img_shape{end}"].tolist()))
    instances.gt_boxes = Boxes(torch.from_numpy(recording[f"gt_boxes{end}"]))
    instances.gt_classes = torch.from_numpy(recording[f"gt_labels{end}"]) - 1
    instances.gt_keypoints = Keypoints(torch.from_numpy(recording[f"gt_kpts{end}"]))
    return instances


def check_gradient(gradient: torch.Tensor, expected: dict[str, float], name: str) -> None:
    """Compare a parameter's gradient with the recorded norm, sum and, where recorded, largest magnitude."""
    gradient = gradient.double()
    assert gradient.norm().item() == pytest.approx(expected["l2"], rel=1e-4), name
    if "absmax" in expected:
        assert gradient.abs().max().item() == pytest.approx(expected["absmax"], rel=1e-3), name
    # Terms cancel in a sum: what is left is as exact as the terms together, at most sqrt(n) l2.
    terms = expected["l2"] * gradient.numel() ** 0.5
    assert gradient.sum().item() == pytest.approx(expected["sum"], abs=1e-4 * terms), name


@functools.cache
def make_head(columns: tuple[int, ...]) -> tuple[CfgNode, KGDetHead, dict[str, str]]:
    """Build the head with the recordings' weights; return config, head and the parameters' released names."""
    cfg = load_config("configs/kgdet_R50.yaml", ["MODEL.KGDET.COLUMNS", list(columns)])
    head = KGDetHead(cfg, {"p5": ShapeSpec(channels=256)})
    names = mmdet_key_map(depth=50, columns=list(columns), num_stages=3)
    theirs = {ours.removeprefix("head."): name for name, ours in names.items() if ours}
    fill(head, theirs)
    return cfg, head, theirs


@functools.cache
def make_reppoints_kp_head() -> tuple[CfgNode, RepPointsHead, dict[str, str]]:
    """Build the head of RepPoints-Kp likewise."""
    cfg = load_config("configs/reppoints_kp_R50.yaml", [])
    head = RepPointsHead(cfg, {"p5": ShapeSpec(channels=256)})
    kgdet = mmdet_key_map(depth=50, columns=[9], num_stages=1)
    shared = ("head.moment_scale", "head.cls_tower", "head.keypoint_tower")
    theirs = {ours: name for name, ours in kgdet.items() if ours and ours.startswith(shared)}
    for branch, name in (("classes", "cls"), ("points", "reppts"), ("keypoints", "keypts")):
        theirs[f"head.stages.1.{branch}.aggregation.convs.0.weight"] = (
            f"bbox_head.{name}_refine_dfmconv.weight"
        )
        for field in ("weight", "bias"):
            theirs[f"head.stages.1.{branch}.output.{field}"] = f"bbox_head.{name}_refine_out.{field}"
            if branch != "classes":
                theirs[f"head.stages.0.{branch}.output.{field}"] = f"bbox_head.{name}_init_out.{field}"
                theirs[f"head.stages.0.{branch}.aggregation.conv.{field}"] = (
                    f"bbox_head.{name}_init_conv.{field}"
                )
    theirs = {ours.removeprefix("head."): name for ours, name in theirs.items()}
    fill(head, theirs)
    return cfg, head, theirs


def fill(head: torch.nn.Module, theirs: dict[str, str]) -> None:
    """Give the head the recordings' weights, by the release's name of each of its parameters."""
    state = {name: weight(theirs[name], tuple(value.shape)) for name, value in head.state_dict().items()}
    head.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
