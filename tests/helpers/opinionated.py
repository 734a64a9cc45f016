"""Models of random weights that tell places apart: their scores, points and boxes are spread."""

import torch

from tests.helpers.systems import make_model

# So low that some of their detections score above it; only one name a garment, as FashionPredictor has it.
OPINIONS = ["MODEL.WEIGHTS", "", "MODEL.KGDET.SCORE_THRESH_TEST", "0.008"]
# Features of the other initialisation are large, and then so are the offsets and what rounding makes of them.
OPINIONS += ["MODEL.KGDET.INIT", "normal"]
OPINIONS += ["MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST", "0.7"]
_SPREAD = {"cls_score": 0.1, "keypoint_offsets": 0.1, "encode_points": 0.1, "output": 0.1, "bbox_pred": 0.05}


def make_opinionated(config, *opts):
    """Build the model of ``configs/sample/{config}.yaml`` for inference, on CPU."""
    model = make_model(config, *OPINIONS, *opts).eval().requires_grad_(False)
    for name, module in model.named_modules():
        std = _SPREAD.get(name.rpartition(".")[2])
        if std is not None and isinstance(module, torch.nn.Conv2d):
            module.weight.normal_(std=std)
    return model
