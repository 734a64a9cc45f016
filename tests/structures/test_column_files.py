"""Files of columns that are damaged, or say that they hold more than a machine has room for."""

import struct

import pytest

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.predictions import Predictions
from tests.helpers.bombs import arrays_that_unpack_to


@pytest.mark.parametrize("name", ["header.npz", "directory.npz"])
def test_arrays_of_a_terabyte_are_refused_before_room_is_made(tmp_path, name):
    file = tmp_path / name
    file.write_bytes(arrays_that_unpack_to(2**40)[name])
    with pytest.raises(ValueError, match=rf"{name}: .*: unpacks to 1,099\.5 GB, this machine has [\d.,]+ GB"):
        Predictions.load(file, DEEPFASHION2)


def test_a_directory_that_begins_before_the_file(tmp_path):
    file = tmp_path / "predictions.npz"
    Predictions.empty(DEEPFASHION2).save(file)
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, content.rfind(b"PK\5\6") + 12, 2**31 - 1)  # the directory's size
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.npz: not a usable predictions file"):
        Predictions.load(file, DEEPFASHION2)
