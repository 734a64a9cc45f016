"""The optimiser, with the release's way of clipping gradients."""

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from torch import nn

# Detectron2's own clip types look at one parameter at a time; this one at all of them together.
FULL_MODEL_CLIP = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD or AdamW with Detectron2's parameter groups, by ``SOLVER.OPTIMIZER``.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` may be one of Detectron2's or "full_model": then the norm (of
    ``NORM_TYPE``) of the whole model's gradient is limited to ``CLIP_VALUE`` before each step.

    Args:
        cfg: its ``SOLVER``.
        model: whose parameters learn.

    Raises:
        ValueError: ``SOLVER.BACKBONE_LR_FACTOR`` has nothing to act on.
    """
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    parameters = _parameter_groups(cfg, model)
    arguments = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    optimizer_class: type[torch.optim.Optimizer]
    if solver.OPTIMIZER == "ADAMW":
        optimizer_class = torch.optim.AdamW
        # Otherwise it updates the parameters one after another on CPUs, a few milliseconds an iteration.
        arguments["fused"] = True
    else:
        optimizer_class = torch.optim.SGD
        arguments |= {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    if not (clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL_CLIP):
        return maybe_add_gradient_clipping(cfg, optimizer_class)(parameters, **arguments)

    optimizer = optimizer_class(parameters, **arguments)
    clipped = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clip_gradients(*_) -> None:
        nn.utils.clip_grad_norm_(clipped, clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_gradients)
    return optimizer


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Return Detectron2's groups, with the backbone's own learning rate.

    Detectron2 v0.6 tells parameters apart by the last part of their names alone; later versions have a
    function of whole names for this.
    """
    solver, factor = cfg.SOLVER, cfg.SOLVER.BACKBONE_LR_FACTOR

    def groups(module: nn.Module, base_lr: float) -> list[dict]:
        return get_default_optimizer_params(
            module,
            base_lr=base_lr,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )

    if factor == 1:
        return groups(model, solver.BASE_LR)
    bottom_up = getattr(getattr(model, "backbone", None), "bottom_up", None)
    if bottom_up is None:
        raise ValueError(
            f"SOLVER.BACKBONE_LR_FACTOR: expected 1, there is no backbone.bottom_up, got {factor}"
        )
    # What a later group says of a parameter counts.
    return reduce_param_groups([*groups(model, solver.BASE_LR), *groups(bottom_up, solver.BASE_LR * factor)])
