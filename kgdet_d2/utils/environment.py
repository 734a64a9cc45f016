"""The environment of a measurement: the state of the code, versions, hardware."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torchvision", "detectron2", "numpy", "pycocotools")


def measured_with(device: str) -> dict:
    """Return ``{"hardware", "commit", "versions"}`` for a report.

    Args:
        device: "cpu" or "cuda", with or without an index.
    """
    return {"hardware": hardware(device), "commit": commit(), "versions": versions()}


def commit() -> str:
    """Return the checkout's commit, with "-dirty" after it where tracked files have changed since.

    "unknown" outside a git checkout.
    """
    if not (ROOT / ".git").exists():  # installed, perhaps into an environment inside another checkout
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    # torch.__version__ names the CUDA build, too.
    python_and_torch = {"python": platform.python_version(), "torch": torch.__version__}
    return python_and_torch | {name: version(name) for name in PACKAGES}


def hardware(device: str) -> str:
    """Return the GPU's name, or the processor's with the number of its threads that may be used.

    Args:
        device: "cpu" or "cuda", with or without an index.
    """
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", information.read_text()) if information.is_file() else []
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {threads} threads"
