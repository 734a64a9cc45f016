"""The graph that is exported: from a batch's pixels to its detections.

N images, L places of all levels, C classes, D detections of an image at most, m keypoints of the class that
has most, M candidates of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from kgdet_d2.export.dense import DensePredictions
from kgdet_d2.modeling.heads.keypoint_refiner import Garments, KeypointRefiner
from kgdet_d2.modeling.refinement import score_refined

NO_DETECTION = -1  # class of the rows that follow an image's detections


class Normalize(nn.Module):
    """From RGB pixels of photos in a common frame to what a network was trained on.

    Args:
        reverses: the network takes BGR.
        mean, std: of each channel, in the network's order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, reverses: bool, mean: Tensor, std: Tensor):
        super().__init__()
        self.reverses = reverses
        self.register_buffer("mean", mean.float().view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.float().view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalise images uint8 (N, 3, H, W); what is not of the photo, sizes (N, 2), becomes 0."""
        pixels = images.float()
        if self.reverses:
            red, green, blue = pixels.unbind(dim=1)
            pixels = torch.stack([blue, green, red], dim=1)
        height, width = images.shape[-2:]
        rows = torch.arange(height) < sizes[:, :1]  # (N, H)
        columns = torch.arange(width) < sizes[:, 1:]  # (N, W)
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return (pixels - self.mean) / self.std * inside


class Rules(NamedTuple):
    """How detections are selected of what is predicted everywhere.

    Attributes:
        score_threshold: detections score above it.
        topk: candidates of a level: locations by the best of their classes, or scores of anchors.
        nms_threshold: of two boxes of one class with a greater IoU the one with the lower score goes.
        max_detections: D.
        class_agnostic_threshold: the same as ``nms_threshold`` for boxes of any classes; 1 for none.
        by_location: candidates are all classes of the best locations, and boxes are clamped to the image
            before suppression (KGDet, RepPoints); else single scores, clamped after it (Detectron2).
    """

    score_threshold: float
    topk: int
    nms_threshold: float
    max_detections: int
    class_agnostic_threshold: float
    by_location: bool


class Found(NamedTuple):
    """Rows of detections, those that count first: (N, D), boxes (N, D, 4); scores of the others are -1."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    places: Tensor


class Selection(nn.Module):
    """Top-k, suppression and, where there is one, the refiner.

    Args:
        rules: of the model.
        slots: (C, m) of each class's keypoints in its order, then -1.
        refiner: None for none.
    """

    slots: Tensor

    def __init__(self, rules: Rules, slots: Tensor, refiner: KeypointRefiner | None = None):
        super().__init__()
        self.rules = rules
        self.refiner = refiner
        self.register_buffer("slots", slots, persistent=False)

    def forward(self, dense: DensePredictions, sizes: Tensor) -> dict[str, Tensor]:
        """Select the detections of each image.

        Args:
            dense: predictions at all places.
            sizes: (N, 2) height and width of the photos.

        Returns:
            The outputs that ``docs/EXPORT.md`` lists.
        """
        height_width = sizes.to(dense.boxes)
        frame = height_width.flip(1).repeat(1, 2)[:, None]  # (N, 1, 4)
        found = self._suppress(dense, frame)
        outputs: dict[str, Tensor] = {}
        if dense.keypoints is not None:
            points, absent = self._own_keypoints(dense.keypoints, found)
            points = points.clamp(min=0).minimum(frame[..., None, :2])
            together = None
            similarity = (~absent).to(points)
            if self.refiner is not None and dense.fine is not None:
                found, points, similarity, together = self._refine(dense.fine, found, points, absent, frame)
            keypoints = torch.cat([points, (found.scores[..., None] * similarity)[..., None]], dim=-1)
            outputs["keypoints"] = keypoints.masked_fill(absent[..., None], 0)
            if together is not None:
                outputs["keypoint_scores"] = together
        outputs = {"boxes": found.boxes, "scores": found.scores, "classes": found.classes, **outputs}
        return self._pack(outputs)

    def _suppress(self, dense: DensePredictions, frame: Tensor) -> Found:
        rules = self.rules
        scores, classes, places = candidates_of(dense.scores, rules.topk, rules.by_location)  # (N, M)
        boxes = dense.boxes
        if rules.by_location:
            boxes = boxes.clamp(min=0).minimum(frame)
        kept = suppress(boxes, scores, places, classes, rules.score_threshold, rules.nms_threshold)
        scores, rows = kept.topk(rules.max_detections)  # (N, D)
        classes, places = classes.gather(1, rows), places.gather(1, rows)
        boxes = boxes.gather(1, places[..., None].expand(-1, -1, 4))
        return Found(boxes.clamp(min=0).minimum(frame), scores, classes, places)

    def _own_keypoints(self, keypoints: Tensor, found: Found) -> tuple[Tensor, Tensor]:
        """Return the keypoints (N, D, m, 2) of each detection's class, and which (N, D, m) it lacks."""
        slots = self.slots[found.classes]  # (N, D, m)
        image = torch.arange(keypoints.shape[0])[:, None, None]
        points = keypoints[image, found.places[..., None], slots.clamp(min=0)]
        return points.masked_fill(slots[..., None] < 0, 0), slots < 0

    def _refine(
        self, fine: Tensor, found: Found, points: Tensor, absent: Tensor, frame: Tensor
    ) -> tuple[Found, Tensor, Tensor, Tensor | None]:
        """Return refined detections and keypoints, their similarity (N, D, m), and the keypoint scores."""
        batch = found.scores.shape
        image = torch.arange(batch[0])[:, None].expand(batch).flatten()
        flat = Garments(image, found.classes.flatten(), found.boxes.flatten(0, 1), points.flatten(0, 1))
        assert self.refiner is not None
        outcome = self.refiner(fine, flat)[-1]
        scores = found.scores.flatten()
        new_scores, similarity, together = score_refined(outcome, scores.clamp(min=0), ~absent.flatten(0, 1))
        boxes = found.boxes if outcome.boxes is None else outcome.boxes.unflatten(0, batch)
        found = found._replace(
            boxes=boxes.clamp(min=0).minimum(frame),
            scores=new_scores.where(scores >= 0, -1).view(batch),
        )
        points = outcome.keypoints.unflatten(0, batch).clamp(min=0).minimum(frame[..., None, :2])
        return found, points, similarity.view_as(absent), None if together is None else together.view(batch)

    def _pack(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put each image's detections first, by score, and count them; what follows is 0, its class -1."""
        boxes, scores = rows["boxes"], rows["scores"]
        if self.rules.class_agnostic_threshold < 1:
            places = torch.arange(scores.shape[1]).expand_as(scores)
            threshold = self.rules.class_agnostic_threshold
            scores = suppress(boxes, scores, places, torch.zeros_like(places), -0.5, threshold)
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        order = scores.masked_fill(~has_area, -1).topk(scores.shape[1])
        counts = (order.values >= 0).sum(dim=1)  # (N,)
        missing = order.values < 0
        packed = {}
        for name, values in rows.items():
            index = order.indices.view(*order.indices.shape, *[1] * (values.ndim - 2)).expand_as(values)
            fill = NO_DETECTION if name == "classes" else 0
            mask = missing.view(*missing.shape, *[1] * (values.ndim - 2))
            packed[name] = values.gather(1, index).masked_fill(mask, fill)
        return {**packed, "counts": counts}


def candidates_of(scores: list[Tensor], topk: int, by_location: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the best of each level: scores, classes and places 0..L-1, (N, M) each; scores of none are -1.

    Args:
        scores: (N, l, C) per level.
        topk: see :class:`Rules`.
        by_location: likewise.
    """
    start, chosen = 0, []
    for level in scores:
        number, num_classes = level.shape[1:]
        if by_location:
            best, place = _top(level.amax(dim=2), topk)  # (N, k)
            own = level.gather(1, place[..., None].expand(-1, -1, num_classes))  # (N, k, C)
            own = own.masked_fill(best[..., None] < 0, -1)
            classes = torch.arange(num_classes).expand_as(own)
            chosen.append(
                (own.flatten(1), classes.flatten(1), place.repeat_interleave(num_classes, 1) + start)
            )
        else:
            best, pair = _top(level.flatten(1), topk)
            chosen.append((best, pair % num_classes, pair // num_classes + start))
        start = start + number
    values, classes, places = (torch.cat(parts, dim=1) for parts in zip(*chosen, strict=True))
    return values, classes, places


def _top(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the best of scores (N, l) and their indices, (N, number) each, with -1 where l is less."""
    padded = torch.cat([scores, scores.new_full((scores.shape[0], number), -1)], dim=1)
    best, index = padded.topk(number)
    return best, index.clamp(max=scores.shape[1] - 1)


def suppress(
    boxes: Tensor, scores: Tensor, places: Tensor, classes: Tensor, score_threshold: float, threshold: float
) -> Tensor:
    """Suppress within each image and class.

    Args:
        boxes: (N, L, 4).
        scores: (N, M).
        places: (N, M), of the candidates' boxes.
        classes: (N, M).
        score_threshold: what scores no higher is no candidate.
        threshold: of the IoU.

    Returns:
        (N, M), the scores of those that are kept, -1 for the others.
    """
    per_image, num_places = scores.shape[1], boxes.shape[1]
    flat_scores = scores.flatten()
    rows = (flat_scores > score_threshold).nonzero().squeeze(1)  # (n,)
    image = rows // per_image
    chosen = boxes.flatten(0, 1)[image * num_places + places.flatten()[rows]]  # (n, 4)
    # Classes lie beside one another and images below one another, so that none overlap. Two boxes without
    # area stand for no candidate: torch.export takes it that two or more are kept.
    none = chosen.new_zeros(2, 4)
    own_scores = torch.cat([flat_scores[rows], none[:, 0]])
    ends = torch.cat([chosen, none])
    shift = torch.stack([classes.flatten()[rows], image], dim=1) * (ends.max() - ends.min() + 1)
    keep = nms(torch.cat([chosen + shift.repeat(1, 2), none]), own_scores, threshold)
    rows = torch.cat([rows, flat_scores.shape[0] + torch.arange(2)])
    kept = torch.cat([torch.full_like(flat_scores, -1), none[:, 0]]).scatter(0, rows[keep], own_scores[keep])
    return kept[:-2].view_as(scores)


class ExportedDetector(nn.Module):
    """The whole graph.

    Args:
        normalize: what comes first.
        network: predicts at all places, of normalised images.
        selection: None for what is predicted at all places.
    """

    def __init__(self, normalize: Normalize, network: nn.Module, selection: Selection | None):
        super().__init__()
        self.normalize = normalize
        self.network = network
        self.selection = selection

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Detect on images uint8 (N, 3, H, W) RGB, whose photos, at top left, have sizes (N, 2)."""
        dense: DensePredictions = self.network(self.normalize(images, sizes))
        if self.selection is not None:
            return self.selection(dense, sizes)
        outputs = {"boxes": dense.boxes, "scores": torch.cat(dense.scores, dim=1)}
        return outputs if dense.keypoints is None else {**outputs, "keypoints": dense.keypoints}
