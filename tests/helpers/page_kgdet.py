"""The ``kgdet`` that the blocks of the documentation call in a test: on the CPU, in small.

Commands run as they stand, but that trainings take two iterations of two small photos from random weights,
and that the page's server ends when it has answered.
"""

import socket
import subprocess
import sys
import time
import urllib.request

from kgdet_d2.cli import main

_SIZES = (
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MAX_SIZE_TRAIN 96 INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 96".split()
)
_SHORT = "SOLVER.MAX_ITER 2 SOLVER.STEPS () SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0".split()


def with_value(words: list[str], option: str, value: str) -> list[str]:
    """Return the words with one value in place of those that follow the option, where it is given."""
    if option not in words:
        return words
    start = words.index(option) + 1
    ends = [index for index in range(start, len(words)) if not words[index].isdecimal()]
    return [*words[:start], value, *words[min(ends, default=len(words)) :]]


def small(words: list[str]) -> list[str]:
    """Return a command's words for a machine without GPU and with little time."""
    words = with_value(with_value(words, "--num-gpus", "0"), "--seeds", "1")
    if words[0] == "train" and "--num-gpus" not in words:
        words[1:1] = ["--num-gpus", "0"]
    if words[0] == "train":
        words += _SIZES if "--eval-only" in words else [*_SIZES, *_SHORT, "MODEL.WEIGHTS", ""]
    if words[0] == "draw":
        words += [*_SIZES, "MODEL.DEVICE", "cpu"]
    if words[0] == "compare":
        words += ["--iterations", "2", "--timed", "2", "--opts", *_SIZES, *_SHORT[2:]]
    return words


def serve_once(words: list[str]) -> int:
    """Start ``kgdet app`` on a free port, wait for its page, and end it; return 0 where the page came."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "kgdet_d2.cli", *with_value(words, "--port", port)]
    server = subprocess.Popen(command)
    try:
        while server.poll() is None:
            try:
                return int(urllib.request.urlopen(f"http://127.0.0.1:{port}").status != 200)
            except OSError:
                time.sleep(0.5)
        return 1
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    command = small(sys.argv[1:])
    sys.exit(serve_once(command) if command[0] == "app" else main(command))
