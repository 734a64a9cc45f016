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

    Lines that were written after the checkpoint are removed from the file, whatever their iteration: a
    training that is interrupted writes what it has, between the lines of one that is not.

    Args:
        path: of the file.
        writer: of the file; None in a process that writes none.
    """

    def __init__(self, path: str | Path, writer: JSONWriter | None) -> None:
        self._path = Path(path)
        self._writer = writer
        self._values: list[tuple[str, float, int, bool]] = []
        self._size: int | None = None  # of the file, bytes

    def state_dict(self) -> dict[str, Any]:
        """Return the file's size in bytes and the last ``values`` of each metric.

        Of each its name, value, iteration, and whether medians are written.
        """
        storage = self.trainer.storage
        return {
            "size": self._path.stat().st_size if self._path.is_file() else 0,
            "values": [
                (name, value, iteration, storage.smoothing_hints()[name])
                for name, history in storage.histories().items()
                for value, iteration in history.values()[-_WINDOW:]
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._values = state_dict["values"]
        self._size = state_dict.get("size")  # earlier checkpoints have none

    def before_train(self) -> None:
        """Put the values back, and cut the file."""
        storage, start = self.trainer.storage, self.trainer.start_iter
        for name, value, iteration, smoothed in self._values:
            storage.iter = iteration
            storage.put_scalar(name, value, smoothing_hint=smoothed)
        storage.iter = start
        if self._writer:
            self._writer._last_write = cut_lines(self._path, start, self._size)


def cut_lines(path: Path, iteration: int, size: int | None = None) -> int:
    """Remove the lines of an iteration and all that follow, and return the last iteration left, or -1.

    Args:
        path: a file of JSON objects, one a line, each with its ``iteration``; it may be missing.
        iteration: the first one that goes.
        size: bytes that stay at most; None: any.
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
            whole = line.endswith(b"\n") and (size is None or kept + len(line) <= size)
            if found >= iteration or not whole:
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
