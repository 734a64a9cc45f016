"""Archives that are damaged, or say that they hold more than a machine has room for."""

import zipfile

import numpy as np
import pytest

from kgdet_d2.utils.archives import check_unpacked_size, is_whole_archive, physical_memory, unpacked_size
from tests.helpers.mutations import mutate_bytes


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(1000))
        file.writestr("b", b"12345")
    return path


def test_what_an_archive_unpacks_to(archive, tmp_path):
    assert unpacked_size(archive) == 1005 and is_whole_archive(archive)
    assert unpacked_size(tmp_path / "none") == 0 and not is_whole_archive(tmp_path / "none")


def test_no_more_than_the_memory():
    check_unpacked_size(physical_memory())
    with pytest.raises(ValueError, match=r"unpacks to 1,099\.5 GB, this machine has [\d.,]+ GB of memory"):
        check_unpacked_size(2**40)


def test_damage_is_left_to_the_reader(archive):
    rng = np.random.default_rng(0)
    content = archive.read_bytes()
    whole = 0
    for _ in range(300):
        archive.write_bytes(mutate_bytes(content, rng))
        assert unpacked_size(archive) >= 0
        whole += is_whole_archive(archive)
    assert whole < 150
