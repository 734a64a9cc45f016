"""The mapper: landmarks, boxes and masks under augmentation, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from fvcore.transforms.transform import CropTransform
from PIL import Image

from kgdet_d2.config import add_kgdet_config
from kgdet_d2.data import FashionDataset, FashionDatasetMapper, register_fashion
from kgdet_d2.schema import DEEPFASHION2, FLD

NUM_SLOTS = DEEPFASHION2.num_keypoints
FLIP = T.RandomFlip(prob=1.0)
VERTICAL = T.RandomFlip(prob=1.0, horizontal=False, vertical=True)


@pytest.fixture
def records(annotations, image_root):
    return list(FashionDataset(annotations, image_root))


@pytest.fixture
def cfg(annotations, image_root, tmp_path):
    """A config that trains and tests on the four photos, registered as ``mine``."""
    annotations.save(tmp_path / "mine.npz")
    register_fashion("mine", DEEPFASHION2, image_root, tmp_path / "mine.npz")
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("mine",)
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 96
    cfg.MODEL.KEYPOINT_ON = True
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def mapper(*augmentations, **arguments) -> FashionDatasetMapper:
    return FashionDatasetMapper(
        is_train=True,
        schema=DEEPFASHION2,
        augmentations=list(augmentations),
        image_format="RGB",
        use_keypoint=True,
        **arguments,
    )


def mirrored(name: str) -> str:
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def expected_slots(garment, scale_x: float, scale_y: float, width: float | None) -> np.ndarray:
    """Plain loops over landmark names; ``width`` (after scaling) where the photo is mirrored."""
    slots = np.zeros((NUM_SLOTS, 3))
    names = DEEPFASHION2.keypoint_names[garment.category_id]
    for name, (x, y, v) in zip(names, garment.keypoints.tolist(), strict=True):
        if v > 0:
            new_x = x * scale_x if width is None else width - x * scale_x
            new_name = name if width is None else mirrored(name)
            slot = DEEPFASHION2.slots[garment.category_id][names.index(new_name)]
            slots[slot] = new_x, y * scale_y, v
    return slots


@pytest.mark.parametrize("flip", [False, True])
def test_landmarks_boxes_and_classes_of_all_classes(photos, records, flip):
    # 64 x 48 to a shorter side of 65: 86.67 x 65, rounded to 87 x 65, so that the axes scale differently
    augmentations = [T.ResizeShortestEdge(65, 1000), *([FLIP] if flip else [])]
    mapped = mapper(*augmentations)(records[0])
    instances, garments = mapped["instances"], photos[0].garments
    assert mapped["image"].shape == (3, 65, 87) and instances.image_size == (65, 87)
    assert instances.gt_classes.tolist() == list(range(13))
    scale_x, scale_y, width = 87 / 64, 65 / 48, 87 if flip else None
    expected = np.stack([expected_slots(garment, scale_x, scale_y, width) for garment in garments])
    assert instances.gt_keypoints.tensor.dtype == torch.float32
    np.testing.assert_allclose(instances.gt_keypoints.tensor, expected, atol=1e-4)
    x1, y1, x2, y2 = photos[0].garments[0].box * [scale_x, scale_y, scale_x, scale_y]
    box = [87 - x2, y1, 87 - x1, y2] if flip else [x1, y1, x2, y2]
    np.testing.assert_allclose(instances.gt_boxes.tensor, [box] * 13, atol=1e-4)


def test_flipping_twice_changes_nothing(records, tmp_path):
    plain, once = mapper()(records[0]), mapper(FLIP)(records[0])
    Image.fromarray(once["image"].permute(1, 2, 0).numpy()).save(tmp_path / "flipped.png")
    instances = once["instances"]
    annotations = [
        {
            **annotation,
            "bbox": box,
            "keypoints": DEEPFASHION2.gather(keypoints, annotation["category_id"]).ravel(),
        }
        for annotation, box, keypoints in zip(
            records[0]["annotations"],
            instances.gt_boxes.tensor.tolist(),
            instances.gt_keypoints.tensor.numpy(),
            strict=True,
        )
    ]
    flipped = {**records[0], "file_name": str(tmp_path / "flipped.png"), "annotations": annotations}
    for twice in (mapper(FLIP)(flipped), mapper(FLIP, FLIP)(records[0])):
        assert torch.equal(twice["image"], plain["image"])
        assert torch.equal(twice["instances"].gt_boxes.tensor, plain["instances"].gt_boxes.tensor)
        assert torch.equal(twice["instances"].gt_keypoints.tensor, plain["instances"].gt_keypoints.tensor)


def test_landmarks_cropped_away_are_absent(photos, records):
    mapped = mapper(CropTransform(0, 0, 32, 48))(records[0])
    for garment, keypoints in zip(photos[0].garments, mapped["instances"].gt_keypoints.tensor, strict=True):
        inside = expected_slots(garment, 1, 1, None)
        inside[inside[:, 0] > 32] = 0
        np.testing.assert_array_equal(keypoints, inside)
    assert (mapped["instances"].gt_boxes.tensor[:, 2] == 32).all()


def test_the_frame_s_edge_is_inside(records):
    points = [(8, 6), (24, 6), (8, 22), (24, 22), (7.99, 6), (24.01, 6), (8, 5.99), (8, 22.01)]
    keypoints = np.array([(x, y, 2) for x, y in points], dtype=np.float32)
    annotation = {**records[0]["annotations"][8], "keypoints": keypoints.ravel()}
    mapped = mapper(CropTransform(8, 6, 16, 16))({**records[0], "annotations": [annotation]})
    keypoints = DEEPFASHION2.gather(mapped["instances"].gt_keypoints.tensor[0].numpy(), 8)
    np.testing.assert_array_equal(
        keypoints, [(0, 0, 2), (16, 0, 2), (0, 16, 2), (16, 16, 2), *[(0, 0, 0)] * 4]
    )


def test_left_and_right_change_places_in_every_mirror_image(records):
    """Upside down and mirrored is the photo turned by half: left stays left."""
    upside_down, turned = (mapper(*flips)(records[0]) for flips in ([VERTICAL], [FLIP, VERTICAL]))
    mirrored_again = mapper(FLIP)(records[0])["instances"].gt_keypoints.tensor
    keypoints = upside_down["instances"].gt_keypoints.tensor
    labelled = keypoints[..., 2] > 0
    assert torch.equal(labelled, mirrored_again[..., 2] > 0)
    half_turn = torch.tensor([64.0, 48.0])
    torch.testing.assert_close(keypoints[labelled][:, :2], half_turn - mirrored_again[labelled][:, :2])
    plain = mapper()(records[0])
    assert torch.equal(turned["image"], plain["image"].flip(1, 2))
    turned, plain = (mapped["instances"].gt_keypoints.tensor for mapped in (turned, plain))
    labelled = plain[..., 2] > 0
    torch.testing.assert_close(turned[labelled][:, :2], half_turn - plain[labelled][:, :2])
    assert torch.equal(turned[..., 2], plain[..., 2])


def test_photos_without_garments_and_garments_without_landmarks(records):
    for flip in ([], [FLIP]):
        no_garment = mapper(*flip)(records[1])["instances"]
        assert len(no_garment) == 0 and no_garment.gt_boxes.tensor.shape == (0, 4)
        assert no_garment.gt_keypoints.tensor.shape == (0, NUM_SLOTS, 3)
        no_landmark = mapper(*flip)(records[2])["instances"]
        assert no_landmark.gt_classes.tolist() == [4] and not no_landmark.gt_keypoints.tensor.any()
    all_cropped_away = mapper(CropTransform(0, 44, 64, 4))(records[0])["instances"]
    assert all_cropped_away.gt_keypoints.tensor.shape == (0, NUM_SLOTS, 3)


def test_the_record_stays_as_it_is(records):
    for annotation in records[0]["annotations"]:  # float64 is what Detectron2 would change in place
        annotation["keypoints"] = annotation["keypoints"].astype(np.float64)
        annotation["segmentation"] = [polygon.astype(np.float64) for polygon in annotation["segmentation"]]
    before = copy.deepcopy(records[0])
    mapper(T.ResizeShortestEdge(65, 1000), FLIP, use_instance_mask=True)(records[0])
    assert str(records[0]) == str(before)


# --- from a config ---


def test_config_gives_detectron2s_augmentations(cfg, records):
    mapped = FashionDatasetMapper(cfg, True)(records[0])
    assert mapped["image"].shape == (3, 96, 128)
    assert not mapped["instances"].has("gt_masks")
    assert mapped["instances"].gt_keypoints.tensor.shape == (13, NUM_SLOTS, 3)

    tested = FashionDatasetMapper(cfg, is_train=False)(records[0])
    assert "instances" not in tested and "annotations" not in tested
    assert (tested["height"], tested["width"], tested["image_id"]) == (48, 64, 1)
    resized = mapper(T.ResizeShortestEdge(96, 1333))(records[0])["image"]
    assert torch.equal(tested["image"], resized.flip(0))  # the config's default format is BGR


def test_masks_and_landmarks_come_as_the_config_asks(cfg, records):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.RANDOM_FLIP = "none"
    instances = FashionDatasetMapper(cfg, True)(records[0])["instances"]
    for polygons, annotation in zip(instances.gt_masks.polygons, records[0]["annotations"], strict=True):
        expected = [2 * polygon for polygon in annotation["segmentation"]]  # 64 x 48 becomes 128 x 96
        assert all(map(np.array_equal, polygons, expected)) and len(polygons) == len(expected)
    cfg.MODEL.KEYPOINT_ON = False
    assert not FashionDatasetMapper(cfg, True)(records[0])["instances"].has("gt_keypoints")


@pytest.mark.parametrize("opts", [["INPUT.CROP.ENABLED", True], ["INPUT.SCALE_JITTER", (0.5, 2.0)]])
def test_boxes_of_cropped_masks_are_computed_anew(cfg, records, opts):
    cfg.merge_from_list(opts)
    assert not FashionDatasetMapper(cfg, True).recompute_boxes
    cfg.MODEL.MASK_ON = True
    assert FashionDatasetMapper(cfg, True).recompute_boxes
    assert not FashionDatasetMapper(cfg, False).recompute_boxes
    assert len(FashionDatasetMapper(cfg, True)(records[1])["instances"]) == 0  # a photo without garments


@pytest.mark.parametrize("opts", [[], ["INPUT.CROP.ENABLED", True]])
def test_garments_without_polygons_stay_with_their_box(cfg, records, opts):
    """Prepared without segmentation, or never annotated: they are no background."""
    cfg.merge_from_list([*opts, "MODEL.MASK_ON", True, "INPUT.RANDOM_FLIP", "none"])
    record = {**records[0], "annotations": [{**a} for a in records[0]["annotations"]]}
    for annotation in record["annotations"][::2]:
        annotation["segmentation"] = []
        annotation["bbox"] = [0, 0, 64, 48]
    np.random.seed(0)  # noqa: NPY002
    instances = FashionDatasetMapper(cfg, True)(record)["instances"]
    bare = ~instances.gt_masks.nonempty()
    assert instances.gt_classes[bare].tolist() == list(range(0, 13, 2))
    height, width = instances.image_size
    assert instances.gt_boxes.tensor[bare].tolist() == [[0, 0, width, height]] * 7


def test_styles_come_where_the_annotations_have_them(cfg, records):
    mapped = FashionDatasetMapper(cfg, True)(records[0])["instances"]
    assert mapped.gt_styles.tolist() == [a["style"] for a in records[0]["annotations"]]
    for annotation in records[0]["annotations"]:
        del annotation["style"]
    assert not FashionDatasetMapper(cfg, True)(records[0])["instances"].has("gt_styles")


def test_test_loader_feeds_the_mapper(cfg):
    loader = build_detection_test_loader(cfg, "mine", mapper=FashionDatasetMapper(cfg, False))
    assert [record["image_id"] for (record,) in loader] == [1, 2, 3, 4]


def test_a_config_that_only_tests(cfg):
    cfg.DATASETS.TRAIN = ()
    assert FashionDatasetMapper(cfg, False).schema is DEEPFASHION2


@pytest.mark.parametrize("architecture", ["KGDet", "RetinaNet", "GeneralizedRCNN"])
def test_the_datasets_must_have_the_model_s_schema(cfg, tmp_path, architecture):
    cfg.MODEL.META_ARCHITECTURE = architecture
    register_fashion("other", FLD, tmp_path, tmp_path / "other.npz")
    cfg.DATASETS.TEST = ("mine", "other")
    expected = r"dataset 'other': expected .*SCHEMA = 'deepfashion2' .*, got those of 'fld'"
    with pytest.raises(ValueError, match=expected):
        FashionDatasetMapper(cfg, True)
    cfg.MODEL.KGDET.SCHEMA = "fld"
    with pytest.raises(ValueError, match=r"dataset 'mine': .* 'fld' .*, got those of 'deepfashion2'"):
        FashionDatasetMapper(cfg, False)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("other",)
    assert FashionDatasetMapper(cfg, True).schema is FLD
    cfg.DATASETS.TEST = ("coco_2017_val",)
    with pytest.raises(ValueError, match="'coco_2017_val': expected the names of its landmarks"):
        FashionDatasetMapper(cfg, True)
    cfg.DATASETS.TEST = ("nowhere",)
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        FashionDatasetMapper(cfg, True)


# --- what cannot be used ---


def test_a_photo_that_cannot_be_read_is_named(records, image_root):
    (image_root / "000001.png").unlink()
    with pytest.raises(RuntimeError, match=r"image/000001\.png: cannot read the image: .*No such file"):
        mapper()(records[0])


def test_a_photo_of_another_size_is_named(records):
    with pytest.raises(SizeMismatchError, match=r"000001\.png, got \(64, 48\), expect \(65, 48\)"):
        mapper()({**records[0], "width": 65})


@pytest.mark.parametrize("augmentation", [T.NoOpTransform(), FLIP, VERTICAL])
def test_a_garment_with_other_landmarks_is_named(records, augmentation):
    annotation = {**records[0]["annotations"][8], "keypoints": [5.0, 6.0, 2.0] * NUM_SLOTS}
    with pytest.raises(ValueError, match=r"000001\.png: .*294"):
        mapper(augmentation)({**records[0], "annotations": [annotation]})
