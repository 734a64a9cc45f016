"""Checks that Detectron2's dense detectors share: batches of all kinds, and memory formats."""

import torch
from detectron2.utils.events import EventStorage

from tests.helpers.images import image_input, without_keypoints


def box_inputs(batch):
    """Return the inputs of a batch, given as height, width and boxes of each image, without keypoints."""
    return without_keypoints([image_input(*image) for image in batch])


def train_once(model, inputs):
    """Compute losses and gradients; check that all are finite, and return the losses."""
    with EventStorage():
        losses = model(inputs)
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return losses


def detect(model, inputs):
    """Detect at any score; check that the boxes are in the original image, and return the detections."""
    model.eval()
    model.test_score_thresh = 0.0
    with torch.no_grad():
        found = [output["instances"] for output in model(inputs)]
    for instances, given in zip(found, inputs, strict=True):
        height, width = given["height"], given["width"]
        assert instances.image_size == (height, width) and len(instances) > 0
        boxes = instances.pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height, width, height])).all()
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    return found


def check_channels_last_changes_nothing(model):
    """Check detections where the head's output itself is what Detectron2 takes the sigmoid of in place."""
    for name, parameter in model.head.named_parameters():
        torch.nn.init.normal_(parameter, std=0.05 if parameter.dim() > 1 else 0.5)
        if name == "cls_score.bias":
            parameter.data -= 2
    inputs = box_inputs([(96, 64, []), (64, 100, [])])
    expected = detect(model, inputs)
    found = detect(model.to(memory_format=torch.channels_last), inputs)
    again = detect(model, inputs)
    for results in (found, again):
        for ours, theirs in zip(results, expected, strict=True):
            assert torch.equal(ours.pred_classes, theirs.pred_classes)
            torch.testing.assert_close(ours.scores, theirs.scores)
            torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-3, atol=1e-2)
