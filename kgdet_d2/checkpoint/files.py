"""Files of weights: the writing of them, and the reading, which executes nothing.

PyTorch's (.pth), safetensors, and pickles of arrays (.pkl).
"""

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from kgdet_d2.utils.archives import check_unpacked_size, unpacked_size
from kgdet_d2.utils.io import atomic_write

_HEAD = 512  # bytes
_SAFETENSORS = ".safetensors"
_BESIDE = "kgdet_d2"  # of such a file's metadata: what is there beside the weights, as JSON
DESCRIPTION_KEY = "kgdet_d2"  # of a checkpoint: what it says of its model, see checkpointer.describe
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
    SafetensorError,
    TypeError,
    ValueError,
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file by ``torch.save`` of a dict, of tensors and plain Python alone, or one of safetensors.

    A file of safetensors holds ``model`` and, where :func:`write_weights` wrote it, what that had beside it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else; says what.
    """
    if path.suffix == _SAFETENSORS:
        return _read(path, _load_safetensors, "safetensors")
    return _read(path, _load_tensors, "tensors and plain Python by torch.save")


def read_arrays(path: Path) -> dict[str, Any]:
    """Read a pickle of numpy arrays and plain Python, as Detectron2's model zoo has them (.pkl).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else; says what.
    """
    return _read(path, _load_arrays, "a pickle of arrays and plain Python")


def write_weights(path: Path, content: dict[str, Any]) -> None:
    """Write a file that :func:`read_checkpoint` reads, whole or not at all: safetensors if it is called so.

    Args:
        path: its ending decides.
        content: ``model``, and whatever JSON can hold.
    """
    with atomic_write(path) as file:
        if path.suffix != _SAFETENSORS:
            save_tensors(content, file)
            return
        tensors = {name: torch.as_tensor(weight).contiguous() for name, weight in content["model"].items()}
        beside = {key: value for key, value in content.items() if key != "model"}
        file.write(safetensors.torch.save(tensors, {_BESIDE: json.dumps(beside)}))


def save_tensors(content: dict[str, Any], file: BinaryIO) -> None:
    """Write by ``torch.save``.

    Raises:
        OSError: the file's own; PyTorch's writer raises RuntimeError when it is left with half an archive.
    """
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _read(path: Path, load: Callable[[Path], Any], expected: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        check_unpacked_size(unpacked_size(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
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


def _load_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        beside = json.loads((file.metadata() or {}).get(_BESIDE, "{}"))
        weights = {name: file.get_tensor(name) for name in file.keys()}
    return {"model": weights, **beside}


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


def check_numbers(weights: Any, path: str) -> None:
    """Check that weights are tensors or arrays of finite numbers, by name.

    Args:
        weights: what a file holds in their place.
        path: the file's.

    Raises:
        ValueError: names the file and those that are something else, or hold a NaN or an infinity.
    """
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: expected weights by name, got {type(weights).__name__}")
    others = [name for name, weight in weights.items() if not (isinstance(name, str) and _is_array(weight))]
    if others:
        found = type(weights[others[0]]).__name__
        raise ValueError(
            f"{path}: expected arrays of numbers, got {found} in {len(others)}: {others[0]}, ..."
        )
    bad = [name for name, weight in weights.items() if not _is_finite(weight)]
    if bad:
        raise ValueError(f"{path}: expected finite weights, got NaN or infinity in {len(bad)}: {bad[0]}, ...")


def _is_array(weight: Any) -> bool:
    return isinstance(weight, torch.Tensor) or (
        isinstance(weight, np.ndarray) and weight.dtype.kind in "biuf"
    )


def _is_finite(weight: torch.Tensor | np.ndarray) -> bool:
    if isinstance(weight, torch.Tensor):
        return not weight.is_floating_point() or bool(weight.isfinite().all())
    return weight.dtype.kind != "f" or bool(np.isfinite(weight).all())
