"""Commands as a user runs them: in this process, and in processes of their own that can be killed."""

import contextlib
import io
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import kgdet_d2.data
from kgdet_d2.cli import main

# Its processes are copies of one that has imported what commands need, and has computed nothing. It does not
# look at the environment again.
_CONTEXT = multiprocessing.get_context("forkserver")
_MODULES = ["kgdet_d2.engine.trainer", "kgdet_d2.engine.predict.command", "kgdet_d2.data.convert.prepare"]
_PATIENCE = 60  # seconds, for the processes of one that was killed


class Ended(NamedTuple):
    status: int
    printed: str
    errors: str


def run(*arguments) -> Ended:
    """Run a command in this process; whatever it does not handle is raised."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        status = main([str(argument) for argument in arguments])
    return Ended(status, printed.getvalue(), errors.getvalue())


def assert_refused(ended: Ended, *names: str) -> None:
    """Assert that a command has ended with one line on what is wrong, which has these words."""
    assert ended.status == 1, f"expected status 1, got {ended.status}: {ended.errors[-500:]}"
    lines = [line for line in ended.errors.split("\n") if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in ended.errors, (
        f"expected one line, got {ended.errors[-1000:]}"
    )
    assert len(lines[0]) < 2000, f"expected a line that can be read, got {len(lines[0])} characters"
    for name in names:
        assert name in lines[0], f"expected {name} in the line, got {lines[0]}"


class Command:
    """A command in a process of its own, which leads a group.

    Args:
        log: the file that gets all that it says.
        arguments: its words.
        datasets: the folder of data sets; None for none.
        memory: bytes of address space that it may have; None for all.
    """

    def __init__(self, log: Path, arguments, *, datasets: Path | None = None, memory: int | None = None):
        self.log = log
        words = [str(argument) for argument in arguments]
        _CONTEXT.set_forkserver_preload(_MODULES)
        self._process = _CONTEXT.Process(target=_run, args=(str(log), words, datasets, memory))
        self._process.start()

    def wait(self) -> Ended:
        self._process.join()
        text = self.log.read_text(errors="replace")
        return Ended(self._process.exitcode, text, text)

    def kill_after(self, seconds: float) -> bool:
        """Kill it by SIGKILL and wait until no process of it is left; False where it had ended before."""
        self._process.join(seconds)
        ended = self._process.exitcode is not None
        self._process.kill()
        self._process.join()
        deadline = time.monotonic() + _PATIENCE
        while _has_processes(self._process.pid):
            assert time.monotonic() < deadline, "processes outlive the command that was killed"
            time.sleep(0.05)
        return not ended


def _run(log, words, datasets, memory):
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    if datasets is not None:
        os.environ["DETECTRON2_DATASETS"] = str(datasets)
        kgdet_d2.data.register_all(datasets)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.exit(main(words))


def _has_processes(group: int) -> bool:
    """Return whether a group has a process that still runs."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended
        if int(of_group) == group and state != "Z":
            return True
    return False


def timed(command: Command) -> tuple[Ended, float]:
    """Wait for a command that has just been started; how it has ended, and after how many seconds."""
    began = time.monotonic()
    return command.wait(), time.monotonic() - began
