"""The reading of files of weights, of which nothing is executed."""

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

_HEAD = 512  # bytes
# All that a pickle of arrays by Python and numpy, of any version, names; each makes plain data.
_OF_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}
# What PyTorch and pickle raise for damaged files.
_DAMAGED = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file by ``torch.save`` of a dict, of tensors and plain Python alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else; says what.
    """
    return _read(path, _load_tensors, "tensors and plain Python by torch.save")


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a pickle of numpy arrays and plain Python, as Detectron2's model zoo has them (.pkl).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else; says what.
    """
    return _read(path, _load_arrays, "a pickle of arrays and plain Python")


def _read(path: Path, load: Callable[[Path], Any], expected: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = load(path)
    except _DAMAGED as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        found = f"an object of {refused[1]}, which is not executed" if refused else _kind_of(path)
        raise ValueError(f"{path}: expected {expected}, got {found}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict, got {type(content).__name__}")
    return content


def _load_tensors(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_arrays(path: Path) -> Any:
    with open(path, "rb") as file:
        return _ArrayUnpickler(file).load()


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # the model zoo's are of Python 2

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _OF_ARRAYS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")  # as PyTorch's own has it
        return super().find_class(module, name)


def _kind_of(path: Path) -> str:
    """Describe a file that is no checkpoint, by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    text = head.lstrip().lower()
    if not head:
        return "an empty file"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, in place of the file; fetch it with: git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a page of HTML, such as a server answers with in place of a file"
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        return "a file that is cut off"
    return "a file that is no such thing"


def check_finite(weights: dict[str, Any], path: str) -> None:
    """Check that weights are numbers.

    Args:
        weights: tensors or arrays, by name.
        path: the file's.

    Raises:
        ValueError: names the file and those that hold a NaN or an infinity.
    """
    bad = [name for name, weight in weights.items() if not _is_finite(weight)]
    if bad:
        raise ValueError(f"{path}: expected finite weights, got NaN or infinity in {len(bad)}: {bad[0]}, ...")


def _is_finite(weight: Any) -> bool:
    if isinstance(weight, torch.Tensor):
        return not weight.is_floating_point() or bool(weight.isfinite().all())
    return not (isinstance(weight, np.ndarray) and weight.dtype.kind == "f") or bool(
        np.isfinite(weight).all()
    )
