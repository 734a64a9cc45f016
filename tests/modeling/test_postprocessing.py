from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from kgdet_d2.config import load_config
from kgdet_d2.geometry.points import make_locations
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.postprocessing import KGDetPostprocessor
from tests.helpers.images import image_input
from tests.helpers.systems import SELECTION

CLASSES, LANDMARKS, SIZES, STRIDES = 3, 2, [(4, 5), (2, 3)], [8, 16]


def make_postprocessor(**changes):
    arguments = {"score_threshold": 0.3, "topk_candidates": 1000, "nms_threshold": 0.5, "max_detections": 100}
    return KGDetPostprocessor(**(arguments | changes))


def random_stage(seed, num_images=1):
    generator = torch.Generator().manual_seed(seed)
    stage = StageOutput(
        *(
            [torch.randn(num_images, channels, *size, generator=generator) for size in SIZES]
            for channels in (CLASSES, 2 * LANDMARKS, 2, 4)
        )
    )
    for level in stage.boxes:  # proper boxes, 1..3 strides wide and high around the cell
        level.copy_(level.abs().clamp(0.5, 1.5) * torch.tensor([-1.0, -1, 1, 1])[:, None, None])
    return stage


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def detect_by_loops(stage, image, size, post):
    """Candidates cell by cell, then greedy suppression in each class."""
    clamp = lambda value, limit: min(max(value, 0.0), float(limit))  # noqa: E731
    candidates = []
    for level, stride in enumerate(STRIDES):
        scores = stage.logits[level][image].sigmoid()
        cells = [(y, x) for y in range(SIZES[level][0]) for x in range(SIZES[level][1])]
        cells.sort(key=lambda cell: -scores[:, cell[0], cell[1]].max().item())
        for y, x in cells[: post.topk_candidates]:
            box = [
                clamp(
                    (stage.boxes[level][image, side, y, x].item() + (x, y)[side % 2]) * stride,
                    size[1 - side % 2],
                )
                for side in range(4)
            ]
            points = [
                [
                    clamp((stage.keypoints[level][image, 2 * k + 1, y, x].item() + x) * stride, size[1]),
                    clamp((stage.keypoints[level][image, 2 * k, y, x].item() + y) * stride, size[0]),
                ]
                for k in range(LANDMARKS)
            ]
            for c in range(CLASSES):
                if scores[c, y, x] > post.score_threshold:
                    candidates.append((scores[c, y, x].item(), c, box, points))
    kept = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate[0]):
        if all(k[1] != candidate[1] or iou(k[2], candidate[2]) <= post.nms_threshold for k in kept):
            kept.append(candidate)
    return kept[: post.max_detections]


@pytest.mark.parametrize(
    "changes", [{}, {"topk_candidates": 4}, {"max_detections": 3}, {"nms_threshold": 0.1}]
)
@pytest.mark.parametrize("seed", range(5))
def test_against_plain_loops(seed, changes):
    post, stage, size = make_postprocessor(**changes), random_stage(seed, num_images=2), (30, 37)
    cells, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    for image, ours in enumerate(post(stage, cells, strides, [size, size])):
        expected = detect_by_loops(stage, image, size, post)
        assert ours.pred_classes.tolist() == [c for _, c, _, _ in expected]
        torch.testing.assert_close(ours.scores, torch.tensor([score for score, *_ in expected]))
        torch.testing.assert_close(ours.pred_boxes.tensor, torch.tensor([box for _, _, box, _ in expected]))
        torch.testing.assert_close(
            ours.pred_keypoints[..., :2], torch.tensor([points for *_, points in expected])
        )
        assert torch.equal(ours.pred_keypoints[..., 2], ours.scores[:, None].expand(-1, LANDMARKS))


def test_nothing_above_the_threshold_gives_empty_instances_with_all_fields():
    stage = random_stage(0)
    for level in stage.logits:
        level.fill_(-10)
    cells, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    (found,) = make_postprocessor()(stage, cells, strides, [(32, 40)])
    assert len(found) == 0
    assert found.pred_keypoints.shape == (0, LANDMARKS, 3) and found.pred_boxes.tensor.shape == (0, 4)


def test_without_landmarks_there_is_no_field_of_them():
    stage, cells = random_stage(0), make_locations(SIZES, STRIDES, torch.device("cpu"))
    (expected,) = make_postprocessor()(stage, *cells, [(32, 40)])
    (found,) = make_postprocessor()(replace(stage, keypoints=None), *cells, [(32, 40)])
    assert found.get_fields().keys() == expected.get_fields().keys() - {"pred_keypoints"}
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)


def test_scores_that_are_nan_are_no_detections():
    stage = random_stage(0)
    for level in stage.logits:
        level.fill_(torch.nan)
    cells, strides = make_locations(SIZES, STRIDES, torch.device("cpu"))
    (found,) = make_postprocessor()(stage, cells, strides, [(32, 40)])
    assert len(found) == 0


LEVELS_345 = ["MODEL.FPN.OUT_FEATURES", "['p3', 'p4', 'p5']"]
ONE_STAGE = ["MODEL.KGDET.NUM_STAGES", "1", "MODEL.KGDET.LOSS.STAGE_WEIGHTS", "[1.0]"]
SYSTEMS = {
    "KGDet": ("kgdet", LEVELS_345),
    "selection": ("kgdet", SELECTION),
    "one stage": ("kgdet", ONE_STAGE),
    "RepPoints": ("reppoints", LEVELS_345),
    "RepPoints-Kp": ("reppoints_kp", []),
    "all cells of KGDet chosen": ("kgdet", [*LEVELS_345, "MODEL.KGDET.SPARSE_CELLS", "100000"]),
    "all cells of selection chosen": ("kgdet", [*SELECTION, "MODEL.KGDET.SPARSE_CELLS", "100000"]),
}


def noisy_model(name, opts):
    """A model whose points lie far from their cells."""
    torch.manual_seed(0)
    cfg = load_config(f"configs/sample/{name}_tiny.yaml", ["MODEL.DEVICE", "cpu", *opts])
    model = build_model(cfg).eval()
    for parameter in model.head.stages.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 1.0)
    return model


def assert_same(found, whole, given):
    """A model's output for a photo is these instances, which are in pixels of the network's input."""
    found = found["instances"]
    assert found.get_fields().keys() == whole.get_fields().keys()
    height, width = given["instances"].image_size
    scale = torch.tensor([given["width"] / width, given["height"] / height])
    whole.pred_boxes.scale(*scale.tolist())
    whole.pred_boxes.clip(found.image_size)
    whole = whole[whole.pred_boxes.nonempty()]
    assert len(found) == len(whole) and found.pred_classes.tolist() == whole.pred_classes.tolist()
    torch.testing.assert_close(found.scores, whole.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, whole.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
    if found.has("pred_keypoints"):
        points = whole.pred_keypoints[..., :2] * scale
        torch.testing.assert_close(found.pred_keypoints[..., :2], points, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_detections_are_those_of_the_whole_head(system, share):
    """Whatever share of the scores is above the threshold, and with few cells of a level looked at."""
    model, inputs = noisy_model(*SYSTEMS[system]), [image_input(96, 64), image_input(64, 160)]
    images = model.preprocess_image(inputs)
    features = model.extract_features(images.tensor)
    stages = model.head(features)
    scores = torch.cat([level.flatten() for level in stages[-1].logits]).sigmoid()
    threshold = scores.quantile(1 - share).item() + 1e-5 if share < 1 else -1.0
    model.postprocessor.score_threshold = threshold
    model.postprocessor.topk_candidates = 30
    expected = model.forward_inference(images, features, stages)
    for found, whole, given in zip(model(inputs), expected, inputs, strict=True):
        assert_same(found, whole, given)
        assert bool(len(whole)) or share == 0


def cells_by_loops(stage, image, size, strides, number):
    """Level, row and column of the cells with the best scores, those in the photo first."""
    cells = []
    for level, stride in enumerate(strides):
        for (y, x), score in np.ndenumerate(stage.logits[level][image].amax(dim=0).numpy()):
            outside = y * stride >= size[0] or x * stride >= size[1]
            cells.append((outside, -score, level, y, x))
    return [cell[2:] for cell in sorted(cells)[:number]]


@pytest.mark.parametrize("number", [1, 7, 30, 90])
@torch.no_grad()
def test_at_chosen_cells_detections_are_those_of_the_whole_head(number):
    """30 are more than the first photo itself has at two levels, 90 more than it has."""
    levels = ["MODEL.FPN.OUT_FEATURES", "['p4', 'p5']"]
    model = noisy_model("kgdet", [*levels, "MODEL.KGDET.SPARSE_CELLS", str(number)])
    model.postprocessor.score_threshold = 0.0
    inputs = [image_input(96, 64), image_input(64, 160)]
    images = model.preprocess_image(inputs)
    features = model.extract_features(images.tensor)
    first, *_, last = model.head(features)
    predicted, last.logits = last.logits, [torch.full_like(level, -torch.inf) for level in last.logits]
    in_padding = 0
    for image, size in enumerate(images.image_sizes):
        for level, y, x in cells_by_loops(first, image, size, model.strides, number):
            last.logits[level][image, :, y, x] = predicted[level][image, :, y, x]
        anywhere = cells_by_loops(first, image, (1000, 1000), model.strides, number)
        in_padding += sum(
            y * model.strides[level] >= size[0] or x * model.strides[level] >= size[1]
            for level, y, x in anywhere
        )
    assert in_padding or number == 1  # where scores alone would choose
    expected = model.forward_inference(images, features, [last])
    for found, whole, given in zip(model(inputs), expected, inputs, strict=True):
        assert len(whole)
        assert_same(found, whole, given)


def test_only_locations_that_may_be_garments_are_selected():
    stage = random_stage(0, num_images=2)
    post = make_postprocessor(topk_candidates=4, score_threshold=0.8)
    for level, (image, row, column) in zip(stage.logits, post.select_locations(stage.logits), strict=True):
        width = level.shape[-1]
        scores = level.sigmoid().amax(dim=1).flatten(1)  # (N, H W)
        expected = [
            (number, best)
            for number in range(2)
            for best in scores[number].argsort(descending=True)[:4].tolist()
            if scores[number, best] > 0.8
        ]
        assert list(zip(image.tolist(), (row * width + column).tolist(), strict=True)) == expected
        assert 0 < len(expected) < 8


def test_a_garment_has_one_name_where_that_is_wanted():
    """Of overlapping detections of whatever class the best stays; the IoUs with it are 0.8, 0.25 and 0."""
    detections = Instances((100, 100))
    detections.pred_boxes = Boxes([[0, 0, 10, 10], [0, 0, 10, 8], [0, 6, 10, 16], [50, 50, 60, 60.0]])
    detections.scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    detections.pred_classes = torch.tensor([0, 1, 2, 0])
    for threshold, kept in ((1.0, [0, 1, 2, 3]), (0.85, [0, 1, 2, 3]), (0.75, [0, 2, 3]), (0.2, [0, 3])):
        postprocessor = make_postprocessor(class_agnostic_nms_threshold=threshold)
        left = postprocessor.suppress_across_classes(detections)
        assert left.scores.tolist() == detections.scores[kept].tolist()
    assert len(postprocessor.suppress_across_classes(detections[:0])) == 0
