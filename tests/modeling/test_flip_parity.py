"""Flip fusion of feature maps against recordings of the released system."""

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import ImageList

from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling import postprocessing as inference
from kgdet_d2.modeling.flip_fusion import FlipFusion, keypoint_flip_map
from kgdet_d2.modeling.losses import KGDetCriterion
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor
from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.release_detections import check_detections, inclusive_nms
from tests.helpers.release_heads import FIELDS, HEADS, LOSSES, STAGES, garments, make_head
from tests.helpers.release_recordings import FULL, each_source, features, load, needs_full

NAME = "head3_p5"


@functools.cache
@torch.no_grad()
def run(permutation):
    """The fused stages and their losses; what is fused are the recording's features and their mirror."""
    columns, strides, sizes = HEADS[NAME]
    recording = load(NAME, "compact")
    cfg, head, _ = make_head(columns)
    maps = [torch.from_numpy(level) for level in features(NAME, recording.facts, sizes)]
    image_sizes, padded = (
        [tuple(recording[f"{kind}_shape_{image}"].tolist()) for image in (0, 1)] for kind in ("img", "pad")
    )
    fusion = FlipFusion(
        on_images=False, in_training=True, flip_map=keypoint_flip_map(DEEPFASHION2, permutation)
    )
    images = ImageList(torch.empty(0), image_sizes)
    stages = fusion(images, maps, head(maps), strides=strides, extract=None, head=head)
    cells = make_locations(sizes, strides, torch.device("cpu"))
    gt = [garments(recording, image) for image in (0, 1)]
    return SimpleNamespace(
        stages=stages,
        losses=KGDetCriterion(cfg)(stages, *cells, padded, gt),
        detect=lambda: KGDetPostprocessor(cfg)(stages[-1], *cells, image_sizes),
    )


@each_source
def test_outputs_of_every_stage(source):
    recording = load(f"{NAME}_flip", source)
    for stage in STAGES:
        for field, ours in FIELDS.items():
            found = getattr(run("released").stages[stage - 1], ours)[0]
            recording.check(f"flip_{field}_{stage}_l0", found, atol=1e-4)
            if field == "kpt":  # its table is not ours
                with pytest.raises(AssertionError):
                    corrected = run("corrected").stages[stage - 1].keypoints[0]
                    recording.check(f"flip_{field}_{stage}_l0", corrected, atol=1)


@each_source
def test_every_loss(source):
    expected = load(NAME, source).facts["flip_losses"]
    for field, ours in LOSSES.items():
        for stage in STAGES:
            total = sum(expected[f"loss_{field}_{stage}"])
            found = run("released").losses[f"loss_{ours}_{stage}"].item()
            assert found == pytest.approx(total, rel=1e-5), (field, stage)


@each_source
def test_detections(source, monkeypatch):
    """With the release's inclusive boxes in the suppression, which ours has not."""
    monkeypatch.setattr(inference, "batched_nms", inclusive_nms)
    recording = load(f"{NAME}_flip", source)
    for image, found in enumerate(run("released").detect()):
        ordered = check_detections(found, recording, "flip_det_", image)
        keypoints = ordered.pred_keypoints.clone()
        keypoints[..., 2] = 1  # the release leaves the score to the box
        recording.check(f"flip_det_kpts_{image}", keypoints, atol=1e-3)


@needs_full
def test_released_permutation():
    constants = json.loads((FULL / "constants.json").read_text())
    assert keypoint_flip_map(DEEPFASHION2, "released").tolist() == constants["flip_keypoint_index"]
