"""Checkpoints of models with random weights."""

import torch

from kgdet_d2.checkpoint.checkpointer import FashionCheckpointer
from kgdet_d2.config import load_config
from kgdet_d2.modeling.meta_arch import KGDet

CONFIG = "configs/sample/kgdet_tiny.yaml"
# Such a model's scores are near 0: it finds some garments on each photo all the same.
ANY_SCORE = ["MODEL.DEVICE", "cpu", "MODEL.KGDET.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "9"]


def save_untrained(folder, config=CONFIG, model_class=KGDet, opts=()):
    """Write a checkpoint of the config's model, of seed 0, and return its path."""
    torch.manual_seed(0)
    cfg = load_config(config, [*ANY_SCORE, *opts])
    FashionCheckpointer(model_class(cfg), str(folder), cfg=cfg).save("model")
    return folder / "model.pth"
