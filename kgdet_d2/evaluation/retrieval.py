"""Consumer-to-shop retrieval: which garments in shops' photos are the same item as one in a user's photo.

The rules are those of DeepFashion2's evaluation. D numbers of an embedding.
"""

from collections.abc import Callable
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor

from kgdet_d2.evaluation.ground_truth import GroundTruth

RANKS = (1, 5, 10, 15, 20)
_SHOWN_IOU = 0.5
_QUERIES_AT_ONCE = 256
Similarity = Callable[[Tensor, Tensor], Tensor]


class _Seen(NamedTuple):
    """Garments: embeddings (n, D), and of each time that one shows an item its row and the item."""

    embeddings: Tensor
    rows: Tensor
    items: Tensor


class RetrievalEvaluator(DatasetEvaluator):
    """Top-k accuracy: the share of queries with a garment of their item among the k likeliest of the gallery.

    Queries are the annotated garments in users' photos whose item is in a shop's photo, too: pair_id and
    style are equal and the style is above 0. The gallery is everything detected in shops' photos. A
    detection in a user's photo belongs to the garment that it overlaps most; the best scored one stands for
    it, whatever its class. A query that has none is missed: it counts as never found. What is retrieved is
    right where its IoU with a garment of the item is at least 0.5.

    With the annotated boxes as detections, this is the accuracy "with ground-truth boxes".
    """

    def __init__(self, dataset_name: str, *, similarity: Similarity, distributed: bool = True) -> None:
        """
        Args:
            dataset_name: a registered dataset of photos with ``source`` ("user" or "shop") and ``pair_id``,
                and garments with ``style``; its metadata holds ``keypoint_schema``.
            similarity: embeddings (U, D) and (S, D) on the CPU -> (U, S) on any device, greater for garments
                that are more alike.
            distributed: gather what all processes saw; otherwise evaluate this one's.

        Raises:
            ValueError: when the dataset lacks these, or has no query.
        """
        schema = MetadataCatalog.get(dataset_name).keypoint_schema
        self.similarity = similarity
        self.distributed = distributed
        self.ground_truth = GroundTruth.from_dataset_dicts(DatasetCatalog.get(dataset_name), schema)
        try:
            self.items, self.from_shop = _items(self.ground_truth)
        except KeyError as error:
            raise ValueError(f"dataset {dataset_name!r}: retrieval needs the attribute {error}") from error
        in_shop = self.from_shop[self.ground_truth.garment_image]
        self.is_query = ~in_shop & (self.items >= 0) & np.isin(self.items, self.items[in_shop])
        if not self.is_query.any():
            raise ValueError(f"dataset {dataset_name!r}: no user's garment is in a shop's photo, too")
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._queries: list[_Seen] = []
        self._gallery: list[_Seen] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Keep the embeddings of a batch.

        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances``: pred_boxes in the original image's pixels, scores and
                pred_embeddings (n, D).

        Raises:
            ValueError: naming the image that is not in the dataset.
        """
        for record, output in zip(inputs, outputs, strict=True):
            (photo,) = self.ground_truth.photo_rows([record["image_id"]])
            found = output["instances"].to("cpu")
            if self.from_shop[photo]:
                self._gallery.append(self._shown(photo, found))
            else:
                self._queries.append(self._asked(photo, found))

    def _asked(self, photo: int, found: Instances) -> _Seen:
        """One embedding for each query."""
        garments = self._garments(photo)
        detection = _representatives(self._overlaps(garments, found), found.scores)
        asked = (detection >= 0) & torch.from_numpy(self.is_query[garments])
        items = torch.from_numpy(self.items[garments])[asked]
        return _Seen(found.pred_embeddings[detection[asked]].float(), torch.arange(len(items)), items)

    def _shown(self, photo: int, found: Instances) -> _Seen:
        """An embedding for each detection, which may show no item, or two."""
        garments = self._garments(photo)
        items = torch.from_numpy(self.items[garments])
        row, garment = ((self._overlaps(garments, found) >= _SHOWN_IOU) & (items >= 0)).nonzero(as_tuple=True)
        return _Seen(found.pred_embeddings.float(), row, items[garment])

    def _garments(self, photo: int) -> slice:
        return slice(*self.ground_truth.garment_offsets[photo : photo + 2].tolist())

    def _overlaps(self, garments: slice, found: Instances) -> Tensor:
        """IoU (n, g)."""
        truth = Boxes(torch.from_numpy(self.ground_truth.box[garments]).float())
        return pairwise_iou(Boxes(found.pred_boxes.tensor.float()), truth)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """In the main process ``{"retrieval": {"top1", "top5", ..., "missed"}}`` in percent of the queries;
        in others an empty dict. "missed" are those that no detection stands for.
        """
        seen = (self._queries, self._gallery)
        if self.distributed:
            comm.synchronize()
            parts = comm.gather(seen, dst=0)
            if not comm.is_main_process():
                return {}
            seen = (list(chain.from_iterable(side)) for side in zip(*parts, strict=True))
        queries, gallery = (_joined(side) for side in seen)
        ranks = _first_ranks(queries, gallery, self.similarity)
        total = int(self.is_query.sum())
        accuracy = {f"top{k}": 100 * (ranks <= k).sum().item() / total for k in RANKS}
        return {"retrieval": accuracy | {"missed": 100 * (1 - len(ranks) / total)}}


def _items(truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """int64 (G,), equal for garments of the same item, -1 for none; bool (N,), photos by shops."""
    pair_id, style = truth.photo_attributes["pair_id"], truth.garment_attributes["style"]
    keys = np.c_[pair_id[truth.garment_image], style]
    items = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    return np.where(style > 0, items, -1), truth.photo_attributes["source"] == "shop"


def _representatives(overlaps: Tensor, scores: Tensor) -> Tensor:
    """IoU (n, g), scores (n,) -> int64 (g,): which detection stands for each garment, -1 where none does."""
    chosen = torch.full(overlaps.shape[1:], -1)
    if overlaps.numel():
        most, garment = overlaps.max(dim=1)
        for detection in scores.argsort(descending=True, stable=True).tolist():
            if most[detection] > 0 and chosen[garment[detection]] < 0:
                chosen[garment[detection]] = detection
    return chosen


def _joined(seen: list[_Seen]) -> _Seen:
    none = torch.zeros(0, dtype=torch.long)
    starts = accumulate((len(part.embeddings) for part in seen), initial=0)
    return _Seen(
        torch.cat([torch.zeros(0), *(part.embeddings for part in seen)]),
        torch.cat([none, *(part.rows + start for part, start in zip(seen, starts, strict=False))]),
        torch.cat([none, *(part.items for part in seen)]),
    )


def _first_ranks(queries: _Seen, gallery: _Seen, similarity: Similarity) -> Tensor:
    """(Q,): the rank, from 1, of the first in the gallery to show the query's item; inf beyond ``RANKS``."""
    ranks = torch.full((len(queries.items),), torch.inf)
    most = min(max(RANKS), len(gallery.embeddings))
    if not (len(ranks) and most):
        return ranks
    unit = int(torch.cat([queries.items, gallery.items]).max()) + 1  # row and item as one number
    shown = gallery.rows * unit + gallery.items
    for part in torch.arange(len(ranks)).split(_QUERIES_AT_ONCE):
        similar = similarity(queries.embeddings[part], gallery.embeddings)
        retrieved = similar.topk(most, dim=1).indices.cpu()
        right = torch.isin(retrieved * unit + queries.items[part, None], shown)
        ranks[part] = torch.where(right.any(dim=1), right.int().argmax(dim=1) + 1.0, torch.inf)
    return ranks
