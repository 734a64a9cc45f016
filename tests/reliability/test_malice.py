"""Files that are made to do harm end in one line, within bounded memory, and write nothing outside."""

import pytest
from PIL import Image

from tests.helpers.bombs import DEEP, arrays_that_unpack_to, hostile_weights, png_of
from tests.helpers.commands import Command, assert_refused
from tests.helpers.own_coco import OwnCoco
from tests.helpers.predict_runs import ALL, contents

MEMORY = 6 * 2**30
VALIDATION = "synthfashion_val"


@pytest.fixture
def attempt(tmp_path, datasets_root):
    """Runs a command with bounded memory; refused, and nothing is written but in the folder ``out``."""

    def attempt(*words, status=1, datasets=datasets_root):
        before = {path for path in contents(tmp_path) if not path.startswith("out/")}
        log = tmp_path / "log.txt"
        log.unlink(missing_ok=True)
        ended = Command(log, words, datasets=datasets, memory=MEMORY).wait()
        after = {path for path in contents(tmp_path) if not path.startswith("out/")}
        assert after - before <= {log.name}, f"written outside: {sorted(after - before)}"
        assert "Traceback" not in ended.errors, ended.errors[-1000:]
        if status == 1 and "not read: " not in ended.errors:
            assert_refused(ended)
        assert ended.status == status, f"expected {status}, got {ended.status}: {ended.errors[-1000:]}"
        return "refused" if status else "written inside"

    return attempt


@pytest.mark.reliability
def test_malice_in_weights(attempt, weights, tmp_path, campaign):
    out = tmp_path / "out"
    cases = {}
    for name, content in hostile_weights(tmp_path / "written", weights).items():
        path = tmp_path / name
        path.write_bytes(content)
        for command in ("convert", "predict"):
            words = ["convert", path, out / "a.pth"]
            if command == "predict":
                words = ["predict", tmp_path, "--weights", path, "--output", out, "--device", "cpu"]
            cases[f"{command} {name}"] = lambda words=words: attempt(*words)
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    campaign.each("malice: weights", cases)


@pytest.mark.reliability
def test_malice_in_predictions_and_annotations(attempt, native_tree, datasets_root, tmp_path, campaign):
    out = tmp_path / "out"
    evaluate = ["evaluate", "--dataset", VALIDATION, "--predictions"]
    cases = {}
    for name, content in arrays_that_unpack_to(2**40).items():
        (tmp_path / name).write_bytes(content)
        cases[f"evaluate {name}"] = lambda name=name: attempt(*evaluate, tmp_path / name)
    for name, text in DEEP.items():
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        cases[f"evaluate {name}"] = lambda path=path: attempt(*evaluate, path)
        words = ["prepare", "coco", "--json", path, "--images", tmp_path, "--name", "mine", "--output", out]
        cases[f"prepare coco {name}"] = lambda words=words: attempt(*words)
    for file in (native_tree / "validation/annos").iterdir():
        file.write_text(DEEP["lists"])
    words = ["prepare", "deepfashion2", "--root", native_tree, "--output", out]
    cases["prepare deepfashion2 lists"] = lambda: attempt(*words)
    campaign.each("malice: arrays of 1 TB, JSON nested 100,000 deep", cases)


@pytest.mark.reliability
def test_malice_in_photos(attempt, native_tree, weights, tmp_path, campaign):
    out = tmp_path / "out"
    photo = tmp_path / "huge.png"
    photo.write_bytes(png_of(100_000, 100_000))
    for file in (native_tree / "validation/image").iterdir():
        file.write_bytes(photo.read_bytes())
    native = ["prepare", "deepfashion2", "--root", native_tree, "--output", out]
    predict = ["predict", photo, "--weights", weights, "--output", out / "found", "--device", "cpu"]
    campaign.each(
        "malice: a photo of ten gigapixels",
        {"prepare": lambda: attempt(*native), "predict": lambda: attempt(*predict)},
    )


@pytest.mark.reliability
def test_malice_in_names(attempt, weights, tmp_path, campaign):
    """Of photos in COCO's JSON: what is made of their names stays in the output folder."""
    own, out = OwnCoco(tmp_path / "a/b"), tmp_path / "out"
    names = ["../up.jpg", "../../a/../farther up.jpg", "photos/../../b/photos/a.jpg"]
    for image, name in zip(own.images, names, strict=True):
        image["file_name"] = name
        own.add_photo(name)
    own.write()
    coco = ["prepare", "coco", "--json", own.root / "train.json", "--images", own.root / "photos"]
    assert attempt(*coco, "--name", "mine", "--output", out / "mine", "--workers", 1, status=0)
    (tmp_path / "list.txt").write_text(f"{own.root}/../up.jpg\n{own.root}/photos/../../up.jpg\n")
    predict = ["--weights", weights, "--device", "cpu", "--score-threshold", 0, "--formats", *ALL]
    draw = ["--weights", weights, "--dataset", "mine_train", "--output", out / "drawn", "MODEL.DEVICE", "cpu"]
    words = {
        "predict a data set": ["predict", "--dataset", "mine_train", "--output", out / "set", *predict],
        "predict a list": ["predict", "--list", tmp_path / "list.txt", "--output", out / "list", *predict],
        "draw": ["draw", *draw],
        "export-dataset": ["export-dataset", "mine_train", "--format", "cvat", "--output", out / "cvat"],
    }
    cases = {name: lambda each=each: attempt(*each, status=0, datasets=out) for name, each in words.items()}
    campaign.each("malice: names with ..", cases)
