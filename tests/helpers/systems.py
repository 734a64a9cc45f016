"""Small models of every system, built from the configs in configs/sample."""

import torch
from detectron2.modeling import build_model

from kgdet_d2.config import load_config

SELECTION = ["MODEL.KGDET.AGGREGATION", "selection", "MODEL.KGDET.COLUMNS", "[9]"]
# BatchNorm cannot train on a map of one cell.
GROUP_NORM = ["MODEL.FPN.NORM", "GN", "MODEL.KGDET.NORM", "GN"]


def make_model(config, *opts):
    """Build the model of ``configs/sample/{config}.yaml`` with seeded weights, on CPU."""
    torch.manual_seed(0)
    return build_model(load_config(f"configs/sample/{config}.yaml", ["MODEL.DEVICE", "cpu", *opts]))


def make_kgdet(*opts):
    """Build a small KGDet that can train on maps of any size."""
    return make_model("kgdet_tiny", *GROUP_NORM, *opts)
