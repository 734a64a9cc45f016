"""The heads that the release was recorded with: their sizes, weights and ground truth."""

import functools

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, Keypoints

from kgdet_d2.config import load_config
from kgdet_d2.modeling.head import KGDetHead
from kgdet_d2.modeling.release import release_names
from tests.modeling.release_recordings import Recording, weight

STAGES = (1, 2, 3)
HEADS = {  # recording: columns, strides, the levels' height and width
    "head3_p5": ((9, 25, 49), [32], [(8, 10)]),
    "head3_p567": ((9, 25, 49), [32, 64, 128], [(10, 12), (5, 6), (3, 3)]),
    "head1_n9_p5": ((9,), [32], [(8, 10)]),
}
# The recordings' names -> ours, of what a stage says and of the losses.
FIELDS = {"cls": "logits", "kpt": "keypoints", "bbox": "boxes"}
LOSSES = {"cls": "cls", "bbox": "box", "kpt": "keypoint"}


def garments(recording: Recording, image: int) -> Instances:
    """The recorded ground truth of one image."""
    instances = Instances(tuple(recording[f"img_shape_{image}"].tolist()))
    instances.gt_boxes = Boxes(torch.from_numpy(recording[f"gt_boxes_{image}"]))
    instances.gt_classes = torch.from_numpy(recording[f"gt_labels_{image}"]) - 1
    instances.gt_keypoints = Keypoints(torch.from_numpy(recording[f"gt_kpts_{image}"]))
    return instances


@functools.cache
def make_head(columns: tuple[int, ...]) -> tuple[CfgNode, KGDetHead, dict[str, str]]:
    """The config, the head with the recordings' weights, and the release's name of each of its parameters."""
    cfg = load_config("configs/kgdet_R50.yaml", ["MODEL.KGDET.COLUMNS", list(columns)])
    head = KGDetHead(cfg, {"p5": ShapeSpec(channels=256)})
    names = release_names(depth=50, columns=list(columns), num_stages=3)
    theirs = {ours.removeprefix("head."): name for name, ours in names.items() if ours}
    state = {name: weight(theirs[name], tuple(value.shape)) for name, value in head.state_dict().items()}
    head.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    return cfg, head, theirs
