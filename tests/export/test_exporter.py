"""Files that are written, run where they are meant to run, and read again."""

import hashlib
import json

import numpy as np
import pytest
import torch

from kgdet_d2 import FashionPredictor
from kgdet_d2.checkpoint.checkpointer import FashionCheckpointer
from kgdet_d2.config import load_config
from kgdet_d2.export import exporter
from kgdet_d2.export.formats import FORMATS, Format, read_metadata
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.synthetic import generate_photo
from tests.helpers.opinionated import OPINIONS, make_opinionated

SMALL = ["INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "160"]
THRESHOLDS = {
    "retinanet_tiny": ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.012"],
    "fcos_tiny": ["MODEL.FCOS.SCORE_THRESH_TEST", "0.05"],
}


def make_predictor(folder, config="kgdet_tiny", opts=()):
    """Load a predictor with weights of a file, its model's opinions in them."""
    opts = [*SMALL, *THRESHOLDS.get(config, []), *opts]
    cfg = load_config(f"configs/sample/{config}.yaml", ["MODEL.DEVICE", "cpu", *OPINIONS, *opts])
    FashionCheckpointer(make_opinionated(config, *opts), str(folder), cfg=cfg).save("model")
    return FashionPredictor.from_checkpoint(folder / "model.pth", "cpu", score_threshold=0.4)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return make_predictor(tmp_path_factory.mktemp("weights"))


def stand_in(monkeypatch, change):
    """Have the format pt2 be run by the module itself, the outputs changed, in place of what is traced."""

    def load(content):
        def run(images, sizes):
            with torch.no_grad():
                outputs = traced[0](torch.from_numpy(images), torch.from_numpy(sizes))
            found = {name: values.numpy() for name, values in outputs.items()}
            change(found)
            return found

        return run

    traced = []
    monkeypatch.setattr(exporter, "trace", lambda detector, *_: traced.append(detector))
    written = Format(lambda *_: b"the file", load, FORMATS["pt2"].describe)
    monkeypatch.setitem(exporter.FORMATS, "pt2", written)


def test_a_file_that_finds_the_same_is_written(predictor, monkeypatch, tmp_path):
    stand_in(monkeypatch, lambda found: None)
    difference = predictor.export(tmp_path / "new" / "model.pt2", "pt2")
    assert (tmp_path / "new" / "model.pt2").read_bytes() == b"the file"
    assert difference.compared > 8 and difference.pixels < 1e-3 and difference.score < 1e-5


@pytest.mark.parametrize("name", ["boxes", "keypoints", "scores", "classes", "counts"])
def test_a_file_that_finds_something_else_is_not(predictor, monkeypatch, tmp_path, name):
    def change(found):
        if name == "counts":
            found["counts"] = np.maximum(found["counts"] - 1, 0)
        else:
            found[name] = found[name] + found[name].dtype.type(1)

    stand_in(monkeypatch, change)
    with pytest.raises(ValueError, match=r"model\.pt2: expected what the model finds"):
        predictor.export(tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_a_model_that_finds_nothing_is_not_exported(predictor, monkeypatch, tmp_path):
    stand_in(monkeypatch, lambda found: None)
    monkeypatch.setattr(predictor.model.postprocessor, "score_threshold", 1.0)
    with pytest.raises(ValueError, match="nothing was found on the photos"):
        predictor.export(tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_the_model_stays_as_it_is(predictor, monkeypatch, tmp_path):
    before, names = (
        str(predictor.model),
        {name: id(module) for name, module in predictor.model.named_modules()},
    )
    stand_in(monkeypatch, lambda found: None)
    predictor.export(tmp_path / "model.pt2", "pt2", aggregation="grid_sample")
    assert str(predictor.model) == before
    assert {name: id(module) for name, module in predictor.model.named_modules()} == names


def test_what_is_refused_is_refused_before_photos_are_read(predictor, tmp_path):
    with pytest.raises(ValueError, match="--output: expected a file that ends in"):
        predictor.export(tmp_path / "model.onnx", "pt2", photos=["no such photo"])
    with pytest.raises(ValueError, match="--size: expected multiples of 32 pixels, got 70x96"):
        predictor.export(tmp_path / "model.pt2", "pt2", size=(70, 96))


def test_metadata_say_what_the_file_is(predictor, monkeypatch, tmp_path):
    written = []
    stand_in(monkeypatch, lambda found: None)
    taken = exporter.FORMATS["pt2"]
    monkeypatch.setitem(
        exporter.FORMATS, "pt2", taken._replace(write=lambda *parts: written.append(parts) or b"")
    )
    predictor.export(tmp_path / "model.pt2", "pt2", batch=3, size=(96, 128))
    _, outputs, metadata = written[0]
    check_metadata(json.loads(json.dumps(metadata)), predictor)
    assert outputs == list(metadata["outputs"]) == ["boxes", "scores", "classes", "keypoints", "counts"]
    assert metadata["batch"] == 3 and metadata["size_rule"]["frame"] == (96, 128)


def check_metadata(metadata, predictor):
    weights = predictor.cfg.MODEL.WEIGHTS
    with open(weights, "rb") as file:
        assert metadata["weights_sha256"] == hashlib.sha256(file.read()).hexdigest()
    assert KeypointSchema.from_dict(metadata["schema"]) == predictor.schema
    assert metadata["colour_order"] == "RGB" and metadata["nms"] is True
    assert metadata["thresholds"]["shown_score"] == 0.4
    assert metadata["thresholds"]["nms_threshold"] == predictor.cfg.MODEL.KGDET.NMS_THRESH_TEST
    assert metadata["size_rule"]["shortest_edge"] == 96 and metadata["size_rule"]["multiple_of"] == 32


def export(predictor, tmp_path, kind, **options):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"model.{kind}"
    difference = predictor.export(path, kind, **options)
    assert difference.compared > 8
    return path


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["deform_conv", "grid_sample"])
@pytest.mark.parametrize("kind", FORMATS)
def test_kgdet_in_every_format(predictor, tmp_path, kind, spelling):
    path = export(predictor, tmp_path, kind, aggregation=spelling)
    check_metadata(read_metadata(path), predictor)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "config", ["kgdet_plus_tiny", "reppoints_tiny", "reppoints_kp_tiny", "retinanet_tiny", "fcos_tiny"]
)
def test_every_system(tmp_path, config, kind):
    export(make_predictor(tmp_path, config), tmp_path, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("options", [{"nms": False}, {"batch": 1, "size": (96, 128)}, {"batch": 3}])
def test_every_option(predictor, tmp_path, kind, options):
    export(predictor, tmp_path, kind, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_sizes_and_batches_that_were_not_compared(predictor, tmp_path, kind):
    """Also a photo without anything in it, and a larger batch."""
    path = export(predictor, tmp_path, kind)
    run = FORMATS[kind].load(path.read_bytes())
    for number, height, width in ((1, 64, 64), (5, 64, 96), (1, 320, 256)):
        images = np.full((number, 3, height, width), 128, np.uint8)
        found = run(images, np.array([[height, width]] * number))
        assert found["boxes"].shape[0] == len(found["counts"]) == number


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_an_exported_file_gives_the_predictors_garments(predictor, tmp_path, kind):
    path = export(predictor, tmp_path, kind)
    metadata = read_metadata(path)
    photo = generate_photo(7).image[:, :, ::-1]
    predictor.score_threshold = 0.0
    expected = predictor(photo)
    rule = exporter.SizeRule.from_config(predictor.cfg, metadata["size_rule"]["multiple_of"], None)
    images, sizes = rule.batch([rule.resize(photo)])
    found = FORMATS[kind].load(path.read_bytes())(images, sizes)
    rows = slice(int(found["counts"][0]))
    scale = np.array(photo.shape[:2]) / sizes[0]
    assert len(expected) == rows.stop > 0
    np.testing.assert_allclose(found["scores"][0, rows], expected.scores, atol=1e-5)
    np.testing.assert_allclose(found["boxes"][0, rows] * scale[[1, 0, 1, 0]], expected.boxes, atol=5e-3)
    for row, (index, keypoints) in enumerate(zip(expected.classes, expected.keypoints, strict=True)):
        assert found["classes"][0, row] == index
        own = found["keypoints"][0, row, : len(keypoints), :2] * scale[::-1]
        np.testing.assert_allclose(own, keypoints[:, :2], atol=5e-3)


@pytest.mark.parametrize("name", ["model.tflite", "model"])
def test_metadata_of_another_kind_of_file(tmp_path, name):
    with pytest.raises(ValueError, match="expected a file of onnx, pt2"):
        read_metadata(tmp_path / name)
