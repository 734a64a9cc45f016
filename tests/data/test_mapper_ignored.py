"""Regions to ignore (``iscrowd``) in the mapper: how they are augmented, and which models get them."""

import copy
import logging
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.utils.logger import log_first_n
from fvcore.transforms.transform import CropTransform

from kgdet_d2.config import load_config
from kgdet_d2.data import FashionDataset, FashionDatasetMapper, register_fashion
from kgdet_d2.data import mapper as mapper_module
from kgdet_d2.schema import DEEPFASHION2

FLIP = T.RandomFlip(prob=1.0)
VERTICAL = T.RandomFlip(prob=1.0, horizontal=False, vertical=True)
REGIONS = [[10.0, 8, 30, 24], [0.0, 0, 64, 48]]
RUN_LENGTHS = {"size": [48, 64], "counts": b"PQQ1"}


@pytest.fixture
def record(annotations, image_root):
    """The photo of all classes, 64 x 48, with a region before the garments and one among them."""
    record = FashionDataset(annotations, image_root)[0]
    crowds = [
        {**copy.deepcopy(garment), "iscrowd": 1, "bbox": box, "segmentation": RUN_LENGTHS}
        for garment, box in zip(record["annotations"], REGIONS, strict=False)
    ]
    del crowds[1]["keypoints"]
    first, *others = record["annotations"]
    record["annotations"] = [crowds[0], first, crowds[1], *others]
    return record


def mapper(*augmentations, **arguments) -> FashionDatasetMapper:
    options = {"use_keypoint": True, "image_format": "RGB", **arguments}
    return FashionDatasetMapper(True, schema=DEEPFASHION2, augmentations=list(augmentations), **options)


def without_regions(record):
    return {**record, "annotations": [a for a in record["annotations"] if not a["iscrowd"]]}


def assert_same(instances, expected):
    assert instances.get_fields().keys() == expected.get_fields().keys()
    for name, values in expected.get_fields().items():
        found = instances.get(name)
        if name == "gt_masks":
            for ours, theirs in zip(found.polygons, values.polygons, strict=True):
                assert all(map(np.array_equal, ours, theirs))
        else:
            assert torch.equal(getattr(found, "tensor", found), getattr(values, "tensor", values))


def moved(box, scale=(1, 1), crop=(0, 0, 64, 48), flips=()):
    """A box scaled, clipped to a crop x, y, width, height, and mirrored, by hand."""
    x1, y1, x2, y2 = box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1]
    left, top, width, height = crop
    x1, x2 = (min(max(x - left, 0), width) for x in (x1, x2))
    y1, y2 = (min(max(y - top, 0), height) for y in (y1, y2))
    if "x" in flips:
        x1, x2 = width - x2, width - x1
    if "y" in flips:
        y1, y2 = height - y2, height - y1
    return [x1, y1, x2, y2]


CROP = (20, 16, 32, 24)
CASES = {
    "as it is": ([], {}),
    "resized": ([T.ResizeShortestEdge(65, 1000)], {"scale": (87 / 64, 65 / 48), "crop": (0, 0, 87, 65)}),
    "flipped": ([FLIP], {"flips": "x"}),
    "flipped both ways": ([FLIP, VERTICAL], {"flips": "xy"}),
    "cropped": ([CropTransform(*CROP)], {"crop": CROP}),
    "cropped and flipped": ([CropTransform(*CROP), FLIP], {"crop": CROP, "flips": "x"}),
}


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("case", CASES)
def test_regions_go_with_the_image_and_garments_are_as_without_them(record, case, masks):
    """Boxes alone: neither landmarks nor polygons, and no box from a mask."""
    augmentations, moves = CASES[case]
    make = mapper(*augmentations, use_instance_mask=masks, recompute_boxes=masks)
    instances = make(record)["instances"]
    ignored = instances.gt_ignored
    assert ignored.dtype == torch.bool and ignored[-2:].tolist() == [True, True] and not ignored[:-2].any()
    garments, regions = instances[~ignored], instances[ignored]
    garments.remove("gt_ignored")
    assert_same(garments, make(without_regions(record))["instances"])
    expected = [moved(box, **moves) for box in REGIONS]
    np.testing.assert_allclose(regions.gt_boxes.tensor, expected, atol=1e-4)
    assert not regions.gt_keypoints.tensor.any() and regions.gt_keypoints.tensor.shape[1:] == (294, 3)
    assert not masks or not regions.gt_masks.nonempty().any()


def test_regions_that_leave_the_frame_are_dropped(record):
    instances = mapper(CropTransform(40, 30, 24, 18))(record)["instances"]
    assert instances[instances.gt_ignored].gt_boxes.tensor.tolist() == [[0, 0, 24, 18]]


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_regions_alone(record, masks):
    record["annotations"] = [a for a in record["annotations"] if a["iscrowd"]]
    make = mapper(FLIP, use_instance_mask=masks, recompute_boxes=masks)
    instances = make(record)["instances"]
    assert instances.gt_ignored.tolist() == [True, True] and len(instances.gt_keypoints) == 2
    none_left = mapper(CropTransform(0, 0, 64, 48), CropTransform(60, 40, 4, 8))
    record["annotations"] = record["annotations"][:1]
    assert len(none_left(record)["instances"]) == 0


def test_masks_may_be_bitmasks(record):
    instances = mapper(use_instance_mask=True, instance_mask_format="bitmask")(record)["instances"]
    assert instances.gt_masks[instances.gt_ignored].tensor.any() == torch.tensor(False)
    assert instances.gt_masks.tensor.shape[1:] == (48, 64)


def test_a_photo_without_regions_has_no_such_field(record):
    assert not mapper()(without_regions(record))["instances"].has("gt_ignored")
    assert not mapper(keep_ignored=False)(record)["instances"].has("gt_ignored")
    assert_same(
        mapper(keep_ignored=False)(record)["instances"], mapper()(without_regions(record))["instances"]
    )


def test_a_region_without_a_style_is_of_none(record):
    del record["annotations"][0]["style"]
    instances = mapper()(record)["instances"]
    assert instances.gt_styles[-2:].tolist() == [0, record["annotations"][2]["style"]]


def test_garments_without_keypoints_are_not_labelled(record):
    del record["annotations"][1]["keypoints"]
    keypoints = mapper(FLIP)(record)["instances"].gt_keypoints.tensor
    assert not keypoints[0].any() and keypoints[1].any()


def test_it_arrives_from_another_process(record):
    mapped = mapper()(record)
    arrived = pickle.loads(bytes(ForkingPickler.dumps(mapped)))
    assert torch.equal(arrived["instances"].gt_ignored, mapped["instances"].gt_ignored)


# --- which models get them ---

CONFIGS = sorted(map(str, Path("configs").rglob("[!B]*.yaml")))


def test_every_system_of_the_project_gets_them():
    assert len(CONFIGS) > 20
    assert [name for name in CONFIGS if not mapper_module._model_takes_ignored(load_config(name, []))] == []


@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("retinanet_tiny", ["MODEL.META_ARCHITECTURE", "RetinaNet"]),
        ("match_rcnn_tiny", ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]),
        ("match_rcnn_tiny", ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]),
    ],
    ids=["RetinaNet", "RPN", "ROI heads"],
)
def test_detectron2_s_own_parts_do_not_take_them_for_garments(
    annotations, image_root, record, tmp_path, config, opts
):
    annotations.save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, image_root, tmp_path / "mine.npz")
    datasets = ["DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('mine',)", "INPUT.RANDOM_FLIP", "none"]
    found = []
    for given in (opts, []):
        cfg = load_config(f"configs/sample/{config}.yaml", [*datasets, *given])
        found.append(FashionDatasetMapper(cfg, is_train=True)(record)["instances"])
    theirs, ours = found
    assert len(theirs) == 13 and not theirs.has("gt_ignored")
    assert len(ours) == 15 and ours.gt_ignored.sum() == 2


def test_a_model_without_them_is_warned_about_once(record, caplog):
    make = mapper(keep_ignored=False)
    log_first_n.__globals__["_LOG_COUNTER"].clear()
    with caplog.at_level(logging.WARNING):
        make(without_regions(record))
        assert not caplog.records
        make(record)
        make(record)
    (warning,) = caplog.records
    assert "iscrowd" in warning.message and "FashionRetinaNet" in warning.message


def test_a_config_of_detectron2():
    assert not mapper_module._model_takes_ignored(get_cfg())
