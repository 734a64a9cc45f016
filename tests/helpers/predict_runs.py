"""Runs of ``kgdet predict``."""

import signal
import subprocess
import sys

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


def start(*args, **kwargs):
    """Start the command as a group of processes of its own, where Ctrl-C reaches it."""
    code = "import sys; from kgdet_d2.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words(*args, **kwargs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def contents(folder):
    """The bytes of all files in a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
