"""Times of several models on the same batches, measured in turns, and what is reported of times."""

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn


@torch.inference_mode()
def time_in_turns(
    models: Mapping[str, nn.Module], batches: Iterable[Mapping[str, list[dict]]]
) -> dict[str, list[float]]:
    """Time every model on every batch, from a mapper's output to detections.

    The models take turns, batch by batch, so that a change of the machine's speed meets all of them alike.

    Args:
        models: in inference mode, on one device.
        batches: the inputs of each model, by its name. The first batch warms up and is not counted.

    Returns:
        Milliseconds of each counted batch, by the model's name.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for inputs in batches:
        for name, model in models.items():
            _synchronize()
            begin = time.perf_counter()
            model(inputs[name])
            _synchronize()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: values[1:] for name, values in times.items()}


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Return ``{"median", "lower", "upper"}`` of the values, interpolated linearly."""
    lower, median, upper = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "lower": lower, "upper": upper}


def _synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
