"""Regions to ignore in training: annotated, but not as a garment to learn from (COCO's ``iscrowd``).

The rule, of every system. A garment's positives are what they are, wherever they lie. Of all others

- a location (KGDet, RepPoints, FCOS) that lies in a region, on its edge included, and
- an anchor or a proposal (RetinaNet, R-CNN) of whose own area at least half lies in one region

counts in no classification loss: what is there is not known, so that it must not be learnt as background.

L locations, R boxes and k regions of one image.
"""

from detectron2.structures import Boxes, Instances, pairwise_ioa
from torch import Tensor

_LEAST_SHARE = 0.5  # of a box's own area


def split_ignored(gt_instances: list[Instances]) -> tuple[list[Instances], list[Boxes]]:
    """Split each image's annotations into its garments and its regions to ignore.

    Args:
        gt_instances: with gt_boxes and, where an image has regions, bool gt_ignored (n,), True for these.

    Returns:
        The garments, without that field (the same instances where there is none), and the regions' boxes.
    """
    garments, regions = [], []
    for instances in gt_instances:
        if instances.has("gt_ignored"):
            ignored = instances.gt_ignored
            regions.append(instances.gt_boxes[ignored])
            instances = instances[~ignored]
            instances.remove("gt_ignored")
        else:
            regions.append(instances.gt_boxes[:0])
        garments.append(instances)
    return garments, regions


def locations_ignored(locations: Tensor, regions: Boxes) -> Tensor:
    """Check which locations lie in a region.

    Args:
        locations: (L, 2) x, y in pixels.
        regions: k, in pixels.

    Returns:
        (L,) bool.
    """
    corners = regions.tensor[:, None]  # (k, 1, 4)
    inside = (locations >= corners[..., :2]) & (locations <= corners[..., 2:])  # (k, L, 2)
    return inside.all(dim=-1).any(dim=0)


def boxes_ignored(boxes: Boxes, regions: Boxes) -> Tensor:
    """Check which of R boxes have at least half of their area in one of k regions; (R,) bool."""
    return (pairwise_ioa(regions, boxes) >= _LEAST_SHARE).any(dim=0)


def leave_out(labels: Tensor, where: Tensor, *, background: int, ignored: int = -1) -> Tensor:
    """Return labels (L,) whose background is ignored ``where`` (L,) is True; the values of both are given."""
    return labels.masked_fill(where & (labels == background), ignored)
