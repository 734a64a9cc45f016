"""``kgdet draw`` with a stand-in for the model."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from kgdet_d2.engine import draw
from kgdet_d2.garments import Garments
from kgdet_d2.predictor import PhotoMapper
from kgdet_d2.schema import DEEPFASHION2 as SCHEMA

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/sample/kgdet_tiny.yaml")
NAME = "test_draw_predictions"


def run(arguments):
    return draw.run(draw.make_parser().parse_args(arguments))


@pytest.fixture
def photos(tmp_path):
    """Three photos, the second without garments; the third is wider than high."""
    records = []
    for number, size in enumerate([(256, 192), (256, 192), (120, 256)]):
        path = tmp_path / f"{number:06d}.jpg"
        cv2.imwrite(str(path), np.full((*size, 3), 128, np.uint8))
        skirt = {
            "bbox": [20, 20, 100, 100],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 8,
            "keypoints": [50.0, 50.0, 2] * 8,
        }
        height, width = size
        record = {"file_name": str(path), "image_id": number, "height": height, "width": width}
        records.append(record | {"annotations": [] if number == 1 else [skirt]})
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(keypoint_schema=SCHEMA, thing_classes=list(SCHEMA.class_names))
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


class OneSkirt:
    """In the place of the predictor."""

    def __init__(self, cfg, score_threshold):
        self.mapper = PhotoMapper(cfg)
        self.score_threshold = score_threshold

    @classmethod
    def from_config(cls, cfg, *, score_threshold):
        return cls(cfg, score_threshold)

    def __call__(self, photo):
        instances = Instances(photo.shape[:2])
        instances.pred_boxes = Boxes(torch.tensor([[10.0, 10, 90, 90]]))
        instances.scores = torch.tensor([0.8])
        instances.pred_classes = torch.tensor([8])
        instances.pred_keypoints = torch.full((1, SCHEMA.num_keypoints, 3), 40.0)
        return Garments.from_instances(instances[instances.scores >= self.score_threshold], SCHEMA)


def arguments(tmp_path, *extra):
    weights = tmp_path / "model.pth"
    weights.touch()
    options = ["--config-file", CONFIG, "--output", str(tmp_path / "figures"), "--dataset", NAME, *extra]
    return [*options, "MODEL.WEIGHTS", str(weights)]


def test_figures_and_page(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "FashionPredictor", OneSkirt)
    run(arguments(tmp_path))
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {"000000.jpg", "000001.jpg", "000002.jpg", "page.jpg"}
    height, width = cv2.imread(str(tmp_path / "figures" / "000000.jpg")).shape[:2]
    assert (width, height) == (2 * 576, 768 + 28)  # enlarged to 768 high, a title bar above
    page = cv2.imread(str(tmp_path / "figures" / "page.jpg"))
    assert (page[-20:] > 250).mean() < 0.01 and (page[:, -20:] > 250).all(axis=2).mean() < 0.1


def test_max_images_and_threshold(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "FashionPredictor", OneSkirt)
    run(arguments(tmp_path, "--max-images", "2", "--score-threshold", "0.9"))
    assert len(list((tmp_path / "figures").iterdir())) == 3
    figure = cv2.imread(str(tmp_path / "figures" / "000001.jpg")).astype(int)
    assert np.abs(figure[40:] - 128).max() < 10  # no garment in truth, none above the threshold


def test_a_16_bit_photo_is_drawn_as_an_8_bit_one(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "FashionPredictor", OneSkirt)
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((256, 192), 128 * 256, np.uint16))
    photos[0]["file_name"] = str(path)
    run(arguments(tmp_path, "--max-images", "2", "--score-threshold", "0.9"))
    photo = cv2.imread(str(tmp_path / "figures" / "grey.jpg")).astype(int)[40:, 576:]
    assert np.abs(photo - 128).max() < 10


def test_missing_weights_are_told_before_any_work(photos, tmp_path):
    command = [*arguments(tmp_path)[:-1], str(tmp_path / "nowhere.pth")]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        run(command)
    assert not (tmp_path / "figures").exists()


def test_unreadable_photos_are_left_out_and_counted(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw, "FashionPredictor", OneSkirt)
    Path(photos[0]["file_name"]).write_bytes(b"not a photo")
    assert run(arguments(tmp_path)) == 1
    printed = capsys.readouterr().err
    assert "000000.jpg: cannot read the image" in printed and "1 photos could not be read" in printed
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "000001.jpg",
        "000002.jpg",
        "page.jpg",
    }


def test_no_photos(photos, tmp_path):
    with pytest.raises(ValueError, match=r"test_draw_predictions.*no photos"):
        run(arguments(tmp_path, "--max-images", "0"))
