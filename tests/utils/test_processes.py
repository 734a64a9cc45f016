"""Work shared out among processes: its order, its processes, its end."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from kgdet_d2.utils.processes import default_workers, end_with_parent, process_map


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


def wait_for_ever(connection):
    end_with_parent()
    connection.send(os.getpid())
    time.sleep(600)


def start_a_child(connection):
    multiprocessing.Process(target=wait_for_ever, args=(connection,)).start()
    time.sleep(600)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_a_killed_parent_takes_its_child_along():
    ours, theirs = multiprocessing.Pipe()
    parent = multiprocessing.Process(target=start_a_child, args=(theirs,))
    parent.start()
    child = ours.recv()
    assert is_running(child)
    parent.kill()
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_there_is_a_core_at_least():
    assert 1 <= default_workers() <= os.cpu_count()
