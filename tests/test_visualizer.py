"""What FashionVisualizer puts on a photo, read off the pixels."""

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, BoxMode, Instances

from kgdet_d2.schema import DEEPFASHION2 as SCHEMA
from kgdet_d2.visualizer import LONG_SIDE, PARTS, FashionVisualizer

METADATA = Metadata(keypoint_schema=SCHEMA, thing_classes=list(SCHEMA.class_names))
SKIRT = SCHEMA.class_names.index("skirt")
SKIRT_SLOTS = list(SCHEMA.slots[SKIRT])
BOX = (200, 300, 600, 700)
# waist left, centre, right; left side, left hem, hem centre, right hem, right side
LANDMARKS = np.array(
    [[280, 340], [400, 330], [520, 340], [250, 500], [220, 650], [400, 670], [580, 650], [550, 500]], float
)
SIDE = 800


def grey_photo(height=SIDE, width=SIDE):
    return np.full((height, width, 3), 128, np.uint8)


def record(visibility, keypoints=LANDMARKS, **changes):
    keypoints = np.concatenate([keypoints, np.reshape(visibility, (-1, 1))], axis=1)
    annotation = {
        "bbox": list(BOX),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": SKIRT,
        "keypoints": keypoints.ravel().tolist(),
    }
    return {"annotations": [annotation | changes]}


def predictions(count=1, scores=(0.9,), **fields):
    keypoints = torch.zeros(count, SCHEMA.num_keypoints, 3)
    keypoints[:, SKIRT_SLOTS, :2] = torch.tensor(LANDMARKS, dtype=torch.float32)
    instances = Instances((SIDE, SIDE))
    instances.pred_boxes = Boxes(torch.tensor([BOX] * count, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores[:count])
    instances.pred_classes = torch.full((count,), SKIRT)
    instances.pred_keypoints = keypoints
    for name, value in fields.items():
        instances.set(name, value)
    return instances


def draw_truth(dataset_dict, photo=None, **options):
    photo = grey_photo() if photo is None else photo
    return FashionVisualizer(photo, METADATA, **options).draw_dataset_dict(dataset_dict).get_image()


def draw_predictions(instances, photo=None, **options):
    photo = grey_photo() if photo is None else photo
    return FashionVisualizer(photo, METADATA, **options).draw_instance_predictions(instances).get_image()


def pixel(image, x, y):
    return image[int(y), int(x)].tolist()


def midpoint(a, b):
    return LANDMARKS[[a, b]].mean(axis=0)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((1000, 800), None, (1000, 800)),
        ((128, 256), None, (LONG_SIDE // 2, LONG_SIDE)),
        ((200, 300), 2.0, (400, 600)),
        ((200, 300), 1.0, (200, 300)),
    ],
)
def test_size(size, scale, expected):
    image = draw_truth(record([2] * 8), grey_photo(*size), scale=scale)
    assert image.shape == (*expected, 3)
    assert image.dtype == np.uint8


def test_other_classes_slots_are_not_drawn():
    plain, changed, own = predictions(), predictions(), predictions()
    others = np.setdiff1d(np.arange(SCHEMA.num_keypoints), SKIRT_SLOTS)
    changed.pred_keypoints[:, others, :2] = torch.rand(1, len(others), 2) * SIDE
    own.pred_keypoints[:, SKIRT_SLOTS[3], 0] += 50
    image = draw_predictions(plain)
    assert np.array_equal(image, draw_predictions(changed))
    assert not np.array_equal(image, draw_predictions(own))


def test_a_prediction_has_all_landmarks_of_its_class_whatever_their_scores():
    image = draw_predictions(predictions())
    for x, y in LANDMARKS:
        assert pixel(image, x, y) != [128] * 3


def test_visible_is_filled_occluded_is_hollow_unlabelled_is_absent():
    image = draw_truth(record([2, 2, 2, 2, 2, 1, 0, 2]))
    filled = pixel(image, *LANDMARKS[3])
    assert max(filled) - min(filled) > 100
    assert filled == pixel(image, *LANDMARKS[7])
    x, y = LANDMARKS[5]
    around = image[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7].reshape(-1, 3)
    assert pixel(image, x, y) != filled
    assert (np.abs(around.astype(int) - filled).max(axis=1) < 40).any()  # the rim
    assert pixel(image, *LANDMARKS[6]) == [128] * 3


def test_edges_join_drawn_landmarks_of_the_skeleton_only():
    image = draw_truth(record([2, 2, 0, 2, 1, 2, 2, 2]))
    joined, across, half = midpoint(3, 4), midpoint(3, 7), midpoint(1, 2)
    assert pixel(image, *joined) != [128] * 3  # side to hem, one of them occluded
    assert pixel(image, *across) == [128] * 3  # not in the skeleton
    assert pixel(image, *half) == [128] * 3  # one end is unlabelled


def test_unlabelled_coordinates_do_not_matter():
    moved = LANDMARKS.copy()
    moved[2] = 0
    visibility = [2, 2, 0, 2, 2, 2, 2, 2]
    assert np.array_equal(draw_truth(record(visibility)), draw_truth(record(visibility, moved)))


def test_no_garments():
    assert np.array_equal(draw_predictions(predictions(count=0)), grey_photo())
    assert np.array_equal(draw_truth({"annotations": []}), grey_photo())
    assert np.array_equal(draw_truth({}), grey_photo())


def test_without_keypoints_box_and_label_are_drawn():
    instances = predictions()
    instances.remove("pred_keypoints")
    truth = record([2] * 8)
    del truth["annotations"][0]["keypoints"]
    for image in (draw_predictions(instances), draw_truth(truth)):
        assert pixel(image, 400, 700) != [128] * 3  # the box's lower edge
        assert pixel(image, *LANDMARKS[5]) == [128] * 3


@pytest.mark.parametrize("part", PARTS)
def test_one_part_alone(part):
    """The box's lower edge, a landmark, and the label, at a corner of the box far from landmarks."""
    image = draw_predictions(predictions(), parts=[part])
    drawn = {
        "boxes": pixel(image, 400, 700) != [128] * 3,
        "landmarks": pixel(image, *LANDMARKS[5]) != [128] * 3,
        "names": (image[270:330, 202:300] != 128).mean() > 0.1,
    }
    assert [name for name, is_drawn in drawn.items() if is_drawn] == [part]
    assert np.array_equal(draw_predictions(predictions(), parts=[]), grey_photo())


def test_score_threshold():
    two = predictions(count=2, scores=(0.9, 0.2))
    one = predictions(count=1)
    assert np.array_equal(draw_predictions(two, score_threshold=0.5), draw_predictions(one))
    assert not np.array_equal(draw_predictions(two), draw_predictions(one))


def test_classes_have_colours_of_their_own():
    colours = set()
    for class_index in range(SCHEMA.num_classes):
        garment = predictions(pred_classes=torch.tensor([class_index]))
        garment.pred_keypoints[:] = 400
        colours.add(tuple(pixel(draw_predictions(garment), 400, 400)))
    assert len(colours) == SCHEMA.num_classes


def test_labels_stay_in_the_photo_and_apart():
    visualizer = FashionVisualizer(grey_photo(), METADATA)
    everywhere = predictions(count=3, scores=(0.9, 0.8, 0.7))
    everywhere.pred_boxes = Boxes(torch.tensor([[0.0, 0, 800, 800]] * 3))
    visualizer.draw_instance_predictions(everywhere)
    renderer = visualizer.output.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in visualizer.output.ax.texts]
    assert [text.get_text() for text in visualizer.output.ax.texts] == ["skirt 90%", "skirt 80%", "skirt 70%"]
    for index, extent in enumerate(extents):
        assert min(extent.x0, extent.y0) >= 0
        assert max(extent.x1, extent.y1) <= SIDE
        assert not any(extent.overlaps(other) for other in extents[:index])


def test_garments_beyond_the_frame():
    instances = predictions()
    instances.pred_keypoints += 5000
    assert draw_predictions(instances).shape == (SIDE, SIDE, 3)


def test_ink_grows_with_the_photo():
    """The same garment on a photo twice as large covers about the same share of it."""
    shares = []
    for factor in (1, 2):
        truth = record([2] * 8, LANDMARKS * factor, bbox=[factor * value for value in BOX])
        image = draw_truth(truth, grey_photo(SIDE * factor, SIDE * factor))
        shares.append((image != 128).any(axis=2).mean())
    assert shares[1] == pytest.approx(shares[0], rel=0.15)


def test_inputs_are_left_alone():
    instances, photo = predictions(), grey_photo()
    before = instances.pred_keypoints.clone()
    draw_predictions(instances, photo)
    assert torch.equal(instances.pred_keypoints, before)
    assert np.array_equal(photo, grey_photo())
