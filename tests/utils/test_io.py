"""Files that are written whole or not at all, and JSON arrays written item by item."""

import io
import json
import math

import pytest

from kgdet_d2.utils.io import atomic_write, write_json_array


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("before")
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["after"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="disk full"), atomic_write(tmp_path / "new" / "report.txt") as file:
        file.write(b"half of it")
        raise OSError("disk full")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("items", [[], [{"score": 0.1}], [{"a": [1, 2.5]}, {"a": None}, "text"]])
def test_json_array_round_trip(items):
    file = io.BytesIO()
    write_json_array(file, iter(items))
    assert json.loads(file.getvalue()) == items


def test_json_array_takes_its_items_one_by_one():
    file = io.BytesIO()

    def items():
        for number in range(3):
            assert len(file.getvalue().splitlines()) == max(1, number + 1)
            yield number

    write_json_array(file, items())


def test_json_array_refuses_numbers_that_json_lacks():
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_array(io.BytesIO(), [{"score": math.nan}])
