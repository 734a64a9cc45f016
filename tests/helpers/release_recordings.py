"""Recorded outputs of the released system, and the weights and features that they were recorded with.

A recording is in full where the folder of recordings lies beside the project, and as a sample of numbers in
``tests/assets/release``; the same checks hold for both. Those of full recordings are marked ``recordings``.
"""

import functools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FULL = Path(__file__).parents[3] / "shared" / "fixtures"
COMPACT = Path(__file__).parents[1] / "assets" / "release"

# tests/conftest.py skips these where the folder is not there.
needs_full = pytest.mark.recordings
each_source = pytest.mark.parametrize("source", ["compact", pytest.param("full", marks=needs_full)])


@dataclass(frozen=True)
class Recording:
    """Arrays by name and facts in plain Python.

    A name that ends in ``[::n]`` holds every n-th element, in C order, of the array of that name.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of the arrays that begin so, without ``[::n]``."""
        return (name.split("[")[0] for name in self.arrays if name.startswith(prefix))

    def check(self, name: str, found: Any, atol: float, rtol: float = 0) -> None:
        """Compare the whole array ``found`` with what is recorded of it."""
        found = np.asarray(found)
        (recorded,) = (key for key in self.arrays if key.split("[")[0] == name)
        if recorded != name:
            found = found.ravel()[:: int(recorded.removeprefix(f"{name}[::").removesuffix("]"))]
        np.testing.assert_allclose(found, self.arrays[recorded], rtol=rtol, atol=atol, err_msg=name)


@functools.cache
def load(name: str, source: str) -> Recording:
    """Load the recording from "full" or "compact"."""
    if source == "compact":
        with np.load(COMPACT / f"{name}.npz") as file:
            arrays = dict(file)
        return Recording(arrays, json.loads(str(arrays.pop("facts"))))
    arrays, facts = {}, {}
    if (FULL / f"{name}.npz").is_file():
        with np.load(FULL / f"{name}.npz") as file:
            arrays = dict(file)
    if (FULL / f"{name}.json").is_file():
        facts = json.loads((FULL / f"{name}.json").read_text())
    return Recording(arrays, facts if isinstance(facts, dict) else {"items": facts})


def noise(name: str, shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
    """Return numbers in [-1, 1), each a hash (SplitMix64) of name, place in C order and salt."""
    uint, mask = np.uint64, (1 << 64) - 1
    state = np.arange(np.prod(shape, dtype=int), dtype=uint) | uint(zlib.crc32(name.encode()) << 32)
    state = state * uint(0x9E3779B97F4A7C15) + uint((0x2545F4914F6CDD1D + salt * 0xD1B54A32D192ED03) & mask)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> uint(shift))) * uint(factor)
    state ^= state >> uint(31)
    return (state >> uint(11)).reshape(shape) * 2.0**-52 - 1


# Convolutions that make outputs: gain of the weights, centre and spread of the biases.
_OUTPUTS = {"cls": (3.0, -4.0, 0.5), "keypts": (1.5, 0.0, 1.5), "reppts": (0.8, 0.0, 0.8)}
_OTHERS = (2**0.5, 0.0, 0.1)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weight that the recordings were made with in place of the released one of this name."""
    *_, layer, kind = name.split(".")
    gain, centre, spread = _OUTPUTS[layer.split("_")[0]] if layer.endswith("_out") else _OTHERS
    x = noise(name, shape)
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "moment_transfer":
        x = 0.3 * x
    elif kind == "running_mean":
        x = 0.1 * x
    elif kind == "running_var":
        x = 1 + 0.25 * (x + 1)
    elif kind == "bias":
        x = centre + spread * x
    elif len(shape) == 4:
        x = x * gain * np.sqrt(3 / np.prod(shape[1:]))
    else:  # the weight of a normalisation; small where it ends a residual branch
        x = (0.5 if layer == "bn3" or ".downsample.1." in name else 1) * (1 + 0.2 * x)
    return x.astype(np.float32)


def features(
    name: str, facts: dict[str, Any], sizes: list[tuple[int, int]], num_images: int = 2
) -> list[np.ndarray]:
    """Return the feature maps (N, 256, H, W), a level each, of the head's recording ``name``."""
    salt = facts.get("feat_salt", 0)
    return [
        (1.5 * noise(f"fixture.{name}.feat.{level}", (num_images, 256, *size), salt)).astype(np.float32)
        for level, size in enumerate(sizes)
    ]
