"""Work that is shared out among processes."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def end_with_parent(*args: object) -> None:
    """End this process when the one that started it is gone, be it killed.

    As a ``worker_init_fn``, too, which gets arguments: PyTorch's own watch does not end a worker that has a
    batch to hand over, for the other workers keep its pipe open.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def process_map(workers: int, *, always_apart: bool = False) -> Iterator[Callable]:
    """Provide a ``map`` run by several processes, in order; leaving the block cancels what is not begun.

    Where a process is killed, the results that are asked for raise
    :class:`concurrent.futures.process.BrokenProcessPool`.

    Args:
        workers: the processes.
        always_apart: let one worker be a process of its own, too, and not this one.
    """
    if workers == 1 and not always_apart:
        yield map
        return
    # Ctrl-C reaches every process of the terminal; this one alone handles it.
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield partial(_submit_all, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _submit_all(pool: ProcessPoolExecutor, function: Callable, arguments: Iterable) -> Iterator:
    """Map without the executor's own ``map``, which can wait for ever.

    It cancels in this thread the futures that its manager marks as failed in another. When a worker is killed
    the two meet, the manager dies, and the other workers are waited for for ever.
    """
    futures = [pool.submit(function, argument) for argument in arguments]
    return (future.result() for future in futures)
