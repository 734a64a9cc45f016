"""FLD's native lists: what is read, and every problem that is reported."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kgdet_d2.data import AnnotationTable, FashionDataset
from kgdet_d2.data.convert.fld import BOXES, LANDMARKS, PARTITION, SPLITS, read_lists, read_split
from kgdet_d2.data.convert.records import REGION
from kgdet_d2.schema import FLD

ROOT = Path(__file__).parents[3]
WIDTH, HEIGHT = 60, 80
# Of each photo: its split, box, clothes_type and variation_type, then visibility, x, y of each landmark.
PHOTOS = {
    1: ("train", "5 6 50 70", "1 1", "0 20 10 0 40 10 1 8 30 0 50 31 2 0 0 0 45 69"),
    2: ("val", "0 0 60 80", "2 4", "0 15 5 0 44 6 0 10 75 2 0 0"),
    30: ("train", "10 2 48 79", "3 2", "0 22 4 0 38 4 0 11 30 0 47 30 1 20 40 1 41 40 0 12 78 0 46 78"),
    31: ("test", "5 6 50 70", "1 5", "0 20 10 0 40 10 0 8 30 0 50 31 0 9 66 0 45 69"),
    32: ("train", "1 1 30 40", "2 3", "0 3 2 0 28 2 0 2 39 0 29 38"),
}


@pytest.fixture(scope="module")
def main():
    """``main`` of the script, which no package may import."""
    path = ROOT / "datasets" / "prepare_fld.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def name_of(number):
    return f"img/img_{number:08d}.jpg"


def write_list(path, rows, count=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([str(count or len(rows)), "image_name and others", *rows, ""]))


@pytest.fixture
def tree(tmp_path):
    """FLD's form, with the photos above."""
    root = tmp_path / "fld"
    (root / "img").mkdir(parents=True)
    for number in PHOTOS:
        Image.new("RGB", (WIDTH, HEIGHT), (90, number, 30)).save(root / name_of(number))
    rows = {number: (name_of(number), *values) for number, values in PHOTOS.items()}
    write_list(root / PARTITION, [f"{name}    {split}" for name, split, *_ in rows.values()])
    write_list(root / BOXES, [f"{name}  {box}" for name, _, box, *_ in rows.values()])
    write_list(root / LANDMARKS, [f"{name} {types} {marks}" for name, *_, types, marks in rows.values()])
    return root


@pytest.fixture
def edit(tree):
    """Put other rows, one or more or none, for photo 30's in a list; line 1 counts them."""

    def edit(file, *replacements):
        head, *rows = (tree / file).read_text().splitlines()[1:]
        place = next(index for index, row in enumerate(rows) if row.startswith(name_of(30)))
        rows[place : place + 1] = replacements
        (tree / file).write_text("\n".join([str(len(rows)), head, *rows, ""]))

    return edit


def read(root, split="train", **arguments):
    splits, problems = read_lists(root)
    assert problems == []
    return read_split(root, split, splits[split], **arguments)


def landmarks_of(annotations, photo):
    start, end = annotations.keypoint_offsets[photo : photo + 2]
    return annotations.keypoints[start:end].tolist()


# --- what is right ---


def test_every_native_value_is_kept_with_visibility_turned_round(tree):
    annotations, problems = read(tree)
    assert problems == []
    assert annotations.file_name.tolist() == [name_of(1), name_of(30), name_of(32)]
    assert annotations.image_id.tolist() == [1, 30, 32]
    assert set(annotations.width) == {WIDTH} and set(annotations.height) == {HEIGHT}
    assert annotations.category_id.tolist() == [0, 2, 1]
    assert annotations.garment_attributes["variation_type"].tolist() == [1, 2, 3]
    assert annotations.box[0].tolist() == [5, 6, 50, 70]
    assert landmarks_of(annotations, 0) == [
        *([20, 10, 2], [40, 10, 2], [8, 30, 1]),
        *([50, 31, 2], [0, 0, 0], [45, 69, 2]),
    ]
    assert landmarks_of(annotations, 2) == [[3, 2, 2], [28, 2, 2], [2, 39, 2], [29, 38, 2]]


def test_a_truncated_landmark_has_no_place(tree, edit):
    edit(LANDMARKS, f"{name_of(30)} 2 1 0 15 5 0 44 6 0 10 75 2 999 33")
    annotations, problems = read(tree)
    assert problems == [] and landmarks_of(annotations, 1)[3] == [0, 0, 0]


def test_order_and_blank_lines_do_not_matter(tree):
    lines = (tree / BOXES).read_text().splitlines()
    (tree / BOXES).write_text("\r\n".join([*lines[:2], *reversed(lines[2:]), "", "  "]))
    annotations, problems = read(tree)
    assert problems == [] and annotations.box[2].tolist() == [1, 1, 30, 40]


def test_more_workers_read_the_same(tree, edit):
    edit(BOXES, f"{name_of(30)} 1 2 3")
    (one, problems), (two, same_problems) = (read(tree, workers=workers) for workers in (1, 2))
    assert problems == same_problems and len(problems) == 1
    assert list(map(str, FashionDataset(one, ""))) == list(map(str, FashionDataset(two, "")))


# --- what is wrong ---


@pytest.mark.parametrize(
    ("file", "row", "kind", "reason"),
    [
        (BOXES, "1 2 3", "wrong length", "box: expected 4 numbers, got 3"),
        (BOXES, "1 2 3 4 5", "wrong length", "box: expected 4 numbers, got 5"),
        (BOXES, "1 2 3 x", "wrong type", "box: could not convert"),
        (BOXES, "1 2 3 nan", "number not finite or too large", "box: expected finite"),
        (BOXES, "1 2 inf 4", "number not finite or too large", "box: expected finite"),
        (BOXES, "9 2 9 40", "box without area", "box: expected x1 < x2"),
        (BOXES, "9 40 20 2", "box without area", "box: expected x1 < x2"),
        (BOXES, "60 2 90 40", "box outside the photo", "box: expected a part in the photo of 60 x 80"),
        (BOXES, "", "wrong length", "box: expected 4 numbers, got 0"),
        (LANDMARKS, "", "wrong length", "expected clothes_type and variation_type"),
        (LANDMARKS, "2", "wrong length", "expected clothes_type and variation_type"),
        (LANDMARKS, "a 1 0 1 1", "wrong type", "clothes_type: expected a whole number, got 'a'"),
        (LANDMARKS, "0 1 0 1 1", "clothes_type out of range", "clothes_type: expected 1..3, got '0'"),
        (LANDMARKS, "4 1 0 1 1", "clothes_type out of range", "clothes_type: expected 1..3, got '4'"),
        (LANDMARKS, "-1 1 0 1 1", "clothes_type out of range", "clothes_type: expected 1..3, got '-1'"),
    ],
)
def test_a_bad_class_or_box_leaves_its_photo_out(tree, edit, file, row, kind, reason):
    edit(file, f"{name_of(30)} {row}")
    annotations, (problem,) = read(tree)
    assert annotations.image_id.tolist() == [1, 32]
    assert (problem.path, problem.item, problem.dropped) == (tree / file, name_of(30), "photo")
    assert problem.kind == kind and problem.reason.startswith(reason)
    with pytest.raises(ValueError) as error:
        read(tree, strict=True)
    assert str(error.value) == str(problem)


@pytest.mark.parametrize(
    ("file", "row", "kind", "reason"),
    [
        (LANDMARKS, "2 1" + " 0 1 1" * 8, "landmark count", "landmarks: expected 12 numbers, x y v of 4"),
        (LANDMARKS, "3 1" + " 0 1 1" * 6, "landmark count", "landmarks: expected 24 numbers, x y v of 8"),
        (LANDMARKS, "2 1" + " 0 1 1 0", "landmark count", "landmarks: expected x, y and v of each landmark"),
        (LANDMARKS, "2 1" + " 3 1 1" * 4, "visibility", "landmarks: expected visibility 0, 1 or 2, got 3"),
        (LANDMARKS, "2 1" + " -1 1 1" * 4, "visibility", "landmarks: expected visibility 0, 1 or 2, got -1"),
        (LANDMARKS, "2 1" + " 0 1 nan" * 4, "number not finite or too large", "landmarks: expected finite"),
        (LANDMARKS, "2 1" + " 0 1 ?" * 4, "wrong type", "landmarks: could not convert"),
    ],
)
def test_bad_landmarks_leave_a_region(tree, edit, file, row, kind, reason):
    edit(file, f"{name_of(30)} {row}")
    annotations, (problem,) = read(tree)
    assert annotations.iscrowd.tolist() == [False, True, False]
    assert annotations.box[1].tolist() == [10, 2, 48, 79] and annotations.category_id[1] == int(row[0]) - 1
    assert not np.array(landmarks_of(annotations, 1)).any()
    assert (problem.path, problem.item, problem.dropped) == (tree / file, name_of(30), REGION)
    assert problem.kind == kind and problem.reason.startswith(reason)
    with pytest.raises(ValueError) as error:
        read(tree, strict=True)
    assert str(error.value) == str(problem)


@pytest.mark.parametrize("file", [BOXES, LANDMARKS])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_photo_without_its_one_row_is_left_out(tree, edit, file, rows):
    row = next(line for line in (tree / file).read_text().splitlines() if line.startswith(name_of(30)))
    edit(file, *[row] * rows)
    annotations, (problem,) = read(tree)
    assert annotations.image_id.tolist() == [1, 32]
    assert (problem.path, problem.reason) == (tree / file, f"expected one row, got {rows}")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(None, "image missing"), (b"", "not an image"), (b"no photo", "not an image"), (..., "image truncated")],
)
def test_a_bad_photo_is_left_out(tree, content, kind):
    path = tree / name_of(30)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40] if content is ... else content)
    annotations, (problem,) = read(tree)
    assert annotations.image_id.tolist() == [1, 32]
    assert (problem.path, problem.dropped, problem.kind) == (path, "photo", kind)


def test_a_landmark_far_outside_is_left_out_alone(tree, edit):
    edit(LANDMARKS, f"{name_of(30)} 2 1 0 15 5 0 68 6 0 10 75 1 69 33")
    annotations, (problem,) = read(tree)
    assert landmarks_of(annotations, 1) == [[15, 5, 2], [68, 6, 2], [10, 75, 2], [0, 0, 0]]
    assert (problem.dropped, problem.kind) == ("landmark", "landmark far outside the photo")
    assert problem.reason.startswith("landmarks: landmark 4: expected at most 8 pixels outside")


@pytest.mark.parametrize("file", [BOXES, LANDMARKS, PARTITION])
def test_a_byte_order_mark_does_not_matter(tree, file):
    (tree / file).write_bytes(b"\xef\xbb\xbf" + (tree / file).read_bytes())
    annotations, problems = read(tree)
    assert problems == [] and len(annotations) == 3


def test_whole_numbers_in_other_forms(tree, edit):
    edit(LANDMARKS, f"{name_of(30)} 2.0 3.0 0 15 5 0.0 44 6 0 10 75 1.0 20 33")
    annotations, problems = read(tree)
    assert problems == [] and annotations.category_id[1] == 1
    assert annotations.garment_attributes["variation_type"][1] == 3


@pytest.mark.parametrize("variation", ["0", "6"])
def test_an_unknown_variation_type_is_left_out_alone(tree, edit, variation):
    edit(LANDMARKS, f"{name_of(30)} 2 {variation} 0 15 5 0 44 6 0 10 75 0 40 33")
    annotations, (problem,) = read(tree)
    assert annotations.garment_attributes["variation_type"].tolist() == [1, 0, 3]
    assert problem.dropped == "attribute"
    assert problem.reason == f"variation_type: expected 1..5, got {variation!r}"


def test_photos_are_numbered_where_a_name_has_no_number(tree):
    """By their places in the partition, whichever the split."""
    for file in (BOXES, LANDMARKS, PARTITION):
        text = (tree / file).read_text()
        (tree / file).write_text(text.replace(name_of(30), "img/photo.jpg"))
    (tree / name_of(30)).rename(tree / "img/photo.jpg")
    splits, (note,) = read_lists(tree, strict=True)
    assert (note.path, note.dropped) == (tree / PARTITION, "nothing")
    assert note.reason == (
        "image ids are the places in the list, from 1, since 'img/photo.jpg' is not img/img_<8 digits>.jpg"
    )
    annotations, problems = read_split(tree, "train", splits["train"])
    assert problems == [] and annotations.image_id.tolist() == [1, 3, 5]
    assert annotations.file_name[1] == "img/photo.jpg"


@pytest.mark.parametrize("split", ["tset", "Train", "", "train val"])
def test_a_photo_of_no_known_split_is_in_none(tree, edit, split):
    edit(PARTITION, f"{name_of(30)} {split}")
    splits, (problem,) = read_lists(tree)
    assert [entry.name for entry in splits["train"]] == [name_of(1), name_of(32)]
    assert (problem.path, problem.item) == (tree / PARTITION, name_of(30))
    assert problem.reason == f"expected one of train, val, test, got {split!r}"
    with pytest.raises(ValueError, match="expected one of train, val, test"):
        read_lists(tree, strict=True)


def test_a_photo_of_two_splits_is_in_none(tree, edit):
    edit(PARTITION, f"{name_of(30)} train", f"{name_of(30)} test")
    splits, (problem,) = read_lists(tree)
    assert name_of(30) not in [entry.name for entries in splits.values() for entry in entries]
    assert problem.reason == "expected one row, got 2"


def test_photos_that_the_partition_does_not_name_are_told(tree, edit):
    edit(PARTITION)
    splits, problems = read_lists(tree)
    assert [entry.name for entry in splits["train"]] == [name_of(1), name_of(32)]
    assert [problem.path for problem in problems] == [tree / BOXES, tree / LANDMARKS, tree / "img"]
    assert {(problem.item, problem.dropped) for problem in problems} == {(name_of(30), "photo")}


@pytest.mark.parametrize("file", [BOXES, LANDMARKS, PARTITION])
def test_a_wrong_number_of_rows_is_told_and_costs_nothing(tree, file):
    lines = (tree / file).read_text().splitlines()
    write_list(tree / file, lines[2:], count=7)
    splits, (problem,) = read_lists(tree)
    assert sum(map(len, splits.values())) == len(PHOTOS)
    assert (problem.path, problem.item, problem.dropped) == (tree / file, "line 1", "nothing")
    assert problem.reason == "expected 7 rows, the number in line 1, got 5"


@pytest.mark.parametrize("content", ["", "5\n", "image_name\n5\n", f"5\n{name_of(1)} train\n", "\0\n\0\n"])
def test_a_list_without_its_two_first_lines_is_an_error(tree, content):
    (tree / PARTITION).write_text(content)
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt: expected the number of rows in line 1"):
        read_lists(tree)


# --- the script ---


def test_the_script_writes_files_and_reports(main, tree, edit, capsys):
    edit(BOXES, f"{name_of(30)} 1 2 3")
    (tree / "img" / "more.jpg").touch()
    assert main(["--root", str(tree), "--workers", "1"]) == 0
    output = tree / "annotations"
    for split, count in zip(SPLITS, (2, 1, 1), strict=True):
        assert len(AnnotationTable.load(output / f"{split}.npz", FLD)) == count
    reports = {path.name: path.read_text().splitlines()[1:] for path in output.glob("*_report.tsv")}
    row = ["photo", "wrong length", "box: expected 4 numbers, got 3"]
    assert reports.pop("train_report.tsv") == ["\t".join([str(tree / BOXES), name_of(30), *row])]
    (stray,) = reports.pop("lists_report.tsv")
    assert stray.startswith(f"{tree}/img\timg/more.jpg\tphoto\tphoto in no split\t")
    assert reports == {"val_report.tsv": [], "test_report.tsv": []}
    assert len(list(output.iterdir())) == 7
    printed = capsys.readouterr()
    assert "train.npz: 2 photos" in printed.out
    assert "train_report.tsv" in printed.err and "val_report.tsv" not in printed.err


def test_strict_writes_nothing_of_a_bad_split(main, tree, edit, capsys):
    edit(BOXES, f"{name_of(30)} 1 2 3")
    arguments = ["--root", str(tree), "--workers", "1", "--strict", "--splits"]
    assert main([*arguments, "val", "train"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: {tree / BOXES}: {name_of(30)}: box: expected 4 numbers, got 3"
    assert not list((tree / "annotations").glob("train*"))
    assert len(AnnotationTable.load(tree / "annotations/val.npz", FLD)) == 1


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (".", "error: {root}: there is no such folder"),
        ("img", "error: {root}/img: there is no such folder"),
        ("Anno/list_bbox.txt", "error: {root}/Anno/list_bbox.txt: there is no such list"),
        ("Eval/list_eval_partition.txt", "error: {root}/Eval/list_eval_partition.txt: there is no such list"),
    ],
)
def test_trees_that_are_none(main, tree, capsys, missing, message):
    (tree / missing).rename(tree.parent / "elsewhere")
    assert main(["--root", str(tree), "--workers", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == message.format(root=tree)


def test_a_split_without_usable_photos_is_an_error(main, tree, capsys):
    (tree / name_of(2)).unlink()
    assert main(["--root", str(tree), "--workers", "1", "--splits", "val"]) == 1
    assert f"error: {tree}: no photo of split 'val' can be used; " in capsys.readouterr().err
    write_list(tree / PARTITION, [f"{name_of(number)} train" for number in PHOTOS])
    assert main(["--root", str(tree), "--workers", "1", "--splits", "val"]) == 1
    assert "expected photos of split 'val', found none" in capsys.readouterr().err
