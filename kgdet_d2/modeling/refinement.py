"""The keypoint refiner at work: on positive locations in training, with its losses, and on detections.

n garments, m keypoints of the class that has most, C classes, K keypoints of all classes, M positive
locations of the batch.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import cat
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from kgdet_d2.geometry.points import boxes_to_pixels, offsets_to_points, to_float32
from kgdet_d2.modeling.heads.keypoint_refiner import Garments, KeypointRefiner, Refinement
from kgdet_d2.modeling.heads.outputs import StageOutput
from kgdet_d2.modeling.losses import Targets, flatten_levels, quality_focal_loss
from kgdet_d2.modeling.normalizer import GLOBAL, normalizers
from kgdet_d2.utils.catalog import schema_of_config

# --- training ---


class RefinerCriterion:
    """Losses of the refiner, on some positive locations of each garment.

    Where it verifies classes, each of the locations is refined a second time as of a wrong class, from which
    verification alone is learnt.

    Args:
        sigmas: (K,) standard deviations of OKS.
        num_positives: locations of each garment, drawn anew each time.
        keypoint_weight: of the keypoints' distance from the truth (L1), in square roots of the garment's
            area.
        heat_weight: of the heat's cross-entropy with the truth, which is spread over the four positions
            around it; of keypoints that lie in their window.
        quality_weight: of the predicted similarity's cross-entropy; 0 for none.
        verification_weight: of the verification's :func:`quality_focal_loss`, whose target is the box's IoU
            with its garment, 0 for a wrong class; 0 for none.
        exponent: of that loss.
        box_weight: of the refined boxes' GIoU loss; 0 for none.
        normalizer_scope: whose garments the losses are means of, see :mod:`kgdet_d2.modeling.normalizer`.
    """

    @configurable
    def __init__(
        self,
        *,
        sigmas: list[float],
        num_positives: int,
        keypoint_weight: float,
        heat_weight: float,
        quality_weight: float,
        verification_weight: float,
        exponent: float,
        box_weight: float,
        normalizer_scope: str = GLOBAL,
    ):
        self.sigmas = torch.tensor(sigmas)
        self.num_positives = num_positives
        self.weights = {
            "refine": keypoint_weight,
            "heat": heat_weight,
            "quality": quality_weight,
            "verify": verification_weight,
            "refined_box": box_weight,
        }
        self.exponent = exponent
        self.normalizer_scope = normalizer_scope

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read ``MODEL.KGDET.REFINER``."""
        refiner = cfg.MODEL.KGDET.REFINER
        return {
            "sigmas": list(schema_of_config(cfg).sigmas),
            "num_positives": refiner.NUM_POSITIVES,
            "keypoint_weight": refiner.KEYPOINT_WEIGHT,
            "heat_weight": refiner.HEAT_WEIGHT,
            "quality_weight": refiner.QUALITY_WEIGHT,
            "verification_weight": refiner.VERIFICATION_WEIGHT,
            "exponent": cfg.MODEL.KGDET.LOSS.FOCAL_GAMMA,
            "box_weight": refiner.BOX_WEIGHT,
            "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER,
        }

    def __call__(
        self,
        refiner: KeypointRefiner,
        fine: Tensor,
        stage: StageOutput,
        locations: Tensor,
        strides: Tensor,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Refine the keypoints that the cascade has put, without a gradient to them, and compute the losses.

        Args:
            refiner: the network.
            fine: (N, channels, H, W), the fine map.
            stage: the cascade's last outputs, with keypoints.
            locations: (L, 2) x, y in pixels, see :func:`make_locations`.
            strides: (L,) pixels.
            targets: of the stage, with keypoints.

        Returns:
            ``loss_refine_r``, ``loss_heat_r``, ``loss_quality_r``, ``loss_verify_r`` and
            ``loss_refined_box_r`` of each round r = 1.., as far as they are wanted.
        """
        image, location_id = (targets.matched_idxs >= 0).nonzero(as_tuple=True)
        rows = sample_positives(image, targets.matched_idxs[image, location_id], self.num_positives)
        image, location_id, classes = image[rows], location_id[rows], targets.classes[rows]
        centres, stride = locations[location_id], strides[location_id]

        def gather(levels: list[Tensor] | None) -> Tensor:
            return to_float32(flatten_levels(cast(list[Tensor], levels))[image, location_id].detach())

        boxes = boxes_to_pixels(gather(stage.boxes), centres, stride)
        points = offsets_to_points(gather(stage.keypoints), centres, stride)  # (n, K, 2)
        truth = refiner.in_class(cast(Tensor, targets.keypoints)[rows], classes)  # (n, m, 3)
        gt_boxes = Boxes(targets.boxes[rows])
        size = gt_boxes.area().sqrt()
        sigmas = refiner.in_class(self.sigmas.to(truth).expand(len(rows), -1)[..., None], classes)[..., 0]
        garments = Garments(image, classes, boxes, refiner.in_class(points, classes))
        if self.weights["verify"]:
            wrong = sample_wrong_classes(gather(stage.logits).sigmoid(), classes)
            as_wrong = Garments(image, wrong, boxes, refiner.in_class(points, wrong))
            garments = Garments(*map(torch.cat, zip(garments, as_wrong, strict=True)))
        outcomes = refiner(fine, garments)
        as_true = [outcome.select(slice(len(rows))) for outcome in outcomes]
        (number_of_garments,) = normalizers([len(rows)], self.normalizer_scope, fine.device)
        losses = self._keypoint_losses(as_true, truth, size, sigmas, number_of_garments)
        for number, (outcome, true) in enumerate(zip(outcomes, as_true, strict=True), start=1):
            refined = boxes if true.boxes is None else true.boxes
            if true.boxes is not None:
                giou = generalized_box_iou_loss(refined, gt_boxes.tensor, reduction="sum")
                losses[f"loss_refined_box_{number}"] = giou / number_of_garments * self.weights["refined_box"]
            if outcome.verification is not None:
                iou = matched_pairwise_iou(Boxes(refined.detach()), gt_boxes)
                losses[f"loss_verify_{number}"] = self._verification_loss(outcome, iou, number_of_garments)
        return losses

    def _keypoint_losses(
        self, outcomes: list[Refinement], truth: Tensor, size: Tensor, sigmas: Tensor, number: float
    ) -> dict[str, Tensor]:
        """Compute means over garments of means over their labelled keypoints.

        Args:
            outcomes: of each round.
            truth: (n, m, 3) x, y and visibility, 0 beyond the class's keypoints.
            size: (n,) square roots of the garments' areas.
            sigmas: (n, m) of OKS.
            number: of garments, by which the sums over them are divided.
        """
        labelled = (truth[..., 2] > 0).to(truth)
        weights = labelled / labelled.sum(dim=1, keepdim=True).clamp(min=1) / number  # (n, m)
        losses = {}
        for turn, outcome in enumerate(outcomes, start=1):
            distance = (outcome.keypoints - truth[..., :2]) / size[:, None, None].clamp(min=1)
            terms = {"refine": distance.abs().sum(dim=-1), "heat": heat_loss(outcome, truth[..., :2])}
            if outcome.quality is not None:
                # OKS of each keypoint, whose variance is (2 sigma)^2 of the area.
                variance = (2 * sigmas).square().clamp(min=1e-6)
                oks = torch.exp(-distance.detach().square().sum(dim=-1) / (2 * variance))
                terms["quality"] = F.binary_cross_entropy_with_logits(outcome.quality, oks, reduction="none")
            for name, term in terms.items():
                losses[f"loss_{name}_{turn}"] = (term * weights).sum() * self.weights[name]
        return losses

    def _verification_loss(self, outcome: Refinement, iou: Tensor, number: float) -> Tensor:
        """Compute the mean over garments as of their class, with boxes of IoU (n,), and as of a wrong one.

        The ``number`` of garments is the one to divide by.
        """
        logits = cast(Tensor, outcome.verification)
        losses = quality_focal_loss(logits, torch.cat([iou, torch.zeros_like(iou)]), self.exponent)
        return losses.sum() / (2 * number) * self.weights["verify"]


def heat_loss(outcome: Refinement, truth: Tensor) -> Tensor:
    """Compute the cross-entropy of the heat with the truth (n, m, 2): (n, m), 0 outside of the window."""
    step = (outcome.window[:, :, 1] - outcome.window[:, :, 0])[..., :1]  # (n, m, 1) pixels
    distance = (outcome.window - truth[:, :, None]).abs() / step[:, :, None]
    target = (1 - distance).clamp(min=0).prod(dim=-1)  # (n, m, w^2), which sum to 1 inside
    inside = target.sum(dim=-1) > 0.99
    return -(target * outcome.heat.log_softmax(dim=-1)).sum(dim=-1) * inside


def sample_positives(image: Tensor, garment: Tensor, number: int) -> Tensor:
    """Draw so many positive locations of each garment, all where there are fewer.

    Args:
        image: (M,) index of the location's image.
        garment: (M,) index of its garment in the image.
        number: of locations.

    Returns:
        Their rows of M, rising.
    """
    if not len(image):
        return image
    key = image * (garment.max() + 1) + garment
    order = torch.randperm(len(key), device=key.device)
    order = order[key[order].argsort(stable=True)]  # garment by garment, at random within each
    key = key[order]
    rank = torch.arange(len(key), device=key.device) - torch.searchsorted(key, key)
    return order[rank < number].sort().values


def sample_wrong_classes(scores: Tensor, classes: Tensor) -> Tensor:
    """Draw a wrong class for each garment: the one that scores best or, for half of them, one by its score.

    Args:
        scores: (n, C), 0..1.
        classes: (n,), the right ones.

    Returns:
        (n,).
    """
    others = scores.scatter(1, classes[:, None], 0)
    best = others.argmax(dim=1)
    if not len(scores):
        return best
    # No class but the right one is excluded, whatever the scores.
    chances = (others + 1e-4).scatter(1, classes[:, None], 0)
    by_score = chances.multinomial(1).squeeze(1)
    return torch.where(torch.rand(len(scores), device=scores.device) < 0.5, best, by_score)


# --- inference ---


def refine_detections(refiner: KeypointRefiner, fine: Tensor, detections: list[Instances]) -> list[Instances]:
    """Refine the keypoints of each image's detections, those in the slots of their class, and score them.

    Where the refiner verifies classes, a detection's score becomes its geometric mean with the verification.
    Where it predicts the keypoints' quality, the score of a keypoint is its detection's times its predicted
    similarity (OKS), and ``keypoint_scores`` (n,) are the means of a garment's.

    Args:
        refiner: the network.
        fine: (N, channels, H, W), the fine map.
        detections: of each image, in pixels of the network's input, with pred_keypoints (n, K, 3).

    Returns:
        The detections of each image, the best score first.
    """
    numbers = [len(image_detections) for image_detections in detections]
    classes = cat([image_detections.pred_classes for image_detections in detections])
    keypoints = cat([image_detections.pred_keypoints for image_detections in detections])
    garments = Garments(
        image=torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers)).to(fine.device),
        classes=classes,
        boxes=cat([image_detections.pred_boxes.tensor for image_detections in detections]),
        keypoints=refiner.in_class(keypoints[..., :2], classes),
    )
    outcome = refiner(fine, garments)[-1]
    refined, start = [], 0
    for image_detections in detections:
        rows = slice(start, start + len(image_detections))
        slots = refiner.slots[image_detections.pred_classes]
        refined.append(_refined(image_detections, outcome.select(rows), slots))
        start = rows.stop
    return refined


def score_refined(
    outcome: Refinement, scores: Tensor, present: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Score n refined detections, as :func:`refine_detections` says.

    Args:
        outcome: of the refiner.
        scores: (n,) of the detections before.
        present: (n, m) bool, the keypoints that their classes have.

    Returns:
        The scores (n,), the keypoints' predicted similarity (n, m), 0 where absent, and the scores (n,) of
        each garment's keypoints together, None where the refiner predicts no quality.
    """
    if outcome.verification is not None:
        scores = (scores * to_float32(outcome.verification).sigmoid()).sqrt()
    similarity = present.to(scores)
    if outcome.quality is None:
        return scores, similarity, None
    similarity = similarity * to_float32(outcome.quality).sigmoid()
    return scores, similarity, scores * similarity.sum(dim=1) / present.sum(dim=1)


def _refined(detections: Instances, outcome: Refinement, slots: Tensor) -> Instances:
    """Return one image's detections, whose keypoints have slots (n, m), with the outcome in them."""
    detections = Instances(detections.image_size, **detections.get_fields())
    present = slots >= 0
    detections.scores, similarity, together = score_refined(outcome, detections.scores, present)
    if together is not None:
        detections.keypoint_scores = together
    if outcome.boxes is not None:
        detections.pred_boxes = Boxes(to_float32(outcome.boxes))
        detections.pred_boxes.clip(detections.image_size)
    height, width = detections.image_size
    row, index = present.nonzero(as_tuple=True)
    slot, keypoints = slots[row, index], detections.pred_keypoints.clone()
    points = to_float32(outcome.keypoints)[row, index].clamp(min=0)
    keypoints[row, slot, :2] = points.minimum(points.new_tensor([width, height]))
    keypoints[..., 2] = detections.scores[:, None]
    keypoints[row, slot, 2] *= similarity[row, index]
    detections.pred_keypoints = keypoints
    return detections[detections.scores.argsort(descending=True)]
