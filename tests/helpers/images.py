"""Inputs of a network as the mapper makes them: images with garments, and batches of every kind."""

import pytest
import torch
from detectron2.structures import Boxes, Instances, Keypoints

# Images as height, width and boxes.
BATCHES = {
    "two": [(96, 64, [[5, 5, 60, 90]]), (64, 100, [[0, 0, 99, 60], [20, 10, 60, 40]])],
    "no garments": [(64, 64, []), (64, 64, [])],
    "half without": [(64, 96, []), (64, 64, [[1, 1, 60, 60]])],
    "one cell": [(32, 32, [[0, 0, 30, 30]]), (32, 32, [])],
    "larger than the photo": [(64, 64, [[-500, -500, 900, 900]])],
    "thirty": [(64, 64, [[i, i, i + 30, i + 30] for i in range(30)])],
}


def pair_with_batches(settings):
    """Return (setting, batch) for pytest: every setting with the batch "two", the last with all others."""
    pairs = [pytest.param(setting, BATCHES["two"], id=f"{setting}-two") for setting in settings]
    last = list(settings)[-1]
    for name, batch in BATCHES.items():
        if name != "two":
            pairs.append(pytest.param(last, batch, id=f"{last}-{name}"))
    return pairs


def image_input(height, width, boxes=(), labelled=20):
    """Return a model's input: random pixels, and garments of class 0 with so many labelled keypoints."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    keypoints = torch.zeros(len(boxes), 294, 3)
    keypoints[:, :labelled] = torch.tensor([40.0, 50.0, 2.0])
    instances.gt_keypoints = Keypoints(keypoints)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": 2 * height, "width": 3 * width, "instances": instances}


def without_keypoints(inputs):
    """Remove the keypoints of some inputs in place, and return these."""
    for image in inputs:
        image["instances"].remove("gt_keypoints")
    return inputs
