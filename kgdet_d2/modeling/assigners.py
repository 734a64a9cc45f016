"""Which cells answer for which garment: by place (paper, "Classification"), or by the box they propose.

L cells of all levels, G garments of one image.
"""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

BACKGROUND, IGNORED = -1, -2


def assign_by_center(
    boxes: Tensor, cells: Tensor, strides: Tensor, valid: Tensor, num_positives: int
) -> Tensor:
    """The garment of every cell.

    A garment belongs to the level nearest in scale, 2^level ~ sqrt(w h) / 4 (truncated, clamped to the levels
    there are). In that level the ``num_positives`` valid cells with the smallest |(cell - centre) / (w, h)|
    are its own, or all of them where there are fewer. A cell that two garments want goes to the smaller
    distance; where that is equal, to the first garment.

    Args:
        boxes: (G, 4) x1, y1, x2, y2 in pixels; G may be 0.
        cells: (L, 2) x, y in pixels.
        strides: (L,) pixels, powers of two.
        valid: (L,) bool, False for cells in the batch's padding.

    Returns:
        (L,) int64: the garment's index, BACKGROUND, or IGNORED where not valid.
    """
    matched = torch.where(valid, BACKGROUND, IGNORED)
    if len(boxes) == 0:
        return matched
    cell_levels = strides.log2().round().long()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    levels = ((sizes / 4).log2().sum(dim=1) / 2).long().clamp(cell_levels.min(), cell_levels.max())

    distances = ((cells[None] - centres[:, None]) / sizes[:, None]).norm(dim=2)  # (G, L)
    candidate = (levels[:, None] == cell_levels[None]) & valid[None]
    distances = distances.masked_fill(~candidate, torch.inf)
    nearest, indices = distances.topk(min(num_positives, len(cells)), dim=1, largest=False)
    claims = torch.full_like(distances, torch.inf).scatter(1, indices, nearest)
    winner = claims.argmin(dim=0)  # the first garment among equals
    claimed = claims.amin(dim=0).isfinite()
    return torch.where(claimed, winner, matched)


def assign_by_iou(
    boxes: Tensor, proposals: Tensor, valid: Tensor, *, background_iou: float, positive_iou: float
) -> Tensor:
    """The garment of every cell, by the box that the cell proposes (RepPoints, refinement stage).

    A cell goes to the garment with which its box has the highest IoU, if that is at least ``positive_iou``.
    Below ``background_iou`` it is background, between the two it is ignored. But the cells whose boxes have
    the highest IoU with a garment are that garment's whatever their IoU is, unless it is 0, so that every
    garment that is overlapped at all has a cell; where two garments claim one so, the later gets it.

    Args:
        boxes: (G, 4) x1, y1, x2, y2 in pixels; G may be 0.
        proposals: (L, 4), likewise.
        valid: (L,) bool, False for cells in the batch's padding.

    Returns:
        (L,) int64: the garment's index, BACKGROUND, or IGNORED.
    """
    matched = torch.where(valid, BACKGROUND, IGNORED)
    if len(boxes) == 0:
        return matched
    iou = pairwise_iou(Boxes(boxes), Boxes(proposals)).masked_fill(~valid, 0)  # (G, L)
    highest, garment = iou.max(dim=0)  # the first garment among equals
    matched = torch.where(highest >= background_iou, IGNORED, matched)
    matched = torch.where(highest >= positive_iou, garment, matched)
    closest = (iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)
    number = torch.arange(1, len(boxes) + 1, device=iou.device)
    last = (closest * number[:, None]).amax(dim=0)  # of the garments that a cell is closest to, from 1
    return torch.where(last > 0, last - 1, matched)
