"""Checks of native records, sizes of image files, and the report."""

import csv
import io
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from kgdet_d2.data.convert import records
from kgdet_d2.data.convert.records import (
    RecordError,
    RecordIssue,
    count_problems,
    field,
    image_size,
    integer,
    landmarks,
    numbers,
    write_report,
    write_split,
)

SAMPLE = Path(__file__).parents[4] / "shared" / "deepfashion2_sample"


def kind_and_reason(function, *arguments, **keywords):
    with pytest.raises(RecordError) as caught:
        function(*arguments, **keywords)
    assert str(caught.value) == caught.value.reason
    return caught.value.kind, caught.value.reason


# --- fields and numbers ---


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        ({}, "field missing", "a is missing"),
        ({"a": 1}, "wrong type", "a: expected str, got 1"),
        ({"a": None}, "wrong type", "a: expected str, got None"),
    ],
)
def test_fields_have_exactly_their_type(content, kind, reason):
    assert kind_and_reason(field, content, "a", str) == (kind, reason)
    assert field({"a": ""}, "a", str) == ""


@pytest.mark.parametrize("value", [-(2**63), "-9223372036854775808", -float(2**63)])
def test_whole_numbers_are_read_in_any_form(value):
    assert integer({"a": value}, "a") == -(2**63)


def test_what_is_no_whole_number():
    assert kind_and_reason(integer, {}, "a") == ("field missing", "a is missing")
    assert kind_and_reason(integer, {"a": 1.5}, "a") == (
        "wrong type",
        "a: expected a whole number, got 1.5",
    )


def test_numbers_are_float32_in_their_order():
    values = numbers("box", [1, -2.5, 0.1, 2**24 - 1], 4)
    assert values.dtype == np.float32 and values.tolist() == [1, -2.5, float(np.float32(0.1)), 2**24 - 1]
    assert numbers("polygon", []).shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39, 10**400])
def test_a_number_that_is_none_is_left_to_the_validator(value):
    first, other, last = numbers("box", [1.5, value, 3]).tolist()
    assert (first, last) == (1.5, 3) and not np.isfinite(other)


@pytest.mark.parametrize("values", [None, 5, {"0": 1}, "12", [1, "2"], [1, None], [True, 1], [[1, 2]]])
def test_other_things_than_numbers(values):
    kind, reason = kind_and_reason(numbers, "box", values)
    assert kind == "wrong type" and reason.startswith("box: expected a list of numbers, got ")


def test_another_number_of_numbers():
    assert kind_and_reason(numbers, "box", [1, 2], 4) == ("wrong length", "box: expected 4 numbers, got 2")


def test_landmarks_are_rows_of_three():
    assert landmarks("landmarks", [1, 2, 0, 3, 4, 2]).tolist() == [[1, 2, 0], [3, 4, 2]]
    assert landmarks("landmarks", []).shape == (0, 3)
    assert kind_and_reason(landmarks, "landmarks", [1, 2, 0, 3]) == (
        "landmark count",
        "landmarks: expected x, y and v of each landmark, got 4 numbers",
    )


# --- photos ---


def save_noise(path, size=(60, 40), **keywords):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **keywords)
    return path


@pytest.mark.parametrize("orientation", [None, *range(10)])
def test_the_size_is_that_of_the_photo_as_it_is_read(tmp_path, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path = save_noise(tmp_path / "a.jpg", (30, 20), exif=exif)
    height, width = read_image(str(path), "RGB").shape[:2]
    assert image_size(path) == (width, height)


def test_damaged_exif_is_no_exif(tmp_path):
    path = save_noise(tmp_path / "a.jpg", (30, 20), exif=b"Exif\0\0nonsense")
    assert read_image(str(path), "RGB").shape == (20, 30, 3)
    assert image_size(path) == (30, 20)


def jpeg_with_thumbnail(path):
    """As cameras write it: a small JPEG, with an end marker of its own, in the EXIF block."""
    thumbnail = io.BytesIO()
    save_noise(thumbnail, (16, 16), format="JPEG")
    exif = Image.Exif()
    exif[0x010F] = "maker"
    return save_noise(path, exif=exif.tobytes() + thumbnail.getvalue())


def two_pictures(path):
    pictures = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    pictures[0].save(path, format="MPO", save_all=True, append_images=pictures[1:])
    return path


KINDS = {
    "baseline": lambda folder: save_noise(folder / "a.jpg"),
    "progressive": lambda folder: save_noise(folder / "a.jpg", progressive=True),
    "optimised": lambda folder: save_noise(folder / "a.jpg", quality=20, optimize=True),
    "thumbnail": lambda folder: jpeg_with_thumbnail(folder / "a.jpg"),
    "png": lambda folder: save_noise(folder / "a.png"),
    "png called jpg": lambda folder: save_noise(folder / "a.jpg", format="PNG"),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_photo_cut_off_anywhere_is_found(tmp_path, make):
    path = make(tmp_path)
    assert image_size(path) == (60, 40)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 2, 97), len(whole) - 2]:
        path.write_bytes(whole[:length])
        kind, reason = kind_and_reason(image_size, path)
        assert kind in ("image truncated", "not an image") and path.name in reason
    assert kind == "image truncated"


@pytest.mark.parametrize("behind", [b"\0", b"\0" * 5_000, b"more", b"\xff" * 10_000], ids=len)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_what_follows_the_end_does_not_matter(tmp_path, make, behind):
    path = make(tmp_path)
    path.write_bytes(path.read_bytes() + behind)
    assert image_size(path) == (60, 40)


def test_several_pictures_in_a_jpeg(tmp_path):
    assert image_size(two_pictures(tmp_path / "a.jpg")) == (60, 40)


@pytest.mark.parametrize("extension", ["webp", "bmp", "gif"])
def test_other_formats_have_a_size(tmp_path, extension):
    assert image_size(save_noise(tmp_path / f"a.{extension}")) == (60, 40)


def test_files_that_are_no_photos(tmp_path):
    path = tmp_path / "a.jpg"
    assert kind_and_reason(image_size, path) == ("image missing", f"{path}: there is no such photo")
    for content in (b"", b"not a photo", b"\xff\xd8\xff"):
        path.write_bytes(content)
        assert kind_and_reason(image_size, path)[0] == "not an image"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the DeepFashion2 sample is absent")
def test_real_photos_whole_and_cut(tmp_path):
    cut = tmp_path / "cut.jpg"
    paths = sorted((SAMPLE / "validation" / "image").iterdir())
    for path in paths:
        height, width = read_image(str(path), "RGB").shape[:2]
        assert image_size(path) == (width, height)
        cut.write_bytes(path.read_bytes()[:-2])
        assert kind_and_reason(image_size, cut)[0] == "image truncated"
    assert len(paths) == 24


# --- the report ---

PROBLEMS = [
    RecordIssue(Path("a/1.json"), "", "photo", "unreadable JSON", "Expecting value"),
    RecordIssue(Path("a/2.json"), "item1", "garment", "class", "category_id: expected 1..13, got 14"),
    RecordIssue(Path("a/2.json"), "item2", "garment", "class", 'a "tab"\tand a\nnew line, \udcff'),
]


def test_a_problem_reads_as_a_line():
    assert str(PROBLEMS[0]) == "a/1.json: Expecting value"
    assert str(PROBLEMS[1]) == "a/2.json: item1: category_id: expected 1..13, got 14"
    error = RecordError("class", "category_id: expected 1..13, got 14")
    assert RecordIssue.of(error, Path("a/2.json"), "item1", "garment") == PROBLEMS[1]


def test_the_report_is_read_by_people_and_programs():
    file = io.BytesIO()
    write_report(file, PROBLEMS)
    text = file.getvalue().decode()
    assert text.splitlines()[:2] == [
        "path\titem\tlost\tkind\treason",
        "a/1.json\t\tphoto\tunreadable JSON\tExpecting value",
    ]
    rows = list(csv.DictReader(io.StringIO(text, newline=""), dialect=csv.excel_tab))
    assert [(row["path"], row["item"], row["lost"], row["kind"]) for row in rows] == [
        (str(problem.path), problem.item, problem.dropped, problem.kind) for problem in PROBLEMS
    ]
    assert rows[2]["reason"] == 'a "tab"\tand a\nnew line, \\udcff'


def test_problems_are_counted_by_kind():
    lines = [line.split() for line in count_problems(PROBLEMS).splitlines()]
    assert lines[0] == ["problem", "left", "out", "times"]
    assert lines[2:] == [["class", "garment", "2"], ["unreadable", "JSON", "photo", "1"]]


def test_a_split_is_written_whole(annotations, tmp_path, capsys):
    write_split(tmp_path / "new", "val", annotations, PROBLEMS, {"more": lambda file: file.write(b"text")})
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"val.npz", "val_report.tsv", "more"}
    printed = capsys.readouterr()
    assert "val.npz: 4 photos, 15 garments, 0 regions to ignore" in printed.out
    assert "val_report.tsv: 3 problems" in printed.err and "garment" in printed.err


def test_regions_are_counted_apart(annotations, tmp_path, capsys):
    write_split(tmp_path, "val", replace(annotations, iscrowd=np.arange(15) < 4), [])
    assert "val.npz: 4 photos, 11 garments, 4 regions to ignore" in capsys.readouterr().out


@pytest.mark.parametrize("raised", [KeyboardInterrupt, OSError])
def test_an_interrupted_split_leaves_what_was_there(annotations, tmp_path, raised):
    def write(file):
        file.write(b"half")
        raise raised

    names = ("val.npz", "val_report.tsv", "more")
    for name in names:
        (tmp_path / name).write_text("before")
    with pytest.raises(raised):
        write_split(tmp_path, "val", annotations, PROBLEMS, {"more": write})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "before")


def test_a_full_disk_that_is_told_when_buffers_are_written(annotations, tmp_path, monkeypatch):
    """Of a file that is renamed after others: these are as they were."""
    whole = records.atomic_write

    class Buffered(io.BytesIO):
        """Takes all, and finds the disk full when it is flushed."""

        def flush(self):
            raise OSError(28, "No space left on device")

    @contextmanager
    def buffered(path):
        with whole(path) as file:
            yield Buffered() if path.name == "val_report.tsv" else file

    (tmp_path / "val.npz").write_text("before")
    monkeypatch.setattr(records, "atomic_write", buffered)
    with pytest.raises(OSError, match="No space left"):
        write_split(tmp_path, "val", annotations, PROBLEMS)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"val.npz": "before"}
