"""The photos of files, folders, patterns, lists and films."""

import io
import os

import pytest
from PIL import Image

from kgdet_d2.engine.predict.sources import find_sources


@pytest.fixture
def tree(tmp_path):
    """Photos of two folders, two of which have the same name."""
    for name in ("shop/1.jpg", "shop/more/1.jpg", "user/1.jpg", "user/2 ü [x].PNG", "user/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no photo")
        else:
            Image.new("RGB", (6, 4)).save(path)
    return tmp_path


def names(*inputs, list_file=None, output=None):
    sources = find_sources([str(text) for text in inputs], list_file, output=output)
    assert [source.image_id for source in sources] == list(range(1, len(sources) + 1))
    return [source.name for source in sources]


def test_a_folder_with_all_below_it(tree):
    assert names(tree / "shop") == ["1.jpg", "more/1.jpg"]
    assert names(tree / "user") == ["1.jpg", "2 ü [x].PNG"]


def test_photos_of_one_name_keep_their_folders(tree):
    expected = ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg", "user/2 ü [x].PNG"]
    assert names(tree / "shop", tree / "user") == expected == names(tree)
    assert names(tree / "user/1.jpg", tree / "shop/1.jpg") == ["user/1.jpg", "shop/1.jpg"]


def test_files_patterns_and_each_file_once(tree):
    assert names(tree / "user/2 ü [x].PNG") == ["2 ü [x].PNG"]
    assert names(tree / "user/*.jpg", tree / "user/1.jpg", tree / "user") == ["1.jpg", "2 ü [x].PNG"]
    assert names(tree / "**/1.jpg") == ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg"]
    assert names(tree / "user/notes.txt") == ["notes.txt"]  # named by its user, so it is tried


def test_lists(tree, monkeypatch):
    lines = f"{tree}/shop\n\n{tree}/user/1.jpg\r\n"
    (tree / "list.txt").write_text(lines)
    expected = ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg"]
    assert names(list_file=str(tree / "list.txt")) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert names(list_file="-") == expected


def test_a_list_with_photos_that_are_not_there(tree):
    """They are reported when they are read; what is named on the command line has to be there."""
    (tree / "list.txt").write_text(f"{tree}/user/1.jpg\n{tree}/user/3.jpg\n")
    assert names(list_file=str(tree / "list.txt")) == ["1.jpg", "3.jpg"]
    with pytest.raises(FileNotFoundError, match=r"3\.jpg: expected photos"):
        names(tree / "user/1.jpg", tree / "user/3.jpg")


STRANGE = [
    "a b.jpg",
    "new\nline.jpg",
    "tab\t.jpg",
    "quote'\".jpg",
    "ü.jpg",
    "\N{DRESS}.jpg",
    "-.jpg",
    "%20.jpg",
]


def test_names_of_all_kinds(tmp_path):
    """Bytes that are no UTF-8 are written as escapes, for tables hold text."""
    for name in STRANGE:
        (tmp_path / name).touch()
    (tmp_path / os.fsdecode(b"latin \xfc.jpg")).touch()
    assert sorted(names(tmp_path)) == sorted([*STRANGE, r"latin \udcfc.jpg"])
    paths = b"\0".join(bytes(path) for path in sorted(tmp_path.iterdir()))
    (tmp_path / "list").write_bytes(paths + b"\0")
    assert names(list_file=str(tmp_path / "list")) == names(tmp_path)
    assert names(*sorted(tmp_path.glob("*.jpg"))) == names(tmp_path) == names(tmp_path / "*.jpg")


def test_links_in_circles_come_to_an_end(tree):
    (tree / "shop/loop").symlink_to(tree)
    (tree / "user/again").symlink_to(tree / "shop")
    (tree / "user/itself.jpg").symlink_to(tree / "user/itself.jpg")
    found = ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg", "user/2 ü [x].PNG", "user/itself.jpg"]
    assert names(tree) == found  # the last is reported when it is read
    assert names(tree / "**/*.jpg") == ["shop/1.jpg", "shop/more/1.jpg", "user/1.jpg"]


def test_a_linked_folder_is_followed(tree, tmp_path):
    (tree / "user/linked").symlink_to(tree / "shop")
    assert names(tree / "user") == ["1.jpg", "2 ü [x].PNG", "linked/1.jpg", "linked/more/1.jpg"]


def test_what_is_hidden_or_no_file_is_no_input(tree):
    (tree / "user/.thumbs").mkdir()
    for name in ("user/.thumbs/1.jpg", "user/.1.jpg"):
        Image.new("RGB", (6, 4)).save(tree / name)
    os.mkfifo(tree / "user/pipe.jpg")
    (tree / "user/folder.jpg").mkdir()
    assert names(tree / "user") == ["1.jpg", "2 ü [x].PNG"]
    assert names(tree / "user/*") == ["1.jpg", "2 ü [x].PNG"]
    assert names(tree / "user/.thumbs/*.jpg") == ["1.jpg"]


@pytest.mark.parametrize("pattern", ["", "**/*.jpg"])
def test_the_output_is_no_input(tree, pattern):
    """So that a run that goes on does not find its own pictures."""
    before = names(tree / pattern, output=tree / "shop/found")
    for name in ("shop/found/pictures/1.jpg.jpg", "shop/found.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(tree / name)
    (tree / "user/found").symlink_to(tree / "shop/found")
    assert names(tree / pattern, output=tree / "user/found") == sorted([*before, "shop/found.jpg"])
    assert len(names(tree / pattern)) > len(before) + 1
    with pytest.raises(FileNotFoundError, match=r"outside of --output"):
        names(tree / "shop", output=tree / "shop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tree):
    (tree / "shop/more").chmod(0)
    with pytest.raises(PermissionError, match=r"shop/more"):
        names(tree)


def test_nothing_there(tree):
    for text in ("nowhere.jpg", "user/*.gif", "empty"):
        (tree / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"expected photos or films, .*; found none"):
            names(tree / text)
    with pytest.raises(ValueError, match=r"expected photos: files, folders"):
        names()
