"""What a stage says: of all cells, or of those alone that it is asked about.

N images, H x W cells of a level, C classes, K landmarks of all classes, P points that boxes are made of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kgdet_d2.modeling.aggregation import pick

# Images, rows and columns (n,) of some of one level's cells.
Cells = tuple[Tensor, Tensor, Tensor]
# These -> boxes (n, 4), keypoints (n, 2K) or None.
CellReader = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


@dataclass
class StageOutput:
    """What one stage says, a tensor per level in each field. Offsets are relative to the cell, in strides.

    Attributes:
        logits: (N, C, H, W), before the sigmoid; None where the stage does not classify.
        keypoints: (N, 2K, H, W) offsets, y first; None where the head places no landmarks.
        points: (N, 2P, H, W) offsets of the (informative) points, y first.
        boxes: (N, 4, H, W) x1, y1, x2, y2, the moments of the points.
        visibility: (N, K, H, W) of each landmark, before the sigmoid; only with keypoint selection.
    """

    logits: list[Tensor] | None
    keypoints: list[Tensor] | None
    points: list[Tensor]
    boxes: list[Tensor]
    visibility: list[Tensor] | None = None

    def at(self, images: Tensor, cells: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes (n, 4) and keypoints (n, 2K), as far as there are any, at chosen cells.

        Args:
            images, cells: (n,) each; cells are counted through all levels.
        """
        keypoints = self.keypoints or [None] * len(self.boxes)
        readers = [partial(_read_maps, *level) for level in zip(self.boxes, keypoints, strict=True)]
        return _read_levels(readers, [level.shape[-2:] for level in self.boxes], images, cells)


class PendingStage:
    """A stage that has told its classes; the rest is worked out by :meth:`at` where it is asked for.

    Attributes:
        logits: (N, C, H, W) of each level, as in :class:`StageOutput`; -inf at cells that are not looked at.
    """

    def __init__(self, logits: list[Tensor], readers: list[CellReader]):
        self.logits = logits
        self._readers = readers

    def at(self, images: Tensor, cells: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`StageOutput.at`."""
        return _read_levels(self._readers, [level.shape[-2:] for level in self.logits], images, cells)


def _read_maps(boxes: Tensor, keypoints: Tensor | None, *cells: Tensor) -> tuple[Tensor, Tensor | None]:
    """A :data:`CellReader` of maps that are there."""
    return pick(boxes, cells).flatten(1), None if keypoints is None else pick(keypoints, cells).flatten(1)


def _read_levels(
    readers: list[CellReader], sizes: list[torch.Size], images: Tensor, cells: Tensor
) -> tuple[Tensor, Tensor | None]:
    """What each level's reader says of its own ones of the cells, in the order of the cells."""
    start, chosen, parts = 0, [], []
    for reader, (height, width) in zip(readers, sizes, strict=True):
        chosen.append(((cells >= start) & (cells < start + height * width)).nonzero().flatten())
        own = cells[chosen[-1]] - start
        parts.append(reader(images[chosen[-1]], own // width, own % width))
        start += height * width
    order = torch.cat(chosen).argsort()
    return tuple(None if part[0] is None else torch.cat(part)[order] for part in zip(*parts, strict=True))


def as_maps(values: Tensor, cells: Cells | None, features: Tensor, elsewhere: float = 0.0) -> Tensor:
    """The reverse of :func:`pick`: values (n, D, 1, 1) of the cells -> (N, D, H, W), as the features are.

    Where ``cells`` is None the values are maps of all cells, and stay so.
    """
    if cells is None:
        return values
    images, rows, columns = cells
    maps = values.new_full((len(features), values.shape[1], *features.shape[-2:]), elsewhere)
    maps[images, :, rows, columns] = values.flatten(1)
    return maps
