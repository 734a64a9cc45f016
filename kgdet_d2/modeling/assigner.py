"""Which cells answer for which garment (paper, "Classification": the k cells nearest to the box centre).

L cells of all levels, G garments of one image.
"""

import torch
from torch import Tensor

BACKGROUND, IGNORED = -1, -2


def assign_cells(boxes: Tensor, cells: Tensor, strides: Tensor, valid: Tensor, num_positives: int) -> Tensor:
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
