"""Runs of ``kgdet predict``."""

import signal
import subprocess
import sys
import time

from kgdet_d2.cli import main

ALL = ["coco", "jsonl", "pictures", "crops", "figures"]


def words(output, weights, *inputs, threshold=0.0, part_size=3, resume=False):
    """The command's arguments, for small parts on the CPU."""
    arguments = [*map(str, inputs), "--weights", weights, "--output", str(output), "--device", "cpu"]
    arguments += ["--score-threshold", str(threshold), "--part-size", str(part_size), "--batch-size", "2"]
    return ["predict", *arguments, *(["--resume"] if resume else [])]


def predict(*args, **kwargs):
    """Run the command in this process; see :func:`words`."""
    return main(words(*args, **kwargs))


def start(log, *args, **kwargs):
    """Start the command, and wait until it predicts; what it says goes to a file.

    It leads a group of processes of its own, and Ctrl-C reaches it.
    """
    code = "import sys; from kgdet_d2.cli import main; sys.exit(main())"
    with open(log, "w") as file:
        command = subprocess.Popen(
            [sys.executable, "-c", code, *words(*args, **kwargs)],
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    while command.poll() is None and "predicting" not in log.read_text():
        time.sleep(0.05)
    return command


def contents(folder):
    """The bytes of all files in a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
