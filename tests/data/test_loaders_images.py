"""The loader of single images: epochs, batches of like aspect ratio, and what its workers map ahead."""

from itertools import islice

import numpy as np
import pytest
from detectron2.config import get_cfg
from PIL import Image

from kgdet_d2.config import add_kgdet_config
from kgdet_d2.data import AnnotationTable, build_train_loader, register_fashion
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import Photo

PHOTOS = 36


@pytest.fixture
def cfg(make_garment, tmp_path):
    """Trains on photos 0..35, each of as many pixels in height as 40 and its number; every third is wide.

    Those whose number is divided by 12 have no garment.
    """
    photos = []
    fitting = {"box": np.float32([2, 3, 20, 30]), "keypoints": np.full((8, 3), 2, np.float32)}
    for number in range(PHOTOS):
        size = (100, 40 + number) if number % 3 == 0 else (30, 40 + number)
        garments = [make_garment(8, **fitting)] if number % 12 else []
        photos.append(Photo(f"{number}.png", number, *size, garments, {"source": "user", "pair_id": 7}))
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    AnnotationTable.from_photos(photos, DEEPFASHION2).save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, tmp_path, tmp_path / "mine.npz")
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.DATASETS.TRAIN = ("mine",)
    cfg.INPUT.MIN_SIZE_TRAIN = (32,)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.KEYPOINT_ON = True
    cfg.SOLVER.IMS_PER_BATCH = 3
    return cfg


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_an_epoch_has_each_photo_once_and_batches_of_like_aspect_ratio(cfg, workers, grouping):
    """33 photos: 9 wide ones, of which some may wait for others."""
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    batches = list(islice(build_train_loader(cfg), 7))
    seen = [photo["image_id"] for batch in batches for photo in batch]
    assert [len(batch) for batch in batches] == [3] * 7
    assert len(set(seen)) == len(seen) and all(number % 12 for number in seen)
    if grouping:
        assert {len({photo["width"] > photo["height"] for photo in batch}) for batch in batches} == {1}
    for photo in (photo for batch in batches for photo in batch):
        assert photo["height"] == 40 + photo["image_id"]
        assert photo["image"][0].unique().tolist() == [photo["image_id"]]
        assert photo["instances"].gt_keypoints.tensor.shape == (1, DEEPFASHION2.num_keypoints, 3)


def test_photos_without_garments_where_they_are_wanted(cfg):
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATALOADER.NUM_WORKERS = 2
    seen = {photo["image_id"]: photo for batch in islice(build_train_loader(cfg), 40) for photo in batch}
    assert seen.keys() == set(range(PHOTOS))
    empty = seen[12]["instances"]
    assert empty.gt_keypoints.tensor.shape == (0, DEEPFASHION2.num_keypoints, 3) and len(empty.gt_boxes) == 0


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("RepeatFactorTrainingSampler", ""),
        ("RandomSubsetTrainingSampler", ""),
        ("Sampler", "SAMPLER_TRAIN: expected"),
    ],
)
def test_detectron2_s_samplers(cfg, sampler, message):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    cfg.DATALOADER.REPEAT_THRESHOLD = 4.0  # twice as often as the one class there is
    loader = build_train_loader(cfg)
    if message:
        with pytest.raises(ValueError, match=message):
            next(iter(loader))
        return
    seen = [photo["image_id"] for batch in islice(loader, 20) for photo in batch]
    if sampler == "RandomSubsetTrainingSampler":
        assert len(set(seen)) == 16
    else:
        assert len(set(seen[:33])) < 33


def test_a_batch_that_cannot_be_shared_out(cfg, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH: expected a multiple of 2 processes, got 3"):
        build_train_loader(cfg)
