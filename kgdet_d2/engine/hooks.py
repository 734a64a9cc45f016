"""Forward hooks that watch a training, whatever the model."""

import torch
from detectron2.utils import comm
from torch import Tensor, nn


def check_losses(model: nn.Module, inputs: tuple[list[dict]], losses: dict[str, Tensor]) -> None:
    """Stop a training whose losses are not finite: a forward hook for any of Detectron2's models.

    Where one of several processes has such a loss all of them stop, in the same step: one alone would leave
    the others waiting for its gradients.

    Raises:
        FloatingPointError: in training; names those losses and the photos, of each process that has any.
    """
    if not model.training:
        return
    # All losses at once: each look at a value makes the host wait for the device.
    finite = torch.stack(list(losses.values())).isfinite().all()
    if comm.get_world_size() > 1:
        all_finite = finite.to(torch.uint8)
        torch.distributed.all_reduce(all_finite, op=torch.distributed.ReduceOp.MIN)
        finite = all_finite
    if not finite:
        problems = comm.all_gather(_problem(inputs[0], losses))
        raise FloatingPointError("; ".join(problem for problem in problems if problem))


def _problem(images: list[dict], losses: dict[str, Tensor]) -> str:
    """Say which losses of this process are not finite, and for which photos; nothing where all are."""
    bad = {name: loss.item() for name, loss in losses.items() if not loss.isfinite()}
    file_names = [image.get("file_name", "(no file name)") for image in images]
    return f"losses that are not finite: {bad}, for the photos {file_names}" if bad else ""
