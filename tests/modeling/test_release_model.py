"""The whole model, from a released checkpoint and photos, against recordings of the released system.

The recorded photos are real ones, so that there is no sample of these recordings in the project.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from kgdet_d2.checkpoint.convert import from_release, model_shapes
from kgdet_d2.checkpoint.mmdet import mmdet_key_map
from kgdet_d2.config import load_config
from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling import postprocessing as inference
from tests.helpers.release_detections import check_detections, inclusive_nms
from tests.helpers.release_heads import FIELDS, LOSSES, garments
from tests.helpers.release_recordings import load, needs_full, weight

pytestmark = needs_full
CONFIG = "configs/kgdet_R50.yaml"
NAMES = mmdet_key_map(depth=50, columns=[9, 25, 49], num_stages=3)
IMAGES = (0, 1)


@functools.cache
def converted():
    """Convert a released checkpoint with the recording's weights by the tool."""
    shapes = model_shapes(CONFIG, {})
    state = {name: torch.from_numpy(weight(name, shapes.get(ours, ()))) for name, ours in NAMES.items()}
    checkpoint, changes = from_release({"state_dict": state}, CONFIG, {})
    assert not changes
    return checkpoint["model"]


@functools.cache
def run():
    """Run the batch forward and backward through the full neck, once for all tests.

    In double precision: in single, a ReLU whose input is all but zero decides either way, and the gradients
    of the backbone wander by 2e-3. The recording itself is single precision.
    """
    recording = load("model_p5", "full")
    model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.FPN.FULL", True]))
    model.load_state_dict(converted())
    model = model.double().train()
    image = torch.from_numpy(recording["img"]).double()
    maps = []
    for stage in model.backbone.bottom_up.stages:
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output.detach()))
    p5 = model.backbone(image)["p5"]
    stages = model.head([p5])
    cells = make_locations([tuple(p5.shape[-2:])], model.strides, torch.device("cpu"))
    padded = [tuple(recording[f"pad_shape_{i}"].tolist()) for i in IMAGES]
    losses = model.criterion(stages, *cells, padded, [garments(recording, i) for i in IMAGES])
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return SimpleNamespace(
        recording=recording,
        res=maps,
        p5=p5.detach(),
        stages=stages,
        cells=cells,
        losses={name: loss.item() for name, loss in losses.items()},
        gradients={theirs: gradients.get(ours) for theirs, ours in NAMES.items()},
        postprocessor=model.postprocessor,
    )


def test_features_of_backbone_and_neck():
    ours = run()
    for level, found in enumerate(ours.res, start=2):
        facts = ours.recording.facts[f"C{level}"]
        assert list(found.shape) == facts["shape"]
        assert found.mean().item() == pytest.approx(facts["mean"], rel=1e-5)
        assert found.norm().item() == pytest.approx(facts["l2"], rel=1e-5)
        assert found.abs().max().item() == pytest.approx(facts["absmax"], rel=1e-5)
        sample = found[:, ::4] if level == 5 else found[:, ::16, ::4, ::4]
        ours.recording.check(f"C{level}_sub", sample, atol=1e-4)
    ours.recording.check("P5", ours.p5, atol=1e-4)


def test_outputs_and_losses():
    ours = run()
    for field, attribute in FIELDS.items():
        for stage in (1, 3):
            found = getattr(ours.stages[stage - 1], attribute)[0].detach()
            ours.recording.check(f"out_{field}_{stage}_l0", found, atol=1e-4)
        for stage in (1, 2, 3):
            expected = sum(ours.recording.facts["losses"][f"loss_{field}_{stage}"])
            assert ours.losses[f"loss_{LOSSES[field]}_{stage}"] == pytest.approx(expected, rel=1e-5)


def test_gradients_of_every_parameter():
    """What is frozen, or reaches no output, gets none here either."""
    ours, expected = run(), run().recording.facts["grad"]
    learned = {name: gradient for name, gradient in ours.gradients.items() if gradient is not None}
    assert learned.keys() == {name for name, facts in expected.items() if isinstance(facts, dict)}
    for name, gradient in learned.items():
        tolerance = 1e-3 if name.startswith("backbone.") else 1e-4
        assert gradient.norm().item() == pytest.approx(expected[name]["l2"], rel=tolerance), name
    total = torch.stack([gradient.norm() for gradient in learned.values()]).norm().item()
    assert total == pytest.approx(ours.recording.facts["grad_total_l2"], rel=1e-4)


@pytest.mark.parametrize("prefix", ["det_", "det_rescaled_"])
@pytest.mark.parametrize("image", IMAGES)
def test_detections_of_the_batch(image, prefix, monkeypatch):
    """With the release's "+ 1" on the sides of boxes when they are suppressed, in input or photo pixels."""
    ours = run()
    scale = float(ours.recording[f"scale_factor_{image}"]) if prefix == "det_rescaled_" else 1.0
    monkeypatch.setattr(inference, "batched_nms", lambda boxes, *rest: inclusive_nms(boxes / scale, *rest))
    sizes = [tuple(ours.recording[f"img_shape_{i}"].tolist()) for i in IMAGES]
    with torch.no_grad():
        found = ours.postprocessor(ours.stages[-1], *ours.cells, sizes)[image]
    in_order = check_detections(found, ours.recording, prefix, image, scale=scale)
    if prefix == "det_":
        keypoints = in_order.pred_keypoints.numpy()
        expected = ours.recording[f"det_kpts_{image}"]
        np.testing.assert_allclose(keypoints[..., :2], expected[..., :2], rtol=0, atol=1e-3)


@pytest.mark.parametrize("image", IMAGES)
def test_detections_of_a_photo(image, monkeypatch):
    """One photo's pixels in, garments out, through the model as configs/kgdet_R50.yaml builds it.

    Boxes are suppressed as in the release, in pixels of the photo before it was resized.
    """
    recording = load("model_p5", "full")
    model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu"])).eval()
    assert not model.load_state_dict(converted(), strict=False).missing_keys
    height, width = recording[f"img_shape_{image}"].tolist()
    normalised = torch.from_numpy(recording["img"][image, :, :height, :width])
    pixels = (normalised * model.pixel_std + model.pixel_mean).round().to(torch.uint8)
    scale = float(recording[f"scale_factor_{image}"])
    monkeypatch.setattr(inference, "batched_nms", lambda boxes, *rest: inclusive_nms(boxes / scale, *rest))
    with torch.no_grad():
        (output,) = model([{"image": pixels, "height": height, "width": width}])
    simple = {f"det_{field}_0": recording[f"simple_{image}_{field}"] for field in ("boxes", "labels", "kpts")}
    in_order = check_detections(output["instances"], simple, "det_", 0, scale=scale)
    expected = simple["det_kpts_0"].reshape(-1, 294, 3)[..., :2] * scale
    np.testing.assert_allclose(in_order.pred_keypoints[..., :2], expected, rtol=0, atol=1e-3)
