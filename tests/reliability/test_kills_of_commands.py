"""Evaluation, prepare and predict, killed at any moment and run again, end with the same bytes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import Command, timed
from tests.helpers.own_coco import SHIRT, SKIRT, OwnCoco, annotation
from tests.helpers.predict_runs import ALL, contents, words
from tests.helpers.trainings import arguments

PHOTOS = 120  # of prepare, which takes a moment for each


def whole_files(folder):
    """The bytes of all files in a folder that have their final names."""
    found = contents(folder) if folder.is_dir() else {}
    return {name: content for name, content in found.items() if not name.endswith(".tmp")}


def kill_and_run_again(campaign, what, seed, start, expected_status=0):
    """Compare the files of runs that were killed and run again with those of one that was not.

    Args:
        start: starts the command in the folder of a trial, given its name and whether it is run again;
            returns the command and the folder of its results.
    """
    command, results = start("whole", False)
    ended, duration = timed(command)
    assert ended.status == expected_status, ended.errors[-1000:]
    expected = whole_files(results)
    assert expected

    def attempt(rng):
        name = f"killed{rng.integers(1_000_000)}"
        command, results = start(name, False)
        killed = command.kill_after(rng.uniform(0, duration))
        if what.startswith("prepare"):  # all that is there has been written to its end
            for path, content in whole_files(results).items():
                assert content == expected[path], f"{path} is not whole"
        again = start(name, True)[0].wait()
        assert again.status == expected_status, again.errors[-1000:]
        found = whole_files(results)
        assert found.keys() == expected.keys()
        different = [path for path, content in found.items() if content != expected[path]]
        assert not different, f"{different} differ from those of a run that was not killed"
        return "the same bytes" if killed else "had ended, the same bytes"

    campaign.run(f"{what} killed", 20, seed, attempt)


@pytest.mark.reliability
def test_kills_of_evaluations(datasets_root, weights, tmp_path, campaign):
    def start(name, again):
        opts = ["--eval-only", "MODEL.WEIGHTS", str(weights), "DATASETS.TEST", "('synthfashion_train',)"]
        words = ["train", *arguments("kgdet_tiny", tmp_path / name, *opts)]
        log = tmp_path / f"{name}.log"
        return Command(log, words, datasets=datasets_root), tmp_path / name / "inference"

    kill_and_run_again(campaign, "evaluation", 20, start)
    tables = {log.stem: re.findall(r"^\|.*", log.read_text(), re.M) for log in tmp_path.glob("*.log")}
    whole = tables["whole"]
    assert len(whole) > 10 and all(table[-len(whole) :] == whole for table in tables.values())


@pytest.mark.reliability
def test_kills_of_prepare_deepfashion2(native_item, tmp_path, campaign):
    split = tmp_path / "tree" / "validation"
    for part in ("image", "annos"):
        (split / part).mkdir(parents=True)
    for number in range(1, PHOTOS + 1):
        content = {"source": "shop", "pair_id": number, "item1": native_item, "item2": native_item}
        (split / f"annos/{number:06d}.json").write_text(json.dumps(content))
        Image.new("RGB", (64, 48), (number, 9, 30)).save(split / f"image/{number:06d}.jpg")

    def start(name, again):
        where = ["--root", split.parent, "--output", tmp_path / name, "--workers", 2, "--official-coco"]
        return Command(tmp_path / f"{name}.log", ["prepare", "deepfashion2", *where]), tmp_path / name

    kill_and_run_again(campaign, "prepare deepfashion2", 30, start)


@pytest.mark.reliability
def test_kills_of_prepare_coco(tmp_path, campaign):
    own = OwnCoco(tmp_path)
    for number in range(1000, 1000 + PHOTOS):
        own.add_photo(f"{number}.jpg")
        own.images.append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48})
        garments = [annotation(10 * number + place, number, key) for place, key in enumerate((SHIRT, SKIRT))]
        own.annotations.extend(garments)
    own.write()

    def start(name, again):
        files = ["--json", tmp_path / "train.json", "--images", tmp_path / "photos", "--name", "mine"]
        where = ["--val-json", tmp_path / "train.json", "--output", tmp_path / name, "--workers", 2]
        return Command(tmp_path / f"{name}.log", ["prepare", "coco", *files, *where]), tmp_path / name

    kill_and_run_again(campaign, "prepare coco", 40, start)


@pytest.mark.reliability
def test_kills_of_predict(weights, tmp_path, campaign):
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    for number in range(16):
        (photos / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (60 + 10 * (number % 4), 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number % 3}/{number}.png")
    (photos / "0/damaged.jpg").write_bytes(b"\xff\xd8\xff")

    def start(name, again):
        command = words(tmp_path / name, str(weights), photos, "--formats", *ALL, resume=again)
        return Command(tmp_path / f"{name}.log", command), tmp_path / name

    kill_and_run_again(campaign, "predict", 50, start, expected_status=1)  # for the damaged photo
