"""kgdet_d2.complexity: the counts of R-CNNs against real passes on the CPU and sums by hand."""

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch.utils.flop_counter import FlopCounterMode

from kgdet_d2.complexity import Complexity, count_by_module, total
from kgdet_d2.config import load_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
R50 = str(CONFIGS / "match_rcnn_R50.yaml")
R50_MATCHING = str(CONFIGS / "match_rcnn_R50_matching.yaml")
TINY = str(CONFIGS / "sample/match_rcnn_tiny.yaml")
MATCHING = ["MODEL.META_ARCHITECTURE", "MatchRCNN", "MODEL.ROI_HEADS.NAME", "MatchRCNNHeads"]
FLD = str(CONFIGS / "fld/match_rcnn_R50.yaml")
PARTS = ["backbone", "neck", "rpn", "box_head", "mask_head", "keypoint_head", "matching_head"]


def budget(proposals, detections):
    return [
        *("MODEL.RPN.POST_NMS_TOPK_TEST", str(proposals)),
        *("TEST.DETECTIONS_PER_IMAGE", str(detections)),
    ]


def test_agrees_with_a_pass_that_finds_as_many_boxes_as_it_may():
    """The whole model as it infers, with landmarks and masks decoded, and PyTorch's own counter."""
    everything_passes = [
        *("MODEL.RPN.NMS_THRESH", "1.0", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "1.0"),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.DEVICE", "cpu"),
    ]
    cfg = load_config(TINY, [*MATCHING, *budget(7, 5), *everything_passes])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (output,) = model([{"image": torch.rand(3, 64, 96) * 255, "height": 64, "width": 96}])
    found = output["instances"]
    assert len(found) == 5
    assert found.has("pred_masks")
    assert found.has("pred_keypoints")
    assert found.has("pred_embeddings")

    def flops(name):
        return sum(counter.get_flop_counts()[name].values())

    parts = count_by_module(cfg, 96, 64)
    assert list(parts) == PARTS
    two_each = {name: 2 * counts.multiply_adds for name, counts in parts.items()}
    heads = "MatchRCNN.roi_heads"
    assert two_each == {
        "backbone": flops("MatchRCNN.backbone.bottom_up"),
        "neck": flops("MatchRCNN.backbone") - flops("MatchRCNN.backbone.bottom_up"),
        "rpn": flops("MatchRCNN.proposal_generator"),
        "box_head": flops(f"{heads}.box_head") + flops(f"{heads}.box_predictor"),
        "mask_head": flops(f"{heads}.mask_head"),
        "keypoint_head": flops(f"{heads}.keypoint_head"),
        "matching_head": flops(f"{heads}.matching_head"),
    }
    assert sum(two_each.values()) == counter.get_total_flops()
    assert min(two_each.values()) > 0


@pytest.mark.parametrize("config", [R50_MATCHING, TINY, FLD], ids=["R50 matching", "tiny", "FLD"])
def test_parameters_are_the_models(config):
    cfg = load_config(config, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    counts = total(count_by_module(cfg, 64, 64))
    frozen = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    buffers = sum(m.weight.numel() + m.bias.numel() for m in frozen)
    assert counts.parameters == sum(p.numel() for p in model.parameters()) + buffers
    assert counts.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_R50_by_hand():
    """Every layer that stands behind the neck, at 1280 x 800, with 1000 proposals and 100 detections."""
    parts = count_by_module(load_config(R50_MATCHING, []))
    cells = sum((1280 >> level) * (800 >> level) for level in range(2, 6)) + 20 * 13  # p6 takes every other
    box = 7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (14 + 4 * 13)
    mask = 14 * 14 * (4 * 9 + 4) * 256 * 256 + 28 * 28 * 256 * 13
    keypoints = 14 * 14 * (9 * 512 * (256 + 7 * 512) + 16 * 512 * 294)
    matching = 14 * 14 * 9 * (3 * 256 * 256 + 256 * 1024) + 1024 * 256
    by_hand = {
        "rpn": cells * 256 * (9 * 256 + 3 + 3 * 4),
        "box_head": 1000 * box,
        "mask_head": 100 * mask,
        "keypoint_head": 100 * keypoints,
        "matching_head": 100 * matching,
    }
    assert {name: parts[name].multiply_adds for name in by_hand} == by_hand
    joint = count_by_module(load_config(R50, []))
    assert {name: counts.multiply_adds for name, counts in joint.items()} == {
        name: parts[name].multiply_adds for name in joint
    }
    assert list(joint) == PARTS[:-1]


def test_heads_cost_in_proportion_to_their_boxes():
    few, more = (
        count_by_module(load_config(TINY, [*MATCHING, *budget(*n)]), 96, 64) for n in [(7, 5), (21, 10)]
    )
    times = dict.fromkeys(PARTS, 1) | {"box_head": 3}
    times |= dict.fromkeys(["mask_head", "keypoint_head", "matching_head"], 2)
    for name, factor in times.items():
        small, large = few[name], more[name]
        assert large == Complexity(
            small.parameters, small.trainable, factor * small.convolution, 0, factor * small.elementwise
        )


def test_no_boxes_cost_nothing():
    parts = count_by_module(load_config(TINY, [*MATCHING, *budget(0, 0)]), 96, 64)
    assert [name for name, counts in parts.items() if counts.paper_flops == 0] == PARTS[3:]


def test_Faster_RCNN_has_boxes_alone():
    config = model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert list(count_by_module(load_config(config, []), 64, 64)) == PARTS[:4]


@pytest.mark.parametrize(
    "config",
    [
        "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
        "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
        "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml",
    ],
)
def test_others_are_refused(config):
    cfg = load_config(model_zoo.get_config_file(config), [])
    with pytest.raises(ValueError, match="META_ARCHITECTURE: expected a dense detector, or GeneralizedRCNN"):
        count_by_module(cfg, 64, 64)


def test_detections_without_limit_are_refused():
    cfg = load_config(TINY, ["TEST.DETECTIONS_PER_IMAGE", "-1"])
    with pytest.raises(ValueError, match=r"TEST\.DETECTIONS_PER_IMAGE: expected a limit.*got -1"):
        count_by_module(cfg)
