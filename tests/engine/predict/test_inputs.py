"""``kgdet predict`` on inputs that are not as they should be."""

import os
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.predict_runs import contents, predict


def rows(folder):
    """What the table of photos says: name -> error."""
    return {row["photo"]: row["error"] for row in pq.read_table(folder / "photos.parquet").to_pylist()}


def save_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 80), (90, 120, 150)).save(path)


def test_no_photo_can_be_read(weights, tmp_path, capsys):
    for name in ("1.jpg", "2.png"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"no photo" * 10)
    output = tmp_path / "found"
    assert predict(output, weights, tmp_path / "photos", "--formats", "coco", "pictures", "figures") == 1
    assert all("cannot read the image" in error for error in rows(output).values())
    assert len(pq.read_table(output / "garments.parquet")) == 0
    assert not (output / "pictures").exists() and not (output / "figures").exists()
    assert "2 of 2 photos could not be read" in capsys.readouterr().err


def test_no_photo_at_all(weights, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    assert predict(tmp_path / "found", weights, tmp_path / "photos") == 1
    assert capsys.readouterr().err.startswith("error: ")
    (tmp_path / "list.txt").touch()
    assert predict(tmp_path / "found", weights, "--list", tmp_path / "list.txt") == 1
    assert "expected photos: files, folders" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_names_of_all_kinds_have_pictures(weights, tmp_path):
    names = ["a b.jpg", "new\nline.jpg", "ü.jpg", "same/1.jpg", "too/1.jpg"]
    for name in names:
        save_photo(tmp_path / "photos" / name)
    latin = tmp_path / "photos" / os.fsdecode(b"latin \xfc.jpg")
    latin.write_bytes(b"no photo")
    output = tmp_path / "found"
    assert predict(output, weights, tmp_path / "photos", "--formats", "pictures", "crops") == 1
    assert sorted(rows(output)) == sorted([*names, r"latin \udcfc.jpg"])
    assert r"latin \udcfc.jpg: cannot read" in rows(output)[r"latin \udcfc.jpg"]
    assert all((output / "pictures" / f"{name}.jpg").is_file() for name in names)
    assert all(len(list((output / "crops" / name).iterdir())) == 3 for name in names)


def test_a_photo_that_vanishes_and_one_that_may_not_be_read(weights, tmp_path):
    save_photo(tmp_path / "photos/1.jpg")
    (tmp_path / "photos/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    expected = {"1.jpg": None, "gone.jpg": "No such file or directory"}
    if os.geteuid():
        save_photo(tmp_path / "photos/secret.jpg")
        (tmp_path / "photos/secret.jpg").chmod(0)
        expected["secret.jpg"] = "Permission denied"
    assert predict(tmp_path / "found", weights, tmp_path / "photos") == 1
    for name, error in rows(tmp_path / "found").items():
        assert error is expected[name] is None or expected[name] in error


def test_the_output_inside_of_the_input(photos, weights, tmp_path):
    shutil.copytree(photos / "a", tmp_path / "a")
    output = tmp_path / "a/found"
    assert predict(output, weights, tmp_path / "a", "--formats", "pictures") == 0
    before = contents(output)
    shutil.rmtree(output / "parts", ignore_errors=True)
    (output / "photos.parquet").unlink()
    assert predict(output, weights, tmp_path / "a", "--formats", "pictures", resume=True) == 0
    assert contents(output) == before and len(rows(output)) == 3


def test_a_film_that_breaks_off(weights, tmp_path):
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 5, (128, 96))
    rng = np.random.default_rng(0)
    for _ in range(8):
        writer.write(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
    writer.release()
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert predict(tmp_path / "found", weights, film) == 1
    *whole, last = rows(tmp_path / "found").values()
    assert 1 < len(whole) < 8 and set(whole) == {None}
    assert "film.avi: cannot read picture" in last and "the film says that it has 8" in last


def test_weights_of_another_model_leave_no_folder(photos, tmp_path, capsys):
    import torch

    torch.save({"model": {"nothing.weight": torch.zeros(3)}}, tmp_path / "weights.pth")
    config = ["--config-file", "sample/kgdet_tiny.yaml"]
    assert predict(tmp_path / "found", str(tmp_path / "weights.pth"), photos, *config) == 1
    assert "expected the weights of this model" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("option", [("--num-actors", "2"), ("--num-gpus-per-actor", "1"), ("--address", "x")])
def test_options_of_ray_are_for_ray(photos, weights, tmp_path, capsys, option):
    assert predict(tmp_path / "found", weights, photos, *option) == 1
    assert f"{option[0]}: expected --engine ray" in capsys.readouterr().err
