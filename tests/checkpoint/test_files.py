"""Files of weights: nothing of them is executed, and what is no checkpoint is called by its name."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kgdet_d2.checkpoint.files import check_numbers, read_arrays, read_checkpoint, save_tensors, write_weights
from kgdet_d2.utils import archives


class Writes:
    """Makes a file when its pickle is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_python_are_read(tmp_path, protocol):
    content = {
        "model": {"w": np.arange(6.0).reshape(2, 3), "n": np.float32(2), "i": np.arange(3)},
        "name": "x",
    }
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_equal(read_arrays(file), content)


@pytest.mark.parametrize("read", [read_arrays, read_checkpoint])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_is_executed(tmp_path, read, protocol):
    file, written = tmp_path / "weights.pkl", tmp_path / "written"
    file.write_bytes(pickle.dumps({"model": {"w": Writes(written)}}, protocol))
    with pytest.raises(ValueError, match=r"weights\.pkl: expected"):
        read(file)
    assert not written.exists()


def test_objects_of_other_packages_are_named(tmp_path):
    file = tmp_path / "weights.pkl"
    file.write_bytes(pickle.dumps({"model": os.system}))
    with pytest.raises(ValueError, match=r"got an object of (posix|nt)\.system, which is not executed"):
        read_arrays(file)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>404</html>", "a page of HTML"),
        (b"\n <html>", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"something else", "a file that is no such thing"),
    ],
)
@pytest.mark.parametrize("read", [read_arrays, read_checkpoint])
def test_what_is_no_checkpoint(tmp_path, content, kind, read):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights\.pth: expected .*, got {kind}"):
        read(file)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off(tmp_path, share):
    file = tmp_path / "weights.pth"
    torch.save({"model": {"w": torch.rand(100, 100)}}, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="got a file that is cut off"):
        read_checkpoint(file)


def test_safetensors_there_and_back(tmp_path):
    file = tmp_path / "weights.safetensors"
    weights = {
        "w": torch.arange(6.0).view(2, 3).T,
        "half": torch.ones(2).bfloat16(),
        "none": torch.ones(0),
    }
    write_weights(file, {"model": weights, "kgdet_d2": {"config": "a: 1\n", "schema": "{}"}, "n": [1, None]})
    found = read_checkpoint(file)
    assert found["kgdet_d2"] == {"config": "a: 1\n", "schema": "{}"} and found["n"] == [1, None]
    assert found["model"].keys() == weights.keys()
    for name, weight in weights.items():
        assert found["model"][name].dtype == weight.dtype and torch.equal(found["model"][name], weight)
    save_file({"w": torch.ones(2)}, file, {"format": "pt"})
    assert read_checkpoint(file).keys() == {"model"}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[" * 100_000,
        b'{"w": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}',
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"__metadata__": {"kgdet_d2": "' + b"[" * 100_000 + b'"}}',
        b'{"__metadata__": {"kgdet_d2": "[1]"}}',
    ],
)
def test_damaged_and_hostile_safetensors(tmp_path, header):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(
        ValueError, match=r"weights\.safetensors: expected safetensors, got a file that is no such"
    ):
        read_checkpoint(file)


@pytest.mark.parametrize("content", [[1], "text", 3])
def test_what_is_no_dict(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content))
    for read, name in ((read_checkpoint, "weights.pth"), (read_arrays, "weights.pkl")):
        with pytest.raises(ValueError, match="expected a dict, got"):
            read(tmp_path / name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_weights_are_numbers(bad, make):
    check_numbers({"w": make([1.0, 2.0]), "i": make([1, 2]), "none": make([])}, "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: expected finite weights, .* in 1: w"):
        check_numbers({"v": make([1.0]), "w": make([1.0, bad])}, "weights.pth")


@pytest.mark.parametrize("weights", [None, [1], "text", {"w": None}, {"w": "x"}, {3: torch.ones(2)}])
def test_weights_are_arrays_by_name(weights):
    with pytest.raises(ValueError, match=r"weights\.pth: expected (weights by name|arrays of numbers), got"):
        check_numbers(weights, "weights.pth")
    with pytest.raises(ValueError, match="expected arrays of numbers, got ndarray in 1: w"):
        check_numbers({"w": np.array(None)}, "weights.pth")


class FullDisk(io.RawIOBase):
    """Takes some bytes."""

    def __init__(self, left):
        self.left = left

    def writable(self):
        return True

    def write(self, content):
        self.left -= len(content)
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return len(content)


@pytest.mark.parametrize("left", [0, 30_000])
def test_a_full_disk_is_told_as_such(left):
    """And not by what PyTorch finds wrong with the archive that it then cannot end."""
    with pytest.raises(OSError, match="No space left on device"):
        save_tensors({"model": {name: torch.zeros(5_000) for name in "abc"}}, FullDisk(left))


def test_an_archive_that_is_larger_than_the_memory(tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1000)}, file)
    assert read_checkpoint(file)["w"].shape == (1000,)
    monkeypatch.setattr(archives, "physical_memory", lambda: 3_000)
    with pytest.raises(ValueError, match=r"weights\.pth: unpacks to 0\.0 GB, this machine has 0\.0 GB"):
        read_checkpoint(file)
