"""KGDet against recorded outputs of the released system: the same weights, the same numbers."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints

from kgdet_d2.config import load_config
from kgdet_d2.geometry.points import make_cells
from kgdet_d2.modeling.release import release_names

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the recordings are not here")

HEADS = {  # recording: columns, levels, options
    "head3_p5": ([9, 25, 49], ["p5"]),
    "head3_p567": ([9, 25, 49], ["p5", "p6", "p7"]),
    "head1_n9_p5": ([9], ["p5"]),
}
LOSSES = {"cls": "cls", "bbox": "box", "kpt": "keypoint"}


def make_model(columns, levels):
    """The full neck, with the release's weights as the recording made them from their names."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.FPN.FULL", True, "MODEL.FPN.OUT_FEATURES", levels]
    model = build_model(load_config("configs/kgdet_R50.yaml", [*opts, "MODEL.KGDET.COLUMNS", columns]))
    spec = importlib.util.spec_from_file_location("fill", FIXTURES / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    names = release_names(depth=50, columns=columns, num_stages=3)
    state = model.state_dict()
    assert {ours for ours in names.values() if ours} == set(state)
    model.load_state_dict(
        {
            ours: torch.from_numpy(fill.value(theirs, state[ours].shape))
            for theirs, ours in names.items()
            if ours
        }
    )
    return model.train(), {ours: theirs for theirs, ours in names.items()}


def load(name):
    arrays = np.load(FIXTURES / f"{name}.npz")
    recorded = json.loads((FIXTURES / f"{name}.json").read_text())
    return SimpleNamespace(arrays=arrays, **recorded)


def garments(arrays, image):
    instances = Instances(tuple(arrays[f"img_shape_{image}"].tolist()))
    instances.gt_boxes = Boxes(torch.from_numpy(arrays[f"gt_boxes_{image}"]))
    instances.gt_classes = torch.from_numpy(arrays[f"gt_labels_{image}"]) - 1
    instances.gt_keypoints = Keypoints(torch.from_numpy(arrays[f"gt_kpts_{image}"]))
    return instances


def check_outputs(stages, arrays):
    for key in (key for key in arrays.files if key.startswith("out_")):
        _, field, stage, level = key.split("_")
        ours = {"cls": "logits", "kpt": "keypoints", "bbox": "boxes"}[field]
        found = getattr(stages[int(stage) - 1], ours)[int(level[1:])]
        np.testing.assert_allclose(found.detach(), arrays[key], rtol=0, atol=1e-4, err_msg=key)


def check_losses_and_gradients(model, losses, recording, theirs_of, *, backbone_tolerance=1e-4):
    for key, values in recording.losses.items():
        _, field, stage = key.split("_")
        assert losses[f"loss_{LOSSES[field]}_{stage}"].item() == pytest.approx(sum(values), rel=1e-5), key
    sum(losses.values()).backward()
    checked = 0
    for name, parameter in model.named_parameters():
        expected = recording.grad.get(theirs_of[name])
        if isinstance(expected, dict):
            rel = backbone_tolerance if name.startswith("backbone.bottom_up") else 1e-4
            assert parameter.grad.double().norm().item() == pytest.approx(expected["l2"], rel=rel), name
            checked += 1
        elif expected is not None:  # "frozen", or reaching no output
            assert parameter.grad is None, name
    assert checked == sum(isinstance(expected, dict) for expected in recording.grad.values())


def check_detections(found, arrays, image, prefix):
    boxes, labels = arrays[f"{prefix}_boxes_{image}"], arrays[f"{prefix}_labels_{image}"]
    order = np.lexsort((boxes[:, 0], -boxes[:, 4]))
    ours = np.lexsort((found.pred_boxes.tensor[:, 0].numpy(), -found.scores.numpy()))
    assert len(found) == len(boxes)
    np.testing.assert_array_equal(found.pred_classes.numpy()[ours], labels[order])
    np.testing.assert_allclose(found.pred_boxes.tensor.numpy()[ours], boxes[order, :4], rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.scores.numpy()[ours], boxes[order, 4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_head_with_losses_gradients_and_detections(name):
    recording = load(name)
    arrays = recording.arrays
    columns, levels = HEADS[name]
    model, theirs_of = make_model(columns, levels)
    model.criterion.num_positives = recording.pos_num
    features = [torch.from_numpy(arrays[f"feat_l{i}"]).requires_grad_() for i in range(len(levels))]
    stages = model.head(features)
    check_outputs(stages, arrays)

    cells, strides = make_cells(
        [tuple(level.shape[-2:]) for level in features], model.strides, torch.device("cpu")
    )
    padded = [tuple(arrays[f"pad_shape_{image}"].tolist()) for image in range(2)]
    gt = [garments(arrays, image) for image in range(2)]
    targets = model.criterion.targets(cells, strides, padded, gt)
    for image in range(2):
        expected = arrays[f"assign_gt_inds_{image}"]  # -1 ignored, 0 background, g from 1
        np.testing.assert_array_equal(targets.matched[image] + 1, expected)
    losses = model.criterion(stages, cells, strides, padded, gt)
    head_only = {name: p for name, p in model.named_parameters() if name.startswith("head.")}
    check_losses_and_gradients(
        SimpleNamespace(named_parameters=head_only.items), losses, recording, theirs_of
    )
    for level, feature in enumerate(features):
        np.testing.assert_allclose(feature.grad, arrays[f"grad_feat_l{level}"], rtol=0, atol=1e-6)

    sizes = [tuple(arrays[f"img_shape_{image}"].tolist()) for image in range(2)]
    with torch.no_grad():
        for image, found in enumerate(model.postprocessor(stages[-1], cells, strides, sizes)):
            check_detections(found, arrays, image, "det_plainiou")


def test_whole_model_from_image_to_gradients():
    """In double precision: in single, a ReLU whose input is all but zero decides either way, and the
    gradients of the backbone wander by 2e-3. The recording itself is single precision."""
    recording = load("model_p5")
    arrays = recording.arrays
    model, theirs_of = make_model([9, 25, 49], ["p5"])
    model = model.double()
    features = model.backbone(torch.from_numpy(arrays["img"]).double())
    np.testing.assert_allclose(features["p5"].detach(), arrays["P5"], rtol=0, atol=1e-4)
    stages = model.head([features["p5"]])
    check_outputs(stages, arrays)
    cells, strides = make_cells([tuple(features["p5"].shape[-2:])], model.strides, torch.device("cpu"))
    padded = [tuple(arrays[f"pad_shape_{image}"].tolist()) for image in range(2)]
    losses = model.criterion(stages, cells, strides, padded, [garments(arrays, image) for image in range(2)])
    check_losses_and_gradients(model, losses, recording, theirs_of, backbone_tolerance=1e-3)
