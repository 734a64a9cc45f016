"""Time of named parts of a computation, and the memory it takes.

Workers use this module with the packages of other checkouts: it imports nothing of kgdet_d2.
"""

import ctypes
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

MEGABYTE = 2**20
WHOLE = "all"
Result = TypeVar("Result")


class Clock:
    """Times named spans, which may lie in one another; by events where the device is CUDA."""

    def __init__(self, device: torch.device | str = "cpu"):
        self._cuda = torch.device(device).type == "cuda"
        self._spans: list[tuple[str, int, Any, Any]] = []  # name, depth, begin, end
        self._depth = 0

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def span(self, name: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """Return the function, timed under this name at every call."""

        def timed(*args: Any, **kwargs: Any) -> Result:
            begin, depth = self._now(), self._depth
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth = depth
                self._spans.append((name, depth, begin, self._now()))

        return timed

    def read(self) -> dict[str, float]:
        """Return milliseconds since the last reading and forget them.

        Returns:
            The outermost spans as "all", and every name's own time, without the spans that lie in it.
        """
        if self._cuda:
            torch.cuda.synchronize()
        times: Counter = Counter()
        inner: Counter = Counter()  # by depth: what the enclosing span must not count again
        for name, depth, begin, end in self._spans:  # inner spans end, and stand, before outer ones
            duration = begin.elapsed_time(end) if self._cuda else 1e3 * (end - begin)
            times[name] += duration - inner.pop(depth + 1, 0.0)
            inner[depth] += duration
        self._spans.clear()
        return {WHOLE: inner[0], **times}


def peak_megabytes(device: torch.device, function: Callable[[], Result]) -> tuple[float | None, Result]:
    """Return by how much memory grows at most while the function runs, and the function's result.

    On CUDA it is the allocator's memory, on Linux' CPU the process' resident memory; elsewhere None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before, result = torch.cuda.memory_allocated(), function()
        return (torch.cuda.max_memory_allocated() - before) / MEGABYTE, result
    if not sys.platform.startswith("linux"):
        return None, function()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left would hide this one's growth
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, result = process_memory("VmRSS"), function()
    return (process_memory("VmHWM") - before) / MEGABYTE, result


def process_memory(field: str, process: int | str = "self") -> int:
    """Return bytes of a process' memory, as Linux has them.

    Args:
        field: "VmRSS", resident now; "VmHWM", resident at most until now (what getrusage gives begins with
            the memory of the parent); "Private", what no other process shares.
        process: its number, or "self".
    """
    file = Path(f"/proc/{process}/{'smaps_rollup' if field == 'Private' else 'status'}")
    lines = file.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(field))
