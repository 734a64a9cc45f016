"""Files of weights: nothing of them is executed, and what is no checkpoint is called by its name."""

import os
import pickle

import numpy as np
import pytest
import torch

from kgdet_d2.checkpoint.files import check_finite, read_arrays, read_checkpoint


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
    check_finite({"w": make([1.0, 2.0]), "i": make([1, 2]), "name": "x", "none": make([])}, "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth: expected finite weights, .* in 1: w"):
        check_finite({"v": make([1.0]), "w": make([1.0, bad])}, "weights.pth")
