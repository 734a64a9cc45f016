import pytest

from kgdet_d2.files import whole_file


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("before")
    with whole_file(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["after"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="disk full"), whole_file(tmp_path / "new" / "report.txt") as file:
        file.write(b"half of it")
        raise OSError("disk full")
    assert list((tmp_path / "new").iterdir()) == []
