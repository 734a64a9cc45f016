"""Time of named parts of a computation, and the memory it takes."""

import ctypes
import sys
import time
from collections import Counter
from collections.abc import Callable

import torch

MEGABYTE = 2**20
WHOLE = "all"


class Clock:
    """Times named spans, of which one may lie in another; by events where the device is CUDA."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, int, object, object]] = []  # name, depth, begin, end
        self._depth = 0

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def span(self, name: str, function: Callable) -> Callable:
        """The function, timed."""

        def timed(*args, **kwargs):
            begin, depth = self._now(), self._depth
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth = depth
                self._spans.append((name, depth, begin, self._now()))

        return timed

    def read(self) -> dict[str, float]:
        """Milliseconds of the outermost span as "all", and of each by itself, without what lies in it."""
        if self._cuda:
            torch.cuda.synchronize()
        times, inner = Counter(), Counter()
        for name, depth, begin, end in self._spans:  # inner spans end, and stand, before outer ones
            duration = begin.elapsed_time(end) if self._cuda else 1e3 * (end - begin)
            times[name] += duration - inner.pop(depth + 1, 0.0)
            inner[depth] += duration
        self._spans.clear()
        return {WHOLE: inner[0], **times}


def peak_megabytes(device: torch.device, function: Callable) -> tuple[float | None, dict]:
    """By how much the memory grows at most while the function runs, and what it gives.

    On CUDA the allocator's; on Linux' CPU the resident memory of the process; elsewhere None.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before, result = torch.cuda.memory_allocated(), function()
        return (torch.cuda.max_memory_allocated() - before) / MEGABYTE, result
    if not sys.platform.startswith("linux"):
        return None, function()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs left would hide this one's growth
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before, result = _resident("VmRSS"), function()
    return _resident("VmHWM") - before, result


def _resident(field: str) -> float:
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(field))
    return int(line.split()[1]) / 1024  # from kilobytes
