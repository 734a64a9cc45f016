"""Processes that benchmarks measure in."""

import multiprocessing
import os
from importlib.util import find_spec
from pathlib import Path

from benchmarks import _process
from benchmarks._process import new_process


def test_a_process_finds_the_checkouts_packages_first(tmp_path):
    for package in ("kgdet_d2", "benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    with new_process(tmp_path, threads=3) as pool:
        assert pool.submit(find_spec, "kgdet_d2").result().origin == str(tmp_path / "kgdet_d2/__init__.py")
        # What measures is the same for all.
        worker = pool.submit(find_spec, "benchmarks._worker").result().origin
        assert worker == str(Path(_process.__file__).with_name("_worker.py"))
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "3"
        assert pool.submit(os.getpid).result() != os.getpid()


def test_a_process_starts_others_as_this_one_does():
    """A loader's workers share the memory of the process that they are forked from, where that is usual."""
    with new_process() as pool:
        expected = multiprocessing.get_start_method()
        assert pool.submit(eval, "__import__('multiprocessing').get_start_method()").result() == expected
