"""From photos to garments, on a model of random weights."""

import json
import sys

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import pairwise_iou
from PIL import Image

import kgdet_d2
from kgdet_d2 import FashionPredictor
from kgdet_d2.config import load_config
from kgdet_d2.modeling.meta_arch import FCOS
from tests.helpers.untrained import ANY_SCORE, CONFIG, save_untrained


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def predictor(weights):
    return FashionPredictor.from_checkpoint(weights, "cpu", score_threshold=0.0)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)  # RGB


def same(first, second):
    assert first.image_size == second.image_size and len(first) == len(second) > 0
    np.testing.assert_array_equal(first.classes, second.classes)
    for name in ("boxes", "scores"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-4, atol=1e-3)
    for points, others in zip(first.keypoints, second.keypoints, strict=True):
        np.testing.assert_allclose(points, others, rtol=1e-4, atol=1e-3)


def test_it_predicts_as_detectron2_does(weights, predictor, photo):
    opts = [*ANY_SCORE, "MODEL.WEIGHTS", str(weights), "MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST", "0.7"]
    expected = DefaultPredictor(load_config(CONFIG, opts))(photo[:, :, ::-1])["instances"]
    garments = predictor(photo)
    np.testing.assert_allclose(garments.boxes, expected.pred_boxes.tensor, atol=1e-3)
    np.testing.assert_allclose(garments.scores, expected.scores, atol=1e-6)
    for row, index in enumerate(garments.classes):
        slots = list(predictor.schema.slots[index])
        np.testing.assert_allclose(garments.keypoints[row], expected.pred_keypoints[row, slots], atol=1e-3)
    assert (np.diff(garments.scores) <= 0).all()


def test_every_kind_of_photo(predictor, photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    expected = predictor(photo)
    for given in (str(path), path, Image.fromarray(photo), torch.from_numpy(photo).permute(2, 0, 1)):
        same(predictor(given), expected)
    assert predictor(path).file == str(path) and expected.file == ""


def test_grey_of_8_and_of_16_bits(predictor, tmp_path):
    grey = np.random.default_rng(1).integers(0, 256, (64, 80), dtype=np.uint8)
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "grey.png")
    expected = predictor(grey)
    same(predictor(tmp_path / "grey.png"), expected)
    same(predictor(grey[..., None].repeat(3, axis=2)), expected)


def test_a_turned_photo_is_seen_upright(predictor, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(photo)).save(tmp_path / "turned.png", exif=exif)
    same(predictor(tmp_path / "turned.png"), predictor(photo))


def test_a_list_is_predicted_in_batches(predictor, photo, monkeypatch):
    photos = [photo, photo[::-1].copy(), photo[:, ::-1].copy()]
    singles = [predictor(each) for each in photos]
    monkeypatch.setattr(predictor, "batch_size", 2)
    for found, expected in zip(predictor(photos), singles, strict=True):
        same(found, expected)
    assert predictor([]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        torch.zeros(3, 4, 4),
    ],
)
def test_other_arrays_are_refused(predictor, wrong):
    with pytest.raises(ValueError, match=r"photo: expected (an array|a tensor) uint8 .*, got "):
        predictor(wrong)


def test_the_threshold(weights, predictor, photo):
    scores = predictor(photo).scores
    half = FashionPredictor.from_checkpoint(weights, "cpu", score_threshold=float(scores[3]))
    np.testing.assert_array_equal(half(photo).scores, scores[scores >= scores[3]])
    none = FashionPredictor.from_checkpoint(weights, "cpu")(photo)
    assert len(none) == 0 and none.names == none.landmarks == none.to_coco(1) == []
    assert len(none.to_instances()) == 0 and none.draw(photo).shape == (768, 576, 3)


def test_a_garment_has_one_name(weights, predictor, photo):
    several = FashionPredictor.from_checkpoint(
        weights, "cpu", 0.0, opts=["MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST", "1.0"]
    )
    found = [each(photo).to_instances().pred_boxes for each in (several, predictor)]
    highest = [(pairwise_iou(boxes, boxes) - torch.eye(len(boxes))).max() for boxes in found]
    assert highest[0] > 0.7 >= highest[1]


def test_forms_for_other_tools(predictor, photo):
    garments = predictor(photo)
    text = json.loads(json.dumps(garments.to_dict()))
    assert (text["height"], text["width"], len(text["garments"])) == (120, 90, len(garments))
    first, landmarks = text["garments"][0], garments.landmarks[0]
    assert first["class"] == garments.names[0] and first["box"] == garments.boxes[0].tolist()
    names = predictor.schema.keypoint_names[garments.classes[0]]
    assert tuple(first["landmarks"]) == tuple(landmarks) == names
    np.testing.assert_array_equal(np.stack(list(landmarks.values())), garments.keypoints[0])
    again = kgdet_d2.Garments.from_instances(garments.to_instances(), predictor.schema)
    same(again, garments)
    (result, *_) = results = garments.to_coco(7)
    x1, y1, x2, y2 = garments.boxes[0]
    assert len(results) == len(garments) and result["image_id"] == 7
    assert result["category_id"] == garments.classes[0] + 1
    np.testing.assert_allclose(result["bbox"], [x1, y1, x2 - x1, y2 - y1], rtol=1e-5)
    drawing = garments.draw(photo)
    assert drawing.shape == (768, 576, 3) and drawing.dtype == np.uint8


def test_supervision_s_form(predictor, photo):
    supervision = pytest.importorskip("supervision")
    garments = predictor(photo)
    detections, points = garments.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == len(points) == len(garments)
    np.testing.assert_array_equal(detections.xyxy, garments.boxes)
    assert detections.data["class_name"].tolist() == garments.names
    count = len(garments.keypoints[0])
    np.testing.assert_array_equal(points.xy[0, :count], garments.keypoints[0][:, :2])
    assert (points.xy[0, count:] == 0).all()


def test_without_supervision(predictor, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'kgdet_d2\[supervision\]'"):
        predictor(photo).to_supervision()


def test_a_model_of_boxes_alone(tmp_path, photo):
    opts = ["MODEL.FCOS.SCORE_THRESH_TEST", "0.0"]
    path = save_untrained(tmp_path, "configs/sample/fcos_tiny.yaml", FCOS, opts)
    garments = FashionPredictor.from_checkpoint(path, "cpu", 0.0)(photo)
    assert len(garments) > 0 and garments.keypoints is None and garments.landmarks[0] == {}
    assert "keypoints" not in garments.to_coco(1)[0] and not garments.to_instances().has("pred_keypoints")
    assert garments.draw(photo).any()


def test_weights_that_do_not_say_what_they_are_need_a_config(weights, tmp_path, photo, predictor):
    torch.save({"model": torch.load(weights, weights_only=True)["model"]}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"bare\.pth: it does not say"):
        FashionPredictor.from_checkpoint(tmp_path / "bare.pth", "cpu")
    named = FashionPredictor.from_checkpoint(tmp_path / "bare.pth", "cpu", 0.0, CONFIG, ANY_SCORE)
    same(named(photo), predictor(photo))


def test_photos_of_a_list_do_not_depend_on_one_another(predictor):
    rng = np.random.default_rng(2)
    sizes = [(120, 90), (90, 120), (64, 64), (90, 120), (120, 50)]
    photos = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for garments, photo in zip(predictor(photos), photos, strict=True):
        same(garments, predictor(photo))
    inputs = [predictor.mapper(photo) for photo in photos]
    batches = list(predictor.batches(inputs, 2))
    assert sorted(row for batch in batches for row in batch) == list(range(5)) and [1, 3] in batches


def test_weights_that_the_options_name(weights, predictor, photo):
    opts = ["MODEL.WEIGHTS", str(weights)]
    same(FashionPredictor.from_checkpoint(None, "cpu", 0.0, opts=opts)(photo), predictor(photo))


@pytest.mark.parametrize("config", [None, CONFIG])
def test_no_weights_at_all(config):
    with pytest.raises(ValueError, match="expected"):
        FashionPredictor.from_checkpoint(None, "cpu", config=config)
