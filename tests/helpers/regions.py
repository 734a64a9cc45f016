"""Annotations with regions to ignore, as the mapper gives them."""

import torch
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks


def with_regions(garments, regions, order=None):
    """Add regions, given as boxes, to garments; in the ``order`` (n,), or else after them."""
    count, boxes = len(garments), torch.tensor(regions, dtype=torch.float32).view(-1, 4)
    more = len(boxes)
    fields = {"gt_boxes": Boxes(torch.cat([garments.gt_boxes.tensor, boxes]))}
    fields["gt_classes"] = torch.cat([garments.gt_classes, torch.zeros(more, dtype=torch.long)])
    if garments.has("gt_keypoints"):
        keypoints = garments.gt_keypoints.tensor
        fields["gt_keypoints"] = Keypoints(
            torch.cat([keypoints, keypoints.new_zeros(more, *keypoints.shape[1:])])
        )
    if garments.has("gt_masks"):
        fields["gt_masks"] = PolygonMasks([*garments.gt_masks.polygons, *([[]] * more)])
    if garments.has("gt_styles"):
        fields["gt_styles"] = torch.cat([garments.gt_styles, torch.ones(more, dtype=torch.long)])
    instances = Instances(garments.image_size, **fields, gt_ignored=torch.arange(count + more) >= count)
    return instances if order is None else instances[torch.as_tensor(order)]


def lies_in(point, regions):
    """Whether a point x, y lies in one of the regions."""
    return any(x1 <= point[0] <= x2 and y1 <= point[1] <= y2 for x1, y1, x2, y2 in regions)


def half_in(box, regions):
    """Whether half of a box's area lies in one of the regions."""
    x1, y1, x2, y2 = box
    for left, top, right, bottom in regions:
        shared = max(min(x2, right) - max(x1, left), 0) * max(min(y2, bottom) - max(y1, top), 0)
        if shared >= 0.5 * (x2 - x1) * (y2 - y1) > 0:
            return True
    return False
