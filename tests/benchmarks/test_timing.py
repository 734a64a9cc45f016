"""The clock and the memory meters of the benchmarks."""

import sys
import time

import numpy as np
import pytest
import torch

from benchmarks._timing import MEGABYTE, Clock, peak_megabytes, process_memory


def test_spans_within_spans_are_counted_once():
    clock = Clock()
    inner = clock.span("inner", lambda: time.sleep(0.02))

    def outer(result, *, key):
        inner()
        inner()
        time.sleep(0.01)
        return result, key

    assert clock.span("outer", outer)("result", key="key") == ("result", "key")
    times = clock.read()
    assert times["inner"] >= 40 and 10 <= times["outer"] < times["inner"]
    assert times["all"] == pytest.approx(times["inner"] + times["outer"])
    clock.span("alone", lambda: None)()
    assert clock.read().keys() == {"all", "alone"}


def test_a_span_that_fails_is_closed():
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        clock.span("failing", lambda: 1 / 0)()
    clock.span("next", lambda: None)()
    times = clock.read()
    assert times["all"] == pytest.approx(times["failing"] + times["next"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_a_function_and_of_the_process():
    def use_64_megabytes():
        return np.ones(64 * MEGABYTE, np.uint8).sum()

    peak, total = peak_megabytes(torch.device("cpu"), use_64_megabytes)
    assert total == 64 * MEGABYTE and 60 < peak < 100
    assert peak_megabytes(torch.device("cpu"), lambda: None)[0] < 20
    resident, private = process_memory("VmRSS"), process_memory("Private")
    assert 0 < private <= resident * 1.05 and resident <= process_memory("VmHWM")
