"""What stands in for the processes of the benchmarks: tasks that run in the process of the tests."""

from concurrent.futures import Executor, Future
from types import SimpleNamespace
from unittest.mock import patch

from benchmarks import _worker


class InProcess(Executor):
    """A pool in place of ``new_process``, with the state that a worker's process has for itself.

    Args:
        checkout: whose package the worker finds; None for the one that is imported.
    """

    def __init__(self, checkout=None, threads=None):
        self.subject = None
        self.package = SimpleNamespace(__path__=[f"{checkout}/kgdet_d2"]) if checkout else _worker.kgdet_d2

    def submit(self, function, *args, **kwargs):
        future = Future()
        _worker._subject = self.subject
        with patch.object(_worker, "kgdet_d2", self.package):
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
        self.subject = _worker._subject
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.subject = None
