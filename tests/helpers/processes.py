"""Processes that train together, as threads of one process: what they exchange, they exchange here."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from detectron2.utils import comm

TIMEOUT = 20  # seconds, of one that waits for another


def run_as_processes(monkeypatch, functions):
    """Call each of the functions as a process of its own, and return their results in order.

    Raises:
        Exception: of one that failed; BrokenBarrierError if one waited for another that did not come.
    """
    barrier, rank, given = threading.Barrier(len(functions), timeout=TIMEOUT), threading.local(), {}

    def all_gather(data):
        given[rank.value] = data
        barrier.wait()
        gathered = [given[number] for number in range(len(functions))]
        barrier.wait()
        return gathered

    def all_reduce(tensor, op=torch.distributed.ReduceOp.SUM):
        gathered = torch.stack(all_gather(tensor.clone()))
        tensor.copy_(gathered.amin(0) if op == torch.distributed.ReduceOp.MIN else gathered.sum(0))

    def run(number):
        rank.value = number
        try:
            return functions[number]()
        except BaseException:
            barrier.abort()  # the others wait in vain
            raise

    with monkeypatch.context() as patch, ThreadPoolExecutor(len(functions)) as pool:
        patch.setattr(comm, "get_world_size", lambda: len(functions))
        patch.setattr(comm, "all_gather", all_gather)
        patch.setattr(torch.distributed, "all_reduce", all_reduce)
        futures = [pool.submit(run, number) for number in range(len(functions))]
        errors = [future.exception() for future in futures]
    raised = [error for error in errors if error]
    if raised:  # the cause first, not those that waited for it
        raise min(raised, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    return [future.result() for future in futures]
