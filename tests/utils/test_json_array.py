"""JSON arrays that are read item by item, against the standard reader of whole files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgdet_d2.utils import json_array
from kgdet_d2.utils.json_array import read_json_array

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=8,
)


@given(
    items=st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4) | VALUES, max_size=8),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chunk=st.integers(2, 40),
)
def test_equals_the_standard_reader(tmp_path_factory, items, indent, ascii_only, chunk):
    path = tmp_path_factory.mktemp("json") / "items.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK", chunk)
        assert list(read_json_array(path)) == items


def test_items_come_before_the_end_of_the_file_is_read(tmp_path):
    path = tmp_path / "items.json"
    path.write_text("[" + '{"a": 1},\n' * 200_000 + "rubbish")
    items = read_json_array(path)
    assert [next(items) for _ in range(3)] == [{"a": 1}] * 3
    with pytest.raises(ValueError, match=r"items\.json: \[200000\]: not JSON, or cut off: Expecting value"):
        list(items)


def test_a_byte_order_mark_and_space_around(tmp_path):
    path = tmp_path / "items.json"
    path.write_bytes(b"\xef\xbb\xbf \r\n[ {} \t, [1, 2] ]\n\n")
    assert list(read_json_array(path)) == [{}, [1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected a list, .* got ''"),
        (b'{"annotations": []}', r"expected a list, .* got '\{\"annotations\": \[\]\}'"),
        (b"PK\x03\x04\xff\xfe", "expected a list"),
        (b"[", r"\[0\]: not JSON, or cut off"),
        (b'[{"a": 1}, {"b": ', r"\[1\]: not JSON, or cut off"),
        (b'[{"a": 1}', r"\[0\]: not JSON, or cut off: Expecting ',' delimiter"),
        (b'[{"a": 1} {"b": 2}]', r"\[0\]: not JSON, or cut off: Expecting ',' delimiter"),
        (b'[{"a": 1},]', r"\[1\]: not JSON, or cut off: Expecting value"),
        (b'[{"a": "\xff"}, {\xff}]', r"\[1\]: not JSON"),
        (b"[" * 100_000, r"\[0\]: not JSON, or cut off"),
        (b"[1] [2]", r"expected nothing after the list, got '\[2\]'"),
    ],
)
def test_what_is_no_array(tmp_path, text, message):
    path = tmp_path / "items.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"items\.json: {message}"):
        list(read_json_array(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        next(read_json_array(tmp_path / "nowhere.json"))


def test_an_endless_item_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(json_array, "_CHUNK", 10)
    monkeypatch.setattr(json_array, "_LONGEST", 1000)
    path = tmp_path / "items.json"
    path.write_text('["' + "x" * 100_000 + '"]')
    with pytest.raises(ValueError, match=r"\[0\]: not JSON, or cut off: Unterminated string"):
        list(read_json_array(path))
