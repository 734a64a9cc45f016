"""What a figure was measured with: the state of the code, versions, hardware."""

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
    """``{"hardware", "commit", "versions"}``, as a report has them."""
    return {"hardware": hardware(device), "commit": commit(), "versions": versions()}


def commit() -> str:
    """The checkout's commit, with "-dirty" after it where tracked files have changed since.

    "unknown" outside a git checkout.
    """
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    own = {"python": platform.python_version(), "torch": torch.__version__}  # this names the CUDA build, too
    return own | {name: version(name) for name in PACKAGES}


def hardware(device: str) -> str:
    """The GPU's name, or the processor's with the number of its threads that may be used."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", information.read_text()) if information.is_file() else []
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {threads} threads"
