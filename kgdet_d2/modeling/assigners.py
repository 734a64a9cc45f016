"""Assignment of garments to locations: by centre (paper, "Classification"), or by IoU of proposed boxes.

L locations of all levels, G garments of one image.
"""

import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

BACKGROUND, IGNORED = -1, -2


def assign_by_center(
    boxes: Tensor, locations: Tensor, strides: Tensor, valid: Tensor, num_positives: int
) -> Tensor:
    """Assign each garment to the locations nearest to its centre.

    A garment belongs to the level nearest in scale, 2^level ~ sqrt(w h) / 4 (truncated, clamped to the levels
    there are). In that level it is assigned to the ``num_positives`` valid locations with the smallest
    |(location - centre) / (w, h)|, or to all of them where there are fewer. Of two garments at one location
    the one at the smaller distance has it; where that is equal, the first.

    Args:
        boxes: (G, 4) x1, y1, x2, y2 in pixels; G may be 0.
        locations: (L, 2) x, y in pixels.
        strides: (L,) pixels, powers of two.
        valid: (L,) bool, False for locations in the batch's padding.
        num_positives: k, locations of a garment.

    Returns:
        (L,) int64: the garment's index, BACKGROUND, or IGNORED where not valid.
    """
    matched_idxs = torch.where(valid, BACKGROUND, IGNORED)
    if len(boxes) == 0:
        return matched_idxs
    location_levels = strides.log2().round().long()  # (L,)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (G, 2)
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)  # (G, 2)
    levels = ((sizes / 4).log2().sum(dim=1) / 2).long()  # (G,)
    levels = levels.clamp(location_levels.min(), location_levels.max())

    distances = ((locations[None] - centres[:, None]) / sizes[:, None]).norm(dim=2)  # (G, L)
    candidates = (levels[:, None] == location_levels[None]) & valid[None]
    distances = distances.masked_fill(~candidates, torch.inf)
    nearest, indices = distances.topk(min(num_positives, len(locations)), dim=1, largest=False)  # (G, k)
    claims = torch.full_like(distances, torch.inf).scatter(1, indices, nearest)  # (G, L), k finite a row
    winner = claims.argmin(dim=0)  # (L,), the first garment among equals
    claimed = claims.amin(dim=0).isfinite()
    return torch.where(claimed, winner, matched_idxs)


def assign_by_iou(
    boxes: Tensor, proposals: Tensor, valid: Tensor, *, background_iou: float, positive_iou: float
) -> Tensor:
    """Assign each location the garment that the box proposed there fits (RepPoints, refinement stage).

    A location goes to the garment with which its box has the highest IoU, if that is at least
    ``positive_iou``. Below ``background_iou`` it is background, between the two it is ignored. But the
    locations whose boxes have the highest IoU with a garment are assigned to it whatever their IoU is, unless
    it is 0, so that every garment that is overlapped at all has a location; of two such garments at one
    location the later has it.

    Args:
        boxes: (G, 4) x1, y1, x2, y2 in pixels; G may be 0.
        proposals: (L, 4), likewise.
        valid: (L,) bool, False for locations in the batch's padding.
        background_iou: below it a location is background.
        positive_iou: from it on a location is positive.

    Returns:
        (L,) int64: the garment's index, BACKGROUND, or IGNORED.
    """
    matched_idxs = torch.where(valid, BACKGROUND, IGNORED)
    if len(boxes) == 0:
        return matched_idxs
    iou = pairwise_iou(Boxes(boxes), Boxes(proposals)).masked_fill(~valid, 0)  # (G, L)
    highest, best_garment = iou.max(dim=0)  # (L,), the first garment among equals
    matched_idxs = torch.where(highest >= background_iou, IGNORED, matched_idxs)
    matched_idxs = torch.where(highest >= positive_iou, best_garment, matched_idxs)
    closest = (iou == iou.amax(dim=1, keepdim=True)) & (iou > 0)  # (G, L)
    garment_numbers = torch.arange(1, len(boxes) + 1, device=iou.device)  # from 1; 0 is no garment
    last = (closest * garment_numbers[:, None]).amax(dim=0)  # (L,), of the garments closest to the location
    return torch.where(last > 0, last - 1, matched_idxs)
