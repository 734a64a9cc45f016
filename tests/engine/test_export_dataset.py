"""``kgdet export-dataset`` on registered data sets."""

import json
import zipfile

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2 import cli
from kgdet_d2.data import register_fashion
from kgdet_d2.engine import export_dataset
from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.columns import columns
from tests.helpers.registered import NAME

FILES = {
    "coco": ["annotations.json", "results.json"],
    "cvat": ["ground_truth.zip", "predictions.zip"],
    "fiftyone": ["samples.json", "metadata.json"],
    "labelstudio": ["tasks.json", "config.xml"],
}
WITHOUT_PREDICTIONS = FILES | {"coco": ["annotations.json"], "cvat": ["ground_truth.zip"]}


def run(form, folder, *options, name=NAME):
    arguments = [name, "--format", form, "--output", str(folder), *map(str, options)]
    export_dataset.run(export_dataset.make_parser().parse_args(arguments))


@pytest.mark.parametrize("form", FILES)
def test_every_format(form, scene, stored, tmp_path, capsys):
    garments = sum(len(record["annotations"]) for record in scene.records)
    for files, options in ((FILES, ["--predictions", stored]), (WITHOUT_PREDICTIONS, [])):
        folder = tmp_path / str(len(options))
        run(form, folder, *options)
        *paths, counts = capsys.readouterr().out.splitlines()
        assert paths == [str(folder / file) for file in files[form]]
        assert sorted(path.name for path in folder.iterdir()) == sorted(files[form])
        assert counts.startswith(f"{len(scene.records)} photos, {garments} garments")
        assert ("detections" in counts) == bool(options)


def detections_in(form, folder):
    if form == "coco":
        return len(json.loads((folder / "results.json").read_text()))
    if form == "cvat":
        with zipfile.ZipFile(folder / "predictions.zip") as archive:
            return len(json.loads(archive.read(*archive.namelist()))["annotations"])
    if form == "fiftyone":
        samples = json.loads((folder / "samples.json").read_text())["samples"]
        return sum(len(sample["predictions"]["detections"]) for sample in samples)
    tasks = json.loads((folder / "tasks.json").read_text())
    regions = [region for task in tasks for each in task["predictions"] for region in each["result"]]
    return sum(region["type"] == "rectanglelabels" for region in regions)


@pytest.mark.parametrize(
    ("form", "default"), {"coco": 0, "cvat": 0.3, "fiftyone": 0, "labelstudio": 0.3}.items()
)
def test_scores(form, default, scene, stored, tmp_path):
    scores = np.concatenate([output.scores.numpy() for output in scene.outputs])
    for threshold in (None, 0.7):
        options = [] if threshold is None else ["--score-threshold", threshold]
        run(form, tmp_path / str(threshold), "--predictions", stored, *options)
        lowest = np.float32(default if threshold is None else threshold)
        assert detections_in(form, tmp_path / str(threshold)) == (scores >= lowest).sum() > 0


def test_predictions_may_be_coco_results(scene, stored, tmp_path):
    run("coco", tmp_path / "one", "--predictions", stored)
    run("coco", tmp_path / "two", "--predictions", tmp_path / "one" / "results.json")
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    keys = ("image_id", "category_id", "score", "keypoints")
    assert [[each[key] for key in keys] for each in one] == [[each[key] for key in keys] for each in two]


def names_in(folder, name):
    run("coco", folder, name=name)
    return [image["file_name"] for image in json.loads((folder / "annotations.json").read_text())["images"]]


def test_names_of_photos_are_relative_to_their_folder(annotations, tmp_path):
    annotations.save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, tmp_path / "image", tmp_path / "mine.npz")
    assert names_in(tmp_path / "one", "mine") == annotations.file_name.tolist()
    run("fiftyone", tmp_path / "two", name="mine")
    sample, *_ = json.loads((tmp_path / "two" / "samples.json").read_text())["samples"]
    assert sample["filepath"] == str(tmp_path / "image" / "000001.png")


def test_names_of_photos_of_dataset_dicts(tmp_path):
    records = [
        {"file_name": f"photos/{name}", "image_id": number, "width": 20, "height": 10}
        for number, name in enumerate(["a/1.jpg", "a/2.jpg"])
    ]
    DatasetCatalog.register("dicts", lambda: records)
    MetadataCatalog.get("dicts").set(keypoint_schema=DEEPFASHION2)
    assert names_in(tmp_path / "shared", "dicts") == ["1.jpg", "2.jpg"]
    MetadataCatalog.get("dicts").image_root = "photos"
    assert names_in(tmp_path / "rooted", "dicts") == ["a/1.jpg", "a/2.jpg"]


def test_no_photo(tmp_path):
    DatasetCatalog.register("nothing", list)
    MetadataCatalog.get("nothing").set(keypoint_schema=DEEPFASHION2)
    for form in FILES:
        run(form, tmp_path / form, name="nothing")
    assert names_in(tmp_path / "coco", "nothing") == []


def test_what_is_wrong_is_told_in_a_line(scene, tmp_path, capsys):
    def failure(*arguments):
        assert cli.main(["export-dataset", *map(str, arguments)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    output = ["--format", "cvat", "--output", tmp_path / "output"]
    assert "dataset 'my_val' is not registered" in failure("my_val", *output)
    assert "nowhere.json" in failure(NAME, *output, "--predictions", tmp_path / "nowhere.json")
    for each in scene.outputs:
        each.remove("pred_keypoints")
    columns(scene)[1].save(tmp_path / "boxes.npz")
    line = failure(NAME, *output, "--predictions", tmp_path / "boxes.npz")
    assert line == "error: predictions: expected landmarks for CVAT's skeletons, got boxes alone"
    assert not (tmp_path / "output").exists()
