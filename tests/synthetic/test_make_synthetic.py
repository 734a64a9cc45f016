"""datasets/make_synthetic.py: what it writes, what it leaves alone, what it refuses."""

import importlib.util
import json
from pathlib import Path

import cv2
import pytest

from kgdet_d2.synthetic import SPLITS, generate_photo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_synthetic", ROOT / "datasets" / "make_synthetic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script, root, *more):
    arguments = ["--root", str(root), "--train", "3", "--validation", "2", "--size", "96", *more]
    return script.main(arguments)


def files_of(root):
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_script_writes_the_native_tree_once(script, tmp_path, capsys):
    assert run(script, tmp_path) == 0
    before = files_of(tmp_path)
    assert len(before) == 2 * (3 + 2) + 1
    for split, count in zip(SPLITS, (3, 2), strict=True):
        for number in range(1, count + 1):
            image = cv2.imread(str(tmp_path / split / "image" / f"{number:06d}.jpg"))
            annotation = json.loads((tmp_path / split / "annos" / f"{number:06d}.json").read_text())
            photo = generate_photo(number - 1, split=split, size=96)
            assert image.shape == photo.image.shape and annotation == photo.annotation
    assert run(script, tmp_path) == 0
    assert "already there" in capsys.readouterr().out
    assert files_of(tmp_path) == before


def test_script_makes_the_sample_anew_for_other_arguments_or_after_an_interruption(script, tmp_path):
    assert run(script, tmp_path) == 0
    before = files_of(tmp_path)
    assert run(script, tmp_path, "--train", "1", "--seed", "4") == 0
    assert len(files_of(tmp_path)) == 2 * (1 + 2) + 1
    record = json.loads((tmp_path / "synthetic.json").read_text())
    (tmp_path / "synthetic.json").write_text(json.dumps({**record, "finished": False}))
    assert run(script, tmp_path) == 0
    assert set(files_of(tmp_path)) == set(before)


def test_script_leaves_photos_alone_that_it_has_not_made(script, tmp_path, capsys):
    other = tmp_path / "train" / "image" / "000001.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"a real photo")
    assert run(script, tmp_path) == 1
    assert str(tmp_path / "train") in capsys.readouterr().err
    assert other.read_bytes() == b"a real photo"


@pytest.mark.parametrize("bad", [("--train", "-1"), ("--size", "8"), ("--workers", "0"), ("--seed", "x")])
def test_script_refuses_bad_arguments(script, tmp_path, capsys, bad):
    with pytest.raises(SystemExit):
        run(script, tmp_path, *bad)
    assert bad[0] in capsys.readouterr().err
    assert not files_of(tmp_path)


def test_script_names_a_root_that_cannot_be(script, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(script, tmp_path / "file") == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_script_draws_a_contact_sheet(script, tmp_path):
    sheet = tmp_path / "docs" / "sheet.jpg"
    assert run(script, tmp_path / "sample", "--contact-sheet", str(sheet)) == 0
    assert cv2.imread(str(sheet)).shape == (4 * 96, 6 * 96, 3)
