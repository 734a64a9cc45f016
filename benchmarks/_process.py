"""Processes of their own to measure in, each with the package of any checkout."""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def new_process(checkout: Path | None = None, threads: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of one fresh process, which shares no memory with this one.

    Before its first task it imports this module alone (no ``__main__`` of a ``python -m``), so that the
    task's imports find the checkout's package.

    Args:
        checkout: a working tree whose packages go before all others; None for this process' paths.
        threads: OMP_NUM_THREADS; None for the environment's.
    """
    start_method = multiprocessing.get_start_method()
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_prepare, initargs=(checkout, threads, start_method))


def _prepare(checkout: Path | None, threads: int | None, start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)  # of a loader's workers; now it is "spawn"
    if checkout:
        sys.path.insert(0, str(checkout))
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
