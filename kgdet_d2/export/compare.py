"""What an exported file finds, against what the model finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from kgdet_d2.export.detector import ExportedDetector, Rules
from kgdet_d2.export.formats import Runtime
from kgdet_d2.export.sizing import SizeRule
from kgdet_d2.utils.catalog import schema_of_config

PIXELS = 1e-3  # by which boxes and keypoints may differ
SCORE = 1e-5  # by which scores may
_SMALLER = 0.75  # of the size rule's scale, for a second size

Outputs = Mapping[str, np.ndarray]


@dataclass
class Difference:
    """The largest differences so far.

    Attributes:
        compared: detections, or places where all of these are compared.
        pixels: of boxes and keypoints.
        score: of detections and keypoints.
        unmatched: detections that only one side has.
    """

    compared: int = 0
    pixels: float = 0.0
    score: float = 0.0
    unmatched: int = 0

    def add(self, expected: Outputs, found: Outputs) -> None:
        """Compare rows of the same garments, or of the same places."""
        self.compared += expected["boxes"][..., 0].size
        for name, values in expected.items():
            gap = np.abs(values.astype(np.float64) - found[name])
            if name in ("boxes", "keypoints"):
                self.pixels = max(self.pixels, _largest(gap[..., :2] if name == "keypoints" else gap))
            if name in ("scores", "keypoint_scores"):
                self.score = max(self.score, _largest(gap))
            if name == "keypoints" and gap.shape[-1] == 3:
                self.score = max(self.score, _largest(gap[..., 2]))

    def add_detections(self, expected: Outputs, found: Outputs, cutoff: float) -> None:
        """Pair the detections of one image, and compare the pairs.

        Detections of equal scores may come in any order, and one that scores as the last that is kept may be
        missing.

        Args:
            expected: boxes (n, 4), scores (n,), classes (n,), maybe keypoints (n, m, 3) and keypoint_scores.
            found: likewise.
            cutoff: score of the last that is kept.
        """
        pairs, left = pair_detections(expected, found)
        mine, theirs = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
        kept = {name: values[mine] for name, values in expected.items() if name != "classes"}
        self.add(kept, {name: found[name][theirs] for name in kept})
        self.unmatched += int(sum(score > cutoff + SCORE for score in left))

    def check(self, name: str) -> None:
        """Raise ValueError where the differences are not those of rounding, or nothing was found."""
        if not self.compared and not self.unmatched:
            raise ValueError(
                f"{name}: nothing was found on the photos, so nothing was compared; see --photos"
            )
        if self.unmatched or not self.pixels <= PIXELS or not self.score <= SCORE:
            raise ValueError(
                f"{name}: expected what the model finds to {PIXELS:g} px and {SCORE:g} in score, got "
                f"differences of {self.pixels:.2g} px and {self.score:.2g}, and {self.unmatched} detections "
                f"without a pair beside {self.compared} with one"
            )


def pair_detections(expected: Outputs, found: Outputs) -> tuple[list[tuple[int, int]], list[float]]:
    """Pair detections of one class, each with the one whose box is nearest, and score within the tolerance.

    Returns:
        The pairs' rows, and the scores of those without a pair, of both sides.
    """
    free = set(range(len(found["scores"])))
    pairs, left = [], []
    for row, (box, score, name) in enumerate(
        zip(expected["boxes"], expected["scores"], expected["classes"], strict=True)
    ):
        own = [other for other in free if found["classes"][other] == name]
        gaps = [np.abs(found["boxes"][other] - box).max() for other in own]
        if own and np.min(gaps) < 1:
            nearest = own[int(np.argmin(gaps))]
            free.remove(nearest)
            pairs.append((row, nearest))
        else:
            left.append(float(score))
    return pairs, [*left, *(float(found["scores"][other]) for other in free)]


def _largest(gap: np.ndarray) -> float:
    """Return the largest of gaps, 0 of none; infinite where one is not a number."""
    return float(np.nan_to_num(gap, nan=np.inf).max()) if gap.size else 0.0


def make_batches(
    photos: Sequence[np.ndarray], size_rule: SizeRule, number: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Make batches of each photo alone, at two sizes in turn, and of the first two together.

    Args:
        photos: uint8 (H, W, 3) RGB; one is taken twice.
        size_rule: of the input.
        number: of photos in a batch; each is repeated to it. None for any.
    """
    several = [*photos, photos[0]] if len(photos) == 1 else photos
    scaled = [size_rule.resize(photo, (1.0, _SMALLER)[turn % 2]) for turn, photo in enumerate(several)]
    groups = [[photo] for photo in scaled] + [scaled[:2]]
    if number is not None:
        groups = [(group * number)[:number] for group in groups]
    return [size_rule.batch(group) for group in groups]


def compare_detections(
    model: nn.Module,
    cfg: CfgNode,
    runtime: Runtime,
    batches: list[tuple[np.ndarray, np.ndarray]],
    rules: Rules,
) -> Difference:
    """Compare the detections of an exported file with the model's own."""
    slots = schema_of_config(cfg).padded_slots
    difference = Difference()
    for images, sizes in batches:
        found = runtime(images, sizes)
        for image, instances in enumerate(_detect(model, images, sizes, cfg.INPUT.FORMAT)):
            rows = slice(int(found["counts"][image]))
            own = {name: values[image, rows] for name, values in found.items() if name != "counts"}
            expected = _arrays(instances, slots)
            full = len(instances) == rules.max_detections
            cutoff = float(instances.scores.min()) if full else rules.score_threshold
            difference.add_detections(expected, own, cutoff)
    return difference


def compare_everywhere(
    plain: ExportedDetector, runtime: Runtime, batches: list[tuple[np.ndarray, np.ndarray]]
) -> Difference:
    """Compare what an exported file predicts at all places with what the model does there."""
    difference = Difference()
    for images, sizes in batches:
        with torch.no_grad():
            expected = plain(torch.from_numpy(images), torch.from_numpy(sizes))
        difference.add({name: values.numpy() for name, values in expected.items()}, runtime(images, sizes))
    return difference


@torch.no_grad()
def _detect(model: nn.Module, images: np.ndarray, sizes: np.ndarray, image_format: str) -> list[Instances]:
    """Detect with the model, in pixels of the frame.

    A last image that fills the frame has the model pad the others to it, too.
    """
    inputs = []
    for image, (height, width) in zip([*images, images[0]], [*sizes, images.shape[2:]], strict=True):
        photo = image[:: -1 if image_format == "BGR" else 1, :height, :width]
        inputs.append({"image": torch.from_numpy(photo.copy()), "height": int(height), "width": int(width)})
    return [output["instances"] for output in model(inputs)][:-1]


def _arrays(instances: Instances, slots: np.ndarray) -> dict[str, np.ndarray]:
    """Return detections as the graph's outputs give them."""
    classes = instances.pred_classes.numpy()
    arrays = {
        "boxes": instances.pred_boxes.tensor.numpy(),
        "scores": instances.scores.numpy(),
        "classes": classes,
    }
    if instances.has("pred_keypoints"):
        own = slots[classes]  # (n, m)
        keypoints = instances.pred_keypoints.numpy()[np.arange(len(own))[:, None], own.clip(min=0)]
        arrays["keypoints"] = keypoints * (own >= 0)[..., None]
    if instances.has("keypoint_scores"):
        arrays["keypoint_scores"] = instances.keypoint_scores.numpy()
    return arrays
