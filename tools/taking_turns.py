"""Time of several detectors on the same photos, photo by photo in turns."""

import time
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn


@torch.inference_mode()
def time_in_turns(
    models: Mapping[str, nn.Module], photos: Iterable[Mapping[str, list[dict]]]
) -> dict[str, list[float]]:
    """Milliseconds of each model for each batch, from what its mapper gives to detections.

    Args:
        models: in inference mode, on one device. The first batch warms them up and is not counted.
        photos: of each batch what each model takes.
    """
    times = {name: [] for name in models}
    for batches in photos:
        for name, model in models.items():
            _synchronize()
            begin = time.perf_counter()
            model(batches[name])
            _synchronize()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: values[1:] for name, values in times.items()}


def quartiles(values: list[float]) -> dict[str, float]:
    """``{"median", "lower", "upper"}``."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    return {"median": median, "lower": lower, "upper": upper}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
