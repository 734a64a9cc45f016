"""The graph's module, run by PyTorch, against the models themselves; its parts against plain loops."""

import copy

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from kgdet_d2.config import load_config
from kgdet_d2.export.compare import compare_detections
from kgdet_d2.export.detector import candidates_of, suppress
from kgdet_d2.export.exporter import build_detector, rules_of
from kgdet_d2.export.options import ExportOptions
from tests.helpers.opinionated import make_opinionated

SYSTEMS = {
    "kgdet_tiny": [],
    "kgdet_plus_tiny": [],
    "reppoints_tiny": [],
    "reppoints_kp_tiny": [],
    "retinanet_tiny": ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.012"],
    "fcos_tiny": ["MODEL.FCOS.SCORE_THRESH_TEST", "0.05"],
}
# Two photos in one frame, of which one fills neither side; and one.
SIZES = [[(96, 120), (70, 90)], [(64, 64)]]


def random_batch(sizes, seed=0):
    rng = np.random.default_rng(seed)
    height, width = (-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True))
    images = rng.integers(0, 256, (len(sizes), 3, height, width), dtype=np.uint8)
    return images, np.array(sizes)


def run_by(detector):
    def run(images, sizes):
        with torch.no_grad():
            outputs = detector(torch.from_numpy(images), torch.from_numpy(sizes))
        return {name: values.numpy() for name, values in outputs.items()}

    return run


def make(config, opts=(), **options):
    model = make_opinionated(config, *opts)
    cfg = load_config(f"configs/sample/{config}.yaml", list(opts))
    return model, cfg, build_detector(copy.deepcopy(model), cfg, ExportOptions(**options))


@pytest.mark.parametrize("config", SYSTEMS)
def test_it_finds_what_the_model_finds(config):
    model, cfg, detector = make(config, SYSTEMS[config])
    batches = [random_batch(sizes) for sizes in SIZES]
    difference = compare_detections(model, cfg, run_by(detector), batches, rules_of(model))
    assert difference.compared > 8
    assert (difference.unmatched, difference.pixels < 1e-3, difference.score < 1e-5) == (0, True, True), (
        difference
    )


def test_what_is_beside_the_photo_has_no_influence():
    _, _, detector = make("kgdet_tiny")
    images, sizes = random_batch(SIZES[0])
    expected = run_by(detector)(images, sizes)
    images[1, :, 70:] = 255
    images[1, :, :, 90:] = 0
    found = run_by(detector)(images, sizes)
    assert expected["counts"].min() > 0
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert found["keypoints"][1, ..., 0].max() <= 90 and found["keypoints"][1, ..., 1].max() <= 70


@pytest.mark.parametrize("config", ["kgdet_tiny", "kgdet_plus_tiny", "retinanet_tiny"])
def test_rows_after_the_last_detection_are_empty(config):
    _, _, detector = make(config, ["TEST.DETECTIONS_PER_IMAGE", "7"])
    images, sizes = random_batch(SIZES[0])
    detector.selection.rules = detector.selection.rules._replace(score_threshold=1.0)
    found = run_by(detector)(images, sizes)
    assert found["boxes"].shape == (2, detector.selection.rules.max_detections, 4)
    assert not found["counts"].any() and (found.pop("classes") == -1).all()
    assert not any(values.any() for values in found.values())


def test_everywhere_without_selection():
    _, _, detector = make("kgdet_tiny", nms=False)
    found = run_by(detector)(*random_batch(SIZES[0]))
    assert found["scores"].shape == (2, 3 * 4 * 4, 13) or found["scores"].shape[2] == 13
    assert found["boxes"].shape == (*found["scores"].shape[:2], 4)
    assert found["keypoints"].shape == (*found["scores"].shape[:2], 294, 2)


def test_suppression_is_that_of_plain_loops():
    generator = torch.Generator().manual_seed(0)
    boxes = 100 * torch.rand(3, 40, 4, generator=generator) - 30
    boxes[..., 2:] = boxes[..., :2] + 60 * torch.rand(3, 40, 2, generator=generator)
    scores = torch.rand(3, 60, generator=generator)
    classes = torch.randint(0, 3, (3, 60), generator=generator)
    places = torch.randint(0, 40, (3, 60), generator=generator)
    found = suppress(boxes, scores, places, classes, 0.2, 0.4)
    expected = torch.full_like(scores, -1)
    for image in range(3):
        kept = []
        for row in scores[image].argsort(descending=True).tolist():
            own = [other for other in kept if classes[image, other] == classes[image, row]]
            rivals = boxes[image, places[image, own]]
            free = not own or box_iou(boxes[image, places[image, row]][None], rivals).max() <= 0.4
            if scores[image, row] > 0.2 and free:
                kept.append(row)
                expected[image, row] = scores[image, row]
    assert 0 < (expected >= 0).sum() < (scores > 0.2).sum()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("topk", [3, 100])
def test_candidates_of_single_scores(topk):
    levels = [torch.rand(2, 4, 5), torch.rand(2, 6, 5)]
    scores, classes, places = candidates_of(levels, topk, by_location=False)
    assert scores.shape == classes.shape == places.shape == (2, 2 * topk)
    everywhere = torch.cat(levels, dim=1)
    for image in range(2):
        rows = scores[image] >= 0
        found = everywhere[image, places[image, rows], classes[image, rows]]
        torch.testing.assert_close(found, scores[image, rows])
        expected = [level[image].flatten().sort(descending=True).values[:topk] for level in levels]
        torch.testing.assert_close(scores[image, rows], torch.cat(expected))
