"""The optimiser, with the release's way of clipping gradients."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from torch import nn

# Detectron2's own clip types look at one parameter at a time; this one at all of them together.
FULL_MODEL_CLIP = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Detectron2's optimiser; ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` may also be "full_model".

    Then the norm (of ``NORM_TYPE``) of the whole model's gradient is limited to ``CLIP_VALUE`` before
    each step.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not (clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL_CLIP):
        return build_detectron2_optimizer(cfg, model)
    unclipped = cfg.clone()
    unclipped.defrost()
    unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = build_detectron2_optimizer(unclipped, model)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clip_gradients(*_) -> None:
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_gradients)
    return optimizer
