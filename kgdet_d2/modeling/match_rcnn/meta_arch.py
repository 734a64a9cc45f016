"""Match R-CNN (DeepFashion2, CVPR 2019, section 4) on Detectron2's R-CNN."""

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    Backbone,
    GeneralizedRCNN,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from kgdet_d2.modeling.ignored import split_ignored
from kgdet_d2.modeling.match_rcnn.matching_head import MatchingHead
from kgdet_d2.modeling.match_rcnn.sampling import FashionROIHeads


@ROI_HEADS_REGISTRY.register()
class MatchRCNNHeads(FashionROIHeads):
    """Detectron2's heads, and one more that embeds each garment.

    Detected and given garments get ``pred_embeddings`` (n, D). Regions to ignore match nothing.

    Args:
        matching_head: embeds garments.
        arguments: those of :class:`FashionROIHeads`.
    """

    @configurable
    def __init__(self, *, matching_head: MatchingHead, **arguments: Any):
        super().__init__(**arguments)
        self.matching_head = matching_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Return those arguments and the matching head."""
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "matching_head": MatchingHead(cfg, input_shape)}

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Predict what Detectron2's heads do in given boxes, and embeddings."""
        return self.embed(features, super().forward_with_given_boxes(features, instances))

    def embed(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add ``pred_embeddings`` to the instances, which have pred_boxes, and return them."""
        embeddings = self.matching_head(features, [garments.pred_boxes for garments in instances])  # (n, D)
        per_image = embeddings.split([len(garments) for garments in instances])
        for garments, image_embeddings in zip(instances, per_image, strict=True):
            garments.pred_embeddings = image_embeddings
        return instances


@META_ARCH_REGISTRY.register()
class MatchRCNN(GeneralizedRCNN):
    """Detectron2's R-CNN, which also learns from pairs of images whether two garments are the same item.

    In inference it is a ``GeneralizedRCNN`` with :class:`MatchRCNNHeads`. In training its records have beside
    Detectron2's keys ``source`` ("user" or "shop"), ``pair_id`` and ``instances.gt_styles``. Garments match
    where pair_id and style are equal and the style is above 0. Each annotated garment of the batch's user
    images is compared with each of its shop images: most that differ come from other pairs of images.

    Args:
        backbone: of the detector and the matching head.
        proposal_generator: the RPN.
        roi_heads: with a matching head.
        train_detector: learn all losses jointly. Otherwise everything but the matching head keeps its weights
            and statistics, and only ``loss_match`` is computed.
        pixel_mean, pixel_std: of each channel.
        input_format: of the images, for drawings.
        vis_period: iterations between two drawings; 0 for none.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: MatchRCNNHeads,
        train_detector: bool,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            roi_heads=roi_heads,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
            vis_period=vis_period,
        )
        self.train_detector = train_detector
        if not train_detector:
            self.requires_grad_(False)
            self.roi_heads.matching_head.requires_grad_(True)
        self.train()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build Detectron2's arguments and those of ``MODEL.MATCHING``."""
        return {**super().from_config(cfg), "train_detector": cfg.MODEL.MATCHING.TRAIN_DETECTOR}

    def train(self, mode: bool = True) -> "MatchRCNN":
        """Set the mode; a backbone that does not learn stays in evaluation mode."""
        super().train(mode)
        if not self.train_detector:
            self.backbone.eval()
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Compute ``GeneralizedRCNN``'s losses and ``loss_match``, or its detections and ``pred_embeddings``.

        Raises:
            ValueError: in training, naming the image that lacks one of the three keys.
        """
        if not self.training:
            return self.inference(batched_inputs)
        items, from_shop = (labels.to(self.device) for labels in matching_labels(batched_inputs))
        images = self.preprocess_image(batched_inputs)
        targets = [record["instances"].to(self.device) for record in batched_inputs]
        features = self.backbone(images.tensor)
        losses = {}
        if self.train_detector:
            proposals, losses = self.proposal_generator(images, features, targets)
            losses |= self.roi_heads(images, features, proposals, targets)[1]
        boxes = [garments.gt_boxes for garments in split_ignored(targets)[0]]
        return losses | self.roi_heads.matching_head.losses(features, boxes, items, from_shop)


class GTBoxMatchRCNN(nn.Module):
    """Match R-CNN in annotated boxes, which are its detections with score 1.

    In inference alone. Records need ``instances`` with gt_boxes and gt_classes. Outputs are those of
    ``GeneralizedRCNN`` with pred_boxes, scores, pred_classes and pred_embeddings.
    """

    def __init__(self, model: MatchRCNN):
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Embed the annotated garments."""
        model = self.model
        images = model.preprocess_image(batched_inputs)
        annotated = [record["instances"].to(model.device) for record in batched_inputs]
        given = [_as_detected(garments) for garments in split_ignored(annotated)[0]]
        embedded = model.roi_heads.embed(model.backbone(images.tensor), given)
        return model._postprocess(embedded, batched_inputs, images.image_sizes)


def _as_detected(garments: Instances) -> Instances:
    """Turn annotated garments into detections with score 1."""
    boxes = Boxes(garments.gt_boxes.tensor.clone())  # scaled in place later on
    scores = torch.ones_like(boxes.tensor[:, 0])
    return Instances(garments.image_size, pred_boxes=boxes, scores=scores, pred_classes=garments.gt_classes)


def matching_labels(records: Iterable[dict]) -> tuple[Tensor, Tensor]:
    """Return the items that the n garments of some images are, and whether each is in a shop's image.

    Two garments are the same item where their images' pair_id and their own style are equal and the style is
    above 0.

    Args:
        records: with ``source``, ``pair_id`` and ``instances.gt_styles``.

    Returns:
        int64 (n,), the garments' items, -1 where the style is not above 0; and bool (n,), in a shop's image.

    Raises:
        ValueError: naming the image that lacks one of the three, or whose source is another.
    """
    pair_ids, all_styles, from_shop = [], [], []
    for record in records:
        styles = _checked_styles(record)
        pair_ids.append(torch.full_like(styles, record["pair_id"]))
        all_styles.append(styles)
        from_shop.append(torch.full_like(styles, record["source"] == "shop", dtype=torch.bool))
    return item_ids(cat(pair_ids), cat(all_styles)), cat(from_shop)


def item_ids(pair_ids: Tensor, styles: Tensor) -> Tensor:
    """Return a number for the item that each of n garments is.

    Args:
        pair_ids: int64 (n,), of the garments' images.
        styles: int64 (n,).

    Returns:
        int64 (n,), equal where pair_id and style are equal and the style is above 0, else -1.
    """
    keys = torch.stack([pair_ids, styles], dim=1)  # (n, 2)
    ids = keys.unique(dim=0, return_inverse=True)[1] if len(keys) else keys[:, 0]
    return ids.where(styles > 0, -1)


def _checked_styles(record: dict) -> Tensor:
    """Return the garments' styles of a record that has all that matching needs."""
    file_name = record.get("file_name", "an image")
    if record.get("source") not in ("user", "shop") or "pair_id" not in record:
        values = {key: record.get(key) for key in ("source", "pair_id")}
        raise ValueError(f"{file_name}: matching needs source ('user' or 'shop') and pair_id, got {values}")
    ((garments,), _) = split_ignored([record["instances"]])
    if not garments.has("gt_styles"):
        raise ValueError(f"{file_name}: matching needs instances.gt_styles, the garments' styles")
    return garments.gt_styles.cpu()
