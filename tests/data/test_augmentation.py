"""Landmarks under augmentation: drawn as spots, augmented, and found again in the augmented drawing."""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw

from kgdet_d2.config import add_kgdet_config
from kgdet_d2.data import FashionDatasetMapper
from kgdet_d2.data.augmentation import RandomColor, build_train_augmentations
from kgdet_d2.schema import DEEPFASHION2

SPOT = 3  # half a drawn spot's side, in pixels
CROP = ["INPUT.CROP.ENABLED", True]
JITTER = ["INPUT.SCALE_JITTER", (0.4, 2.0)]
COLOR = ["INPUT.COLOR.BRIGHTNESS", 0.4, "INPUT.COLOR.CONTRAST", 0.4, "INPUT.COLOR.SATURATION", 0.4]
SETTINGS = {
    "default": [],
    "several sizes": ["INPUT.MIN_SIZE_TRAIN", (64, 101, 150)],
    "upside down": ["INPUT.RANDOM_FLIP", "vertical"],
    "colour": COLOR,
    "relative range crop": [*CROP, "INPUT.CROP.SIZE", [0.4, 0.5]],
    "relative crop": [*CROP, "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", [0.6, 0.7]],
    "absolute crop": [*CROP, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [70, 80]],
    "absolute range crop": [*CROP, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [70, 100]],
    "jitter": JITTER,
    "all": [*CROP, "INPUT.CROP.SIZE", [0.6, 0.6], *JITTER, *COLOR],
}


def config(*opts):
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (101,), 130
    cfg.merge_from_list(list(opts))
    return cfg


def mapper(cfg, **arguments) -> FashionDatasetMapper:
    return FashionDatasetMapper(
        is_train=True,
        schema=DEEPFASHION2,
        augmentations=build_train_augmentations(cfg),
        image_format="RGB",
        use_keypoint=True,
        **arguments,
    )


def draw(folder, size, points) -> list[str]:
    """For each point a black photo with a white spot around it, of continuous x - SPOT to x + SPOT."""
    files = []
    for number, (x, y) in enumerate(points):
        pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        pixels[y - SPOT : y + SPOT, x - SPOT : x + SPOT] = 255
        files.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(files[-1])
    return files


def find(image) -> np.ndarray:
    """The spot's centre x, y; NaN where it is not or not wholly in the frame."""
    light = image[0].double().numpy()
    light -= np.median(light)
    edges = light[[0, -1]].any() or light[:, [0, -1]].any()
    if edges or not light.any():
        return np.full(2, np.nan)
    rows, columns = np.indices(light.shape) + 0.5
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


def mirrored(name: str) -> str:
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


@pytest.mark.parametrize("size", [(120, 160), (161, 117)], ids=str)
@pytest.mark.parametrize("setting", SETTINGS)
def test_drawn_landmarks_are_where_the_annotation_says(tmp_path, setting, size):
    """Each landmark in a photo of its own, all augmented by the same draws.

    The spots found tell how the photo was scaled, moved and mirrored, and so where each landmark belongs,
    those out of the frame as well. A spot's centre is found to a quarter of a pixel: what resizing does to
    it is symmetrical, up to the rounding to grey levels.
    """
    category_id, rng = 2, np.random.default_rng(7)  # short sleeve outwear: its table is often wrong
    names = DEEPFASHION2.keypoint_names[category_id]
    points = rng.integers(12, np.subtract(size, 12), (len(names), 2))
    files = draw(tmp_path, size, points)
    annotation = {
        **{"bbox": [0.0, 0.0, *size], "bbox_mode": BoxMode.XYXY_ABS, "category_id": category_id},
        **{"keypoints": np.c_[points, np.full(len(names), 2.0)].ravel(), "iscrowd": 0},
    }
    record = {"width": size[0], "height": size[1], "annotations": [annotation]}
    map_photo = mapper(config(*SETTINGS[setting]))
    seen = []
    for seed in range(8):
        spots = []
        for file_name in files:
            np.random.seed(seed)  # noqa: NPY002, the generator that Detectron2 draws from
            mapped = map_photo({**record, "file_name": file_name})
            spots.append(find(mapped["image"]))
        keypoints = DEEPFASHION2.gather(mapped["instances"].gt_keypoints.tensor[0].numpy(), category_id)
        frame = mapped["image"].shape[:0:-1]
        seen.append(check(keypoints, np.array(spots), points, names, frame))
    flips, inside = np.array(seen).T
    assert 0 < flips.sum() < 8 and inside.mean() > 0.25
    assert (inside < 1).any() == ("crop" in setting or setting in ("jitter", "all"))


def check(keypoints, spots, points, names, frame) -> tuple[bool, float]:
    """Compare a garment's landmarks with its spots; whether it was mirrored, and the share in the frame."""
    whole = ~np.isnan(spots[:, 0])
    assert whole.sum() >= 3
    scale, shift = np.array([np.polyfit(points[whole, i], spots[whole, i], 1) for i in (0, 1)]).T
    belongs = points * scale + shift
    is_mirrored = scale.prod() < 0
    slots = [names.index(mirrored(name) if is_mirrored else name) for name in names]
    found = keypoints[slots]
    np.testing.assert_allclose(found[whole, :2], spots[whole], atol=0.25)
    depth = np.minimum(belongs, frame - belongs).min(axis=1)  # how far inside the frame
    inside, outside = depth > 0.3, depth < -0.3
    np.testing.assert_allclose(found[inside, :2], belongs[inside], atol=0.3)
    assert (found[inside, 2] == 2).all() and not found[outside].any()
    return is_mirrored, inside.mean()


def test_frames_of_scale_jitter():
    """Fitted into a square of 26 to 260 pixels, of which at most 130 are kept; never padded."""
    jitter = T.AugmentationList(build_train_augmentations(config("INPUT.SCALE_JITTER", (0.2, 2.0))))
    shapes = []
    for seed in range(60):
        np.random.seed(seed)  # noqa: NPY002
        augmented = T.AugInput(np.zeros((160, 120, 3), dtype=np.uint8))
        jitter(augmented)
        shapes.append(augmented.image.shape[:2])
    heights, widths = np.array(shapes).T
    small = heights < 130
    np.testing.assert_allclose(widths[small], heights[small] * 0.75, atol=0.75)
    assert heights.min() < 40 and heights.max() == widths.max() == 130 and 0.3 < small.mean() < 0.7


def test_order_and_what_is_off_by_default():
    def names(*opts):
        return [type(augmentation).__name__ for augmentation in build_train_augmentations(config(*opts))]

    assert names() == ["ResizeShortestEdge", "RandomFlip"]
    assert names("INPUT.RANDOM_FLIP", "none") == ["ResizeShortestEdge"]
    assert names(*CROP) == ["RandomCrop", "ResizeShortestEdge", "RandomFlip"]
    jittered = ["RandomCrop", "ResizeScale", "FixedSizeCrop", "RandomColor", "RandomFlip"]
    assert names(*CROP, *JITTER, *COLOR) == jittered


@pytest.mark.parametrize("changes", [(0.3, 0, 0), (0, 0.3, 0), (0, 0, 0.3), (0.2, 0.3, 1.0)], ids=str)
def test_colour_is_detectron2s(changes):
    """Theirs in real numbers, rounded at the end, with the same draws."""
    image = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    theirs = (T.RandomBrightness, T.RandomContrast, T.RandomSaturation)
    for seed in range(10):
        np.random.seed(seed)  # noqa: NPY002
        ours = RandomColor(*changes).get_transform(image).apply_image(image)
        np.random.seed(seed)  # noqa: NPY002
        expected = image.astype(np.float64)
        for change, augmentation in zip(changes, theirs, strict=True):
            expected = augmentation(1 - change, 1 + change).get_transform(expected).apply_image(expected)
        assert ours.dtype == np.uint8 and ours.std() > 0
        np.testing.assert_allclose(ours, expected.clip(0, 255), atol=1)


@pytest.mark.parametrize("setting", ["relative range crop", "jitter"])
def test_boxes_are_those_of_cropped_polygons(tmp_path, setting):
    """With masks: two triangles, drawn one in red and one in green."""
    pytest.importorskip("shapely")
    triangles = [[(10, 20), (90, 40), (30, 110)], [(100, 110), (118, 150), (70, 155)]]
    drawing = Image.new("RGB", (120, 160))
    annotations = []
    for category_id, (corners, colour) in enumerate(zip(triangles, ["red", "lime"], strict=True)):
        ImageDraw.Draw(drawing).polygon(corners, fill=colour)
        annotation = {
            **{"bbox": [*np.min(corners, axis=0), *np.max(corners, axis=0)], "bbox_mode": BoxMode.XYXY_ABS},
            **{"category_id": category_id, "segmentation": [np.ravel(corners).astype(np.float32)]},
            "keypoints": np.zeros(3 * DEEPFASHION2.num_class_keypoints(category_id)),
        }
        annotations.append(annotation)
    drawing.save(tmp_path / "drawing.png")
    record = {"file_name": str(tmp_path / "drawing.png"), "width": 120, "height": 160}
    cropping = mapper(config(*SETTINGS[setting]), use_instance_mask=True, recompute_boxes=True)
    counts = []
    for seed in range(30):
        np.random.seed(seed)  # noqa: NPY002
        mapped = cropping({**record, "annotations": annotations})
        seen = mapped["image"].numpy() > 127
        instances = mapped["instances"]
        assert set(instances.gt_classes.tolist()) >= {index for index in (0, 1) if seen[index].sum() > 9}
        for index, box in zip(instances.gt_classes.tolist(), instances.gt_boxes.tensor, strict=True):
            rows, columns = np.nonzero(seen[index])
            if len(rows):  # a tip narrower than a pixel is not seen
                extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(box, extent, atol=4)
        counts.append(len(instances))
    assert {1, 2} <= set(counts)
