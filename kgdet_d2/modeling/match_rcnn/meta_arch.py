"""Match R-CNN (DeepFashion2, CVPR 2019, section 4) on Detectron2's R-CNN."""

from collections.abc import Iterable

import torch
from detectron2.config import configurable
from detectron2.layers import cat
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN, StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from kgdet_d2.modeling.match_rcnn.matching_head import MatchingHead


@ROI_HEADS_REGISTRY.register()
class MatchRCNNHeads(StandardROIHeads):
    """Detectron2's heads, and one more that embeds each garment.

    Detected and given garments get ``pred_embeddings`` (n, D).
    """

    @configurable
    def __init__(self, *, matching_head: MatchingHead, **detectron2_arguments):
        super().__init__(**detectron2_arguments)
        self.matching_head = matching_head

    @classmethod
    def from_config(cls, cfg, input_shape):
        arguments = super().from_config(cfg, input_shape)
        return {**arguments, "matching_head": MatchingHead(cfg, input_shape)}

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        return self.embed(features, super().forward_with_given_boxes(features, instances))

    def embed(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Give the instances, which have pred_boxes, their embeddings."""
        embeddings = self.matching_head(features, [garments.pred_boxes for garments in instances])
        for garments, own in zip(instances, embeddings.split([len(g) for g in instances]), strict=True):
            garments.pred_embeddings = own
        return instances


@META_ARCH_REGISTRY.register()
class MatchRCNN(GeneralizedRCNN):
    """Detectron2's R-CNN, which also learns from pairs of photos whether two garments are the same item.

    In inference it is a ``GeneralizedRCNN`` with :class:`MatchRCNNHeads`. In training its records have beside
    Detectron2's keys ``source`` ("user" or "shop"), ``pair_id`` and ``instances.gt_styles``. Garments match
    where pair_id and style are equal and the style is above 0. Each annotated garment of the batch's user
    photos is compared with each of its shop photos: most that differ come from other pairs of photos.
    """

    @configurable
    def __init__(self, *, roi_heads: MatchRCNNHeads, train_detector: bool, **detectron2_arguments):
        """
        Args:
            roi_heads: with a matching head.
            train_detector: learn all losses jointly. Otherwise everything but the matching head keeps its
                weights and statistics, and only ``loss_match`` is computed.
            detectron2_arguments: the others of ``GeneralizedRCNN``.
        """
        super().__init__(roi_heads=roi_heads, **detectron2_arguments)
        self.train_detector = train_detector
        if not train_detector:
            self.requires_grad_(False)
            self.roi_heads.matching_head.requires_grad_(True)
        self.train()

    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), "train_detector": cfg.MODEL.MATCHING.TRAIN_DETECTOR}

    def train(self, mode: bool = True):
        super().train(mode)
        if not self.train_detector:
            self.backbone.eval()
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """As ``GeneralizedRCNN``, with ``loss_match`` in training and ``pred_embeddings`` in inference.

        Raises:
            ValueError: in training, naming the photo that lacks one of the three.
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
        boxes = [garments.gt_boxes for garments in targets]
        return losses | self.roi_heads.matching_head.losses(features, boxes, items, from_shop)


class GTBoxMatchRCNN(nn.Module):
    """A Match R-CNN that is told where the garments are: the annotated boxes are its detections, score 1.

    In inference alone. Records need ``instances`` with gt_boxes and gt_classes. Outputs are those of
    ``GeneralizedRCNN`` with pred_boxes, scores, pred_classes and pred_embeddings.
    """

    def __init__(self, model: MatchRCNN):
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        model = self.model
        images = model.preprocess_image(batched_inputs)
        given = [_as_detected(record["instances"].to(model.device)) for record in batched_inputs]
        embedded = model.roi_heads.embed(model.backbone(images.tensor), given)
        return model._postprocess(embedded, batched_inputs, images.image_sizes)


def _as_detected(garments: Instances) -> Instances:
    boxes = Boxes(garments.gt_boxes.tensor.clone())  # scaled in place later on
    scores = torch.ones_like(boxes.tensor[:, 0])
    return Instances(garments.image_size, pred_boxes=boxes, scores=scores, pred_classes=garments.gt_classes)


def matching_labels(records: Iterable[dict]) -> tuple[Tensor, Tensor]:
    """Which of the n garments of some photos are the same item, and which are a shop's.

    Args:
        records: with ``source``, ``pair_id`` and ``instances.gt_styles``.

    Returns:
        int64 (n,), equal where pair_id and style are and the style is above 0, else -1; and bool (n,).

    Raises:
        ValueError: naming the photo that lacks one of the three, or whose source is another.
    """
    keys, from_shop = [], []
    for record in records:
        styles, pair_id = _styles(record), record["pair_id"]
        keys.append(torch.stack([torch.full_like(styles, pair_id), styles], dim=1))
        from_shop.append(torch.full_like(styles, record["source"] == "shop", dtype=torch.bool))
    keys = cat(keys)  # (n, 2)
    items = keys.unique(dim=0, return_inverse=True)[1] if len(keys) else keys[:, 0]
    return items.where(keys[:, 1] > 0, -1), cat(from_shop)


def _styles(record: dict) -> Tensor:
    photo = record.get("file_name", "a photo")
    if record.get("source") not in ("user", "shop") or "pair_id" not in record:
        found = {key: record.get(key) for key in ("source", "pair_id")}
        raise ValueError(f"{photo}: matching needs source ('user' or 'shop') and pair_id, got {found}")
    if not record["instances"].has("gt_styles"):
        raise ValueError(f"{photo}: matching needs instances.gt_styles, the garments' styles")
    return record["instances"].gt_styles.cpu()
