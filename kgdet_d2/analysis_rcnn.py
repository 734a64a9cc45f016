"""One pass of an R-CNN with as many boxes as its config allows: what :mod:`kgdet_d2.analysis` counts."""

from functools import partial

from detectron2.modeling import GeneralizedRCNN, StandardROIHeads
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import BaseKeypointRCNNHead, BaseMaskRCNNHead
from detectron2.structures import Boxes
from torch import Tensor, nn

from kgdet_d2.modeling.match_rcnn import MatchRCNN, MatchRCNNHeads


def is_known_rcnn(model: nn.Module) -> bool:
    """Whether these functions know all that the model computes."""
    # Exactly these: a subclass may compute more, as PanopticFPN and CascadeROIHeads do.
    return (
        type(model) in (GeneralizedRCNN, MatchRCNN)
        and type(model.proposal_generator) is RPN
        and type(model.roi_heads) in (StandardROIHeads, MatchRCNNHeads)
    )


def run_at_full_budget(model: GeneralizedRCNN) -> None:
    """Make the model's forward go from a padded image (1, 3, H, W) to its heads' raw predictions.

    Boxes are neither selected nor cut out of the features: the heads see tensors of the right shape.

    Args:
        model: one that :func:`is_known_rcnn`, on the meta device.

    Raises:
        ValueError: the number of detections has no limit.
    """
    if model.roi_heads.box_predictor.test_topk_per_image < 0:
        raise ValueError(
            "TEST.DETECTIONS_PER_IMAGE: expected a limit, without which an R-CNN's cost has none, "
            f"got {model.roi_heads.box_predictor.test_topk_per_image}"
        )
    model.forward = partial(_predict, model)
    for module in model.modules():
        if isinstance(module, ROIPooler):
            module.forward = partial(_pool, module.output_size)
        elif isinstance(module, BaseMaskRCNNHead | BaseKeypointRCNNHead):
            module.forward = module.layers  # without reading the maps that they make


def rcnn_parts(model: GeneralizedRCNN) -> dict[str, list[str]]:
    """The parts behind the backbone, and the submodules that each is made of.

    Returns:
        "rpn", "box_head" (with its predictor), and "mask_head", "keypoint_head" and "matching_head" where the
        model has them -> names of submodules.
    """
    parts = {
        "rpn": ["proposal_generator.rpn_head"],
        "box_head": ["roi_heads.box_head", "roi_heads.box_predictor"],
    }
    others = ("mask_head", "keypoint_head", "matching_head")
    return parts | {name: [f"roi_heads.{name}"] for name in others if hasattr(model.roi_heads, name)}


def _predict(model: GeneralizedRCNN, image: Tensor) -> None:
    rpn, heads = model.proposal_generator, model.roi_heads
    limits = rpn.post_nms_topk[False], heads.box_predictor.test_topk_per_image  # False: not in training
    proposals, detections = ([Boxes(image.new_empty(limit, 4))] for limit in limits)
    features = model.backbone(image)
    rpn.rpn_head([features[name] for name in rpn.in_features])
    maps = [features[name] for name in heads.in_features]
    heads.box_predictor(heads.box_head(heads.box_pooler(maps, proposals)))
    if heads.mask_on:
        heads.mask_head(heads.mask_pooler(maps, detections))
    if heads.keypoint_on:
        heads.keypoint_head(heads.keypoint_pooler(maps, detections))
    if isinstance(heads, MatchRCNNHeads):
        heads.matching_head(features, detections)


def _pool(size: tuple[int, int], maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
    """What a ``ROIPooler`` gives, in shape alone."""
    return maps[0].new_empty(sum(map(len, boxes)), maps[0].shape[1], *size)
