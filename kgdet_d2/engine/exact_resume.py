"""What a training needs beside weights and optimiser to go on as if it had not been stopped."""

import json
import os
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter
from torch import nn

_WINDOW = 20  # iterations, of the medians that JSONWriter writes
_RUNNING = ("loss_normalizer",)  # attributes of Detectron2's dense detectors, averages over the iterations


class MetricsHook(HookBase):
    """Carry the metrics over: the values that the next medians are made of, and the lines that are written.

    Lines of iterations that are run again are removed from the file, and so is one that is cut off.

    Args:
        path: of the file.
        writer: of the file; None in a process that writes none.
    """

    def __init__(self, path: str | Path, writer: JSONWriter | None) -> None:
        self._path = Path(path)
        self._writer = writer
        self._values: list[tuple[str, float, int, bool]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the last values of each metric: name, value, iteration, and whether medians are written."""
        storage = self.trainer.storage
        return {
            "values": [
                (name, value, iteration, storage.smoothing_hints()[name])
                for name, history in storage.histories().items()
                for value, iteration in history.values()[-_WINDOW:]
            ]
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._values = state_dict["values"]

    def before_train(self) -> None:
        """Put the values back, and cut the file."""
        storage, start = self.trainer.storage, self.trainer.start_iter
        for name, value, iteration, smoothed in self._values:
            storage.iter = iteration
            storage.put_scalar(name, value, smoothing_hint=smoothed)
        storage.iter = start
        if self._writer:
            self._writer._last_write = cut_lines(self._path, start)


def cut_lines(path: Path, iteration: int) -> int:
    """Remove the lines of an iteration and of all after it, and return the last one that is left, or -1.

    Args:
        path: a file of JSON objects, one a line, each with its ``iteration``; it may be missing.
        iteration: the first one that goes.
    """
    if not path.is_file():
        return -1
    last, kept = -1, 0
    with open(path, "rb") as file:
        for line in file:
            try:
                found = json.loads(line)["iteration"]
            except (ValueError, KeyError, TypeError):
                break  # cut off, when the process was killed
            if found >= iteration or not line.endswith(b"\n"):
                break
            last, kept = max(last, found), kept + len(line)
    os.truncate(path, kept)
    return last


class RunningValuesHook(HookBase):
    """Carry over what a model averages over the iterations beside its buffers, in each process by itself.

    Detectron2's RetinaNet and FCOS divide their losses by such an average.

    Args:
        model: without a wrapper for data-parallel training.
        period: iterations from one checkpoint to the next.
    """

    def __init__(self, model: nn.Module, period: int) -> None:
        self._model = model
        self._period = period
        self._gathered: list[dict[str, float]] = []

    def after_step(self) -> None:
        """Gather the values of all processes, before a checkpoint."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            own = {name: getattr(self._model, name) for name in _RUNNING if hasattr(self._model, name)}
            self._gathered = comm.gather(own)

    def state_dict(self) -> dict[str, Any]:
        """Return the values of each process."""
        return {"processes": self._gathered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore this process's values."""
        processes = state_dict["processes"]
        for name, value in processes[comm.get_rank() % len(processes)].items() if processes else ():
            setattr(self._model, name, value)
