"""Work shared out among processes: its order, its processes, its end."""

import multiprocessing
import os

import pytest

from kgdet_d2.utils.processes import default_workers, process_map


def square_and_process(number):
    return number * number, os.getpid()


@pytest.mark.parametrize(
    ("workers", "always_apart", "apart"), [(1, False, False), (1, True, True), (2, False, True)]
)
def test_results_come_in_order_from_the_right_processes(workers, always_apart, apart):
    with process_map(workers, always_apart=always_apart) as each:
        squares, processes = zip(*each(square_and_process, range(50)), strict=True)
        assert list(each(square_and_process, [])) == []
    assert squares == tuple(number * number for number in range(50))
    assert (os.getpid() not in processes) == apart and len(set(processes)) <= workers


def test_an_interruption_ends_the_workers():
    with pytest.raises(KeyboardInterrupt), process_map(2) as each:
        results = each(square_and_process, range(1_000))
        assert next(results)[0] == 0
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()


def test_there_is_a_core_at_least():
    assert 1 <= default_workers() <= os.cpu_count()
