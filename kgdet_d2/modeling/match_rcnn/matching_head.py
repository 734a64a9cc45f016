"""Match R-CNN's matching network: whether two garments are the same item (DeepFashion2, section 4).

n garments, U of them in images by users, S in images by shops, D numbers of an embedding.
"""

from itertools import pairwise
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import Tensor, nn

from kgdet_d2.geometry.points import to_float32
from kgdet_d2.modeling.normalizer import GLOBAL, share_of_mean


class MatchingHead(nn.Module):
    """Embeddings of garments, and the odds that two embeddings are of the same item.

    Pooled features of the pyramid go through 3x3 convolutions, the mean over their area, and one fully
    connected layer with BatchNorm. A pair's difference, squared number by number, goes through another to
    two logits, which a softmax turns into the probabilities of no match and of a match. The layers are those
    that the authors list in their repository's issue 31.

    Args:
        in_features: names of the pyramid's levels.
        pooler: pools the garments' features from the levels.
        in_channels: of the levels.
        conv_dims: output channels of each convolution.
        embedding_dim: D.
        loss_weight: factor of the loss.
        normalizer_scope: whose pairs the loss is a mean over, see :mod:`kgdet_d2.modeling.normalizer`. A pair
            is always of one process.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        pooler: ROIPooler,
        in_channels: int,
        conv_dims: list[int],
        embedding_dim: int,
        loss_weight: float,
        normalizer_scope: str = GLOBAL,
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.pooler = pooler
        self.loss_weight = loss_weight
        self.normalizer_scope = normalizer_scope
        channels = [in_channels, *conv_dims]
        self.convs = nn.Sequential()
        for dim_in, dim_out in pairwise(channels):
            self.convs.append(Conv2d(dim_in, dim_out, kernel_size=3, padding=1, activation=F.relu))
        self.embedding = nn.Linear(channels[-1], embedding_dim)
        self.norm = nn.BatchNorm1d(embedding_dim)
        self.classifier = nn.Linear(embedding_dim, 2)
        for conv in self.convs:
            weight_init.c2_msra_fill(conv)
        for layer in (self.embedding, self.classifier):
            weight_init.c2_xavier_fill(layer)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Build the constructor's arguments from ``MODEL.MATCHING``."""
        matching, in_features = cfg.MODEL.MATCHING, cfg.MODEL.ROI_HEADS.IN_FEATURES
        return {
            "in_features": in_features,
            "pooler": ROIPooler(
                output_size=matching.POOLER_RESOLUTION,
                scales=[1 / input_shape[name].stride for name in in_features],
                sampling_ratio=0,
                pooler_type="ROIAlignV2",
            ),
            "in_channels": input_shape[in_features[0]].channels,
            "conv_dims": matching.CONV_DIMS,
            "embedding_dim": matching.EMBEDDING_DIM,
            "loss_weight": matching.LOSS_WEIGHT,
            "normalizer_scope": cfg.MODEL.LOSS_NORMALIZER,
        }

    def forward(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        """Embed the garments in boxes.

        Args:
            features: the pyramid.
            boxes: of each image, in pixels of the network's input.

        Returns:
            (n, D), of the boxes of all images.
        """
        x = self.pooler([features[name] for name in self.in_features], boxes)  # (n, C, H, W)
        x = self.convs(x).mean(dim=(2, 3))  # (n, C)
        return to_float32(self.norm(self.embedding(x)))

    def log_odds(self, users: Tensor, shops: Tensor) -> Tensor:
        """Compute the logarithm of P(match) / P(no match) of every pair.

        Args:
            users: embeddings (U, D), on any device.
            shops: embeddings (S, D).

        Returns:
            (U, S): the difference of the two logits, sum_d w_d (u_d - s_d)^2 + b. Multiplied out, so that no
            array of all pairs' differences is needed.
        """
        weight = self.classifier.weight[1] - self.classifier.weight[0]
        bias = self.classifier.bias[1] - self.classifier.bias[0]
        users, shops = users.to(weight), shops.to(weight)
        squares = (users.square() @ weight)[:, None] + shops.square() @ weight  # (U, S)
        return squares - 2 * (users * weight) @ shops.T + bias

    def losses(
        self, features: dict[str, Tensor], boxes: list[Boxes], items: Tensor, from_shop: Tensor
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy of match and no match, the mean over pairs of a user and a shop garment.

        Args:
            features: the pyramid.
            boxes: of each image.
            items: int64 (n,), equal numbers for garments that match; -1 matches none.
            from_shop: bool (n,), the garment is in a shop's image, else in a user's.

        Returns:
            ``loss_match``.
        """
        num_shops = int(from_shop.sum())
        num_pairs = num_shops * (len(from_shop) - num_shops)
        share = share_of_mean(num_pairs, self.normalizer_scope, from_shop.device)
        if not num_pairs:  # no pair; every parameter still has its (zero) gradient
            return {"loss_match": torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0}
        embeddings = self(features, boxes)
        users, shops = items[~from_shop], items[from_shop]
        match = (users[:, None] == shops) & (users[:, None] >= 0)  # (U, S)
        odds = self.log_odds(embeddings[~from_shop], embeddings[from_shop])
        loss = F.binary_cross_entropy_with_logits(odds, match.to(odds))
        return {"loss_match": loss * share * self.loss_weight}
