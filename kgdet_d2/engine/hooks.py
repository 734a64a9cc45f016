"""Forward hooks that watch a training, whatever the model."""

import torch
from torch import Tensor, nn


def check_losses(model: nn.Module, inputs: tuple[list[dict]], losses: dict[str, Tensor]) -> None:
    """Stop a training whose losses are not finite: a forward hook for any of Detectron2's models.

    Raises:
        FloatingPointError: in training; names those losses and the photos.
    """
    if not model.training:
        return
    # All losses at once: each look at a value makes the host wait for the device.
    if not torch.stack(list(losses.values())).isfinite().all():
        bad = {name: loss.item() for name, loss in losses.items() if not loss.isfinite()}
        file_names = [image.get("file_name", "(no file name)") for image in inputs[0]]
        raise FloatingPointError(f"losses that are not finite: {bad}, for the photos {file_names}")
