"""Consumer-to-shop retrieval: the garments in shops' images that are the same item as one in a user's image.

The rules are those of DeepFashion2's evaluation. D numbers of an embedding.
"""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor

from kgdet_d2.evaluation.evaluator import load_ground_truth
from kgdet_d2.structures.annotations import AnnotationTable, item_ids

RANKS = (1, 5, 10, 15, 20)
_SHOWN_IOU = 0.5
_QUERIES_PER_CHUNK = 256
Similarity = Callable[[Tensor, Tensor], Tensor]


class Embeddings(NamedTuple):
    """Detected garments and the items that they show.

    Attributes:
        embeddings: (n, D).
        rows: int64 (m,), the row in ``embeddings`` for each time that a garment shows an item.
        items: int64 (m,), the item that it shows.
    """

    embeddings: Tensor
    rows: Tensor
    items: Tensor


class RetrievalEvaluator(DatasetEvaluator):
    """Top-k accuracy: the share of queries with a garment of their item among the k likeliest of the gallery.

    Queries are the annotated garments in users' images whose item is in a shop's image, too: pair_id and
    style are equal and both above 0; a crowd is of no item. The gallery is everything detected in shops'
    images. A detection in a user's image belongs to the garment that it overlaps most; the best scored one
    represents it, whatever its class. A query that has none is missed: it counts as never found. What is
    retrieved is right where its IoU with a garment of the item is at least 0.5.

    With the annotated boxes as detections, this is the accuracy "with ground-truth boxes".

    Args:
        dataset_name: a registered dataset, see :func:`load_ground_truth`, of images with ``source`` ("user"
            or "shop") and ``pair_id``, and garments with ``style``.
        similarity: embeddings (U, D) and (S, D) on the CPU -> (U, S) on any device, greater for garments
            that are more alike.
        distributed: gather the embeddings of all processes; otherwise evaluate this one's.

    Raises:
        ValueError: when the dataset lacks these, or has no query.
    """

    def __init__(self, dataset_name: str, *, similarity: Similarity, distributed: bool = True) -> None:
        self.similarity = similarity
        self.distributed = distributed
        self.ground_truth = load_ground_truth(dataset_name)
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
        self._queries: list[Embeddings] = []
        self._gallery: list[Embeddings] = []

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
            (image,) = self.ground_truth.image_rows([record["image_id"]])
            detections = output["instances"].to("cpu")
            if self.from_shop[image]:
                self._gallery.append(self._gallery_embeddings(image, detections))
            else:
                self._queries.append(self._query_embeddings(image, detections))

    def _query_embeddings(self, image: int, detections: Instances) -> Embeddings:
        """Return one embedding for each query."""
        garments = self._garments(image)
        detection = _best_per_query(self._overlaps(garments, detections), detections.scores)
        represented = (detection >= 0) & torch.from_numpy(self.is_query[garments])
        items = torch.from_numpy(self.items[garments])[represented]
        embeddings = detections.pred_embeddings[detection[represented]].float()
        return Embeddings(embeddings, torch.arange(len(items)), items)

    def _gallery_embeddings(self, image: int, detections: Instances) -> Embeddings:
        """Return an embedding for each detection, which may show no item, or two."""
        garments = self._garments(image)
        items = torch.from_numpy(self.items[garments])  # (g,)
        shows = (self._overlaps(garments, detections) >= _SHOWN_IOU) & (items >= 0)  # (n, g)
        row, garment = shows.nonzero(as_tuple=True)
        return Embeddings(detections.pred_embeddings.float(), row, items[garment])

    def _garments(self, image: int) -> slice:
        return slice(*self.ground_truth.garment_offsets[image : image + 2].tolist())

    def _overlaps(self, garments: slice, detections: Instances) -> Tensor:
        """Return the IoU (n, g) of n detections and g garments."""
        garment_boxes = Boxes(torch.from_numpy(self.ground_truth.box[garments]))
        return pairwise_iou(Boxes(detections.pred_boxes.tensor.float()), garment_boxes)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Compute the accuracy in the main process; in others return an empty dict.

        Returns:
            ``{"retrieval": {"top1", "top5", ..., "missed"}}`` in percent of the queries. "missed" are those
            that no detection represents.
        """
        queries, gallery = self._queries, self._gallery
        if self.distributed:
            comm.synchronize()
            parts = comm.gather((queries, gallery), dst=0)
            if not comm.is_main_process():
                return {}
            queries = list(chain.from_iterable(part[0] for part in parts))
            gallery = list(chain.from_iterable(part[1] for part in parts))
        ranks = _first_hit_rank(_concatenate(queries), _concatenate(gallery), self.similarity)
        total = int(self.is_query.sum())
        accuracy = {f"top{k}": 100 * (ranks <= k).sum().item() / total for k in RANKS}
        return {"retrieval": accuracy | {"missed": 100 * (1 - len(ranks) / total)}}


def _items(truth: AnnotationTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the items of garments, int64 (G,), -1 for crowds; bool (N,), images by shops."""
    pair_ids = truth.photo_attributes["pair_id"][truth.garment_image]
    items = item_ids(pair_ids, truth.garment_attributes["style"])
    items[truth.iscrowd] = -1
    return items, truth.photo_attributes["source"] == "shop"


def _best_per_query(overlaps: Tensor, scores: Tensor) -> Tensor:
    """Return the detection that represents each garment: the best scored of those that overlap it most.

    Args:
        overlaps: IoU (n, g) of n detections and g garments.
        scores: (n,).

    Returns:
        int64 (g,), the detection's row, -1 where there is none.
    """
    chosen = torch.full(overlaps.shape[1:], -1)
    if overlaps.numel():
        iou, garment = overlaps.max(dim=1)
        for detection in scores.argsort(descending=True, stable=True).tolist():
            if iou[detection] > 0 and chosen[garment[detection]] < 0:
                chosen[garment[detection]] = detection
    return chosen


def _concatenate(parts: list[Embeddings]) -> Embeddings:
    embeddings, rows, items = [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)], []
    start = 0
    for part in parts:
        embeddings.append(part.embeddings)
        rows.append(part.rows + start)
        items.append(part.items)
        start += len(part.embeddings)
    return Embeddings(torch.cat(embeddings), torch.cat(rows), torch.cat([rows[0], *items]))


def _first_hit_rank(queries: Embeddings, gallery: Embeddings, similarity: Similarity) -> Tensor:
    """Return the rank, from 1, of the first garment in the gallery that shows the query's item.

    Args:
        queries: Q garments that show one item each.
        gallery: the garments to retrieve.
        similarity: as in :class:`RetrievalEvaluator`.

    Returns:
        float32 (Q,), inf beyond the last of ``RANKS``.
    """
    ranks = torch.full((len(queries.items),), torch.inf)
    limit = min(max(RANKS), len(gallery.embeddings))
    if not (len(ranks) and limit):
        return ranks
    num_items = int(torch.cat([queries.items, gallery.items]).max()) + 1
    shown = gallery.rows * num_items + gallery.items  # row and item as one number
    for chunk in torch.arange(len(ranks)).split(_QUERIES_PER_CHUNK):
        similarities = similarity(queries.embeddings[chunk], gallery.embeddings)
        retrieved = similarities.topk(limit, dim=1).indices.cpu()  # (chunk, limit)
        is_hit = torch.isin(retrieved * num_items + queries.items[chunk, None], shown)
        ranks[chunk] = torch.where(is_hit.any(dim=1), is_hit.int().argmax(dim=1) + 1.0, torch.inf)
    return ranks
