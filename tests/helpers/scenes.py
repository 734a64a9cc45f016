"""Random data sets and random predictions on them, for the tests of kgdet_d2.evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from kgdet_d2.schema import DEEPFASHION2, KeypointSchema

WIDTH, HEIGHT = 320, 240


@dataclass
class Scene:
    """Dataset dicts and the model's output for each of them."""

    schema: KeypointSchema
    records: list[dict]
    outputs: list[Instances]


@pytest.fixture
def make_annotation() -> Callable[..., dict]:
    return random_annotation


@pytest.fixture
def make_instances() -> Callable[..., Instances]:
    return instances


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    return random_scene


def random_annotation(
    rng: np.random.Generator, class_index: int, schema: KeypointSchema = DEEPFASHION2, **replaced
) -> dict:
    """A box of 8 to 250 pixels with landmarks in and around it, v random; keywords replace what is random.

    Coordinates are numbers that float32 holds exactly, as those of annotation files are.
    """
    size = rng.uniform(8, 250, 2)
    corner = rng.uniform(0, np.maximum((WIDTH, HEIGHT) - size, 1))
    count = schema.num_class_keypoints(class_index)
    points = np.clip(corner + size * rng.uniform(-0.1, 1.1, (count, 2)), -30, (WIDTH + 30, HEIGHT + 30))
    keypoints = np.c_[points, rng.integers(0, 3, count)]
    keypoints[keypoints[:, 2] == 0] = 0
    keypoints = keypoints.astype(np.float32).astype(np.float64)
    random = {
        "bbox": np.float32([*corner, *(corner + size)]).tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": class_index,
        "keypoints": keypoints.ravel(),
        "iscrowd": 0,
    }
    return random | replaced


def instances(boxes, scores, classes, keypoints, schema: KeypointSchema = DEEPFASHION2) -> Instances:
    """Float32 Instances of n detections; keypoints (n, K, 2), their score is the detection's."""
    scores = torch.tensor(np.array(scores), dtype=torch.float32)
    keypoints = torch.tensor(np.array(keypoints), dtype=torch.float32).reshape(-1, schema.num_keypoints, 2)
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4)),
        scores=scores,
        pred_classes=torch.tensor(np.array(classes), dtype=torch.int64),
        pred_keypoints=torch.cat([keypoints, scores[:, None, None].expand(*keypoints.shape[:2], 1)], dim=2),
    )


def random_scene(
    rng: np.random.Generator,
    schema: KeypointSchema = DEEPFASHION2,
    *,
    images: int = 10,
    classes: Sequence[int] | None = None,
    most_garments: int = 4,
    most_false: int = 10,
    score_levels: int = 0,
    crowds: float = 0.0,
) -> Scene:
    """Up to ``most_garments`` a photo, a third of them without landmarks or with occluded ones only, each
    found up to three times more or less exactly, and up to ``most_false`` detections that find nothing;
    all K landmarks of every detection are filled. Image ids in random order, with gaps.

    Args:
        classes: what occurs; by default every class.
        score_levels: how many different scores there are, so that some tie; 0: all differ.
        crowds: the share of garments with iscrowd.
    """
    classes = range(schema.num_classes) if classes is None else classes
    records, outputs = [], []
    for image_id in rng.permutation(10 * images)[:images].tolist():
        annotations = []
        for class_index in rng.choice(classes, rng.integers(most_garments + 1)).tolist():
            annotation = random_annotation(rng, class_index, schema, iscrowd=int(rng.random() < crowds))
            visibility = annotation["keypoints"][2::3]
            visibility[:] = np.minimum(visibility, rng.choice([0, 1, 2, 2, 2, 2]))
            annotations.append(annotation)
        records.append(
            {
                "file_name": f"{image_id:06d}.jpg",
                "image_id": image_id,
                "width": WIDTH,
                "height": HEIGHT,
                "annotations": annotations,
            }
        )
        outputs.append(_random_output(rng, schema, annotations, classes, most_false, score_levels))
    return Scene(schema, records, outputs)


def _random_output(rng, schema, annotations, classes, most_false, score_levels) -> Instances:
    boxes, found, keypoints = [], [], []
    for annotation in annotations:
        class_index, box = annotation["category_id"], np.array(annotation["bbox"])
        own = np.reshape(annotation["keypoints"], (-1, 3))[:, :2]
        for _ in range(rng.integers(4)):
            error = rng.choice([0, 1, 5, 20])
            everywhere = rng.uniform(box[:2] - 30, box[2:] + 30, (schema.num_keypoints, 2))
            everywhere[list(schema.slots[class_index])] = own + rng.normal(0, error / 3, own.shape)
            boxes.append(np.sort((box + rng.normal(0, error, 4)).reshape(2, 2), axis=0).ravel())
            found.append(class_index)
            keypoints.append(everywhere)
    for class_index in rng.choice(classes, rng.integers(most_false + 1)).tolist():
        boxes.append(np.sort(rng.uniform(0, HEIGHT, (2, 2)), axis=0).ravel())
        found.append(class_index)
        keypoints.append(rng.uniform(0, HEIGHT, (schema.num_keypoints, 2)))
    scores = rng.integers(1, score_levels + 1, len(found)) / 8 if score_levels else rng.random(len(found))
    return instances(boxes, scores, found, keypoints, schema)
