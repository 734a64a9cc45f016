"""The polygons of COCO's segmentations: lists of coordinates, or run-length masks."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util

from kgdet_d2.utils.check import check


def polygons_of_segmentation(segmentation: Any, width: int, height: int) -> list[np.ndarray]:
    """Return the polygons of a segmentation, float32 (V, 2) each, x y in continuous pixels of the photo.

    Args:
        segmentation: a list of polygons, each x y x y ... or (V, 2); a run-length mask as COCO has it, a dict
            of ``size`` and ``counts``, compressed or not; None for none.
        width: of the photo, in pixels.
        height: of the photo, in pixels.

    Raises:
        ValueError: something else, an odd number of coordinates, or a mask that is not of the photo's size.
    """
    if segmentation is None:
        return []
    if isinstance(segmentation, Mapping):
        return polygons_of_mask(decode_mask(segmentation, width, height))
    check(
        isinstance(segmentation, list | tuple | np.ndarray),
        f"expected a list of polygons or a run-length mask, got {type(segmentation).__name__}",
    )
    polygons = []
    for coordinates in segmentation:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found as such
            polygon = np.ravel(np.asarray(coordinates, np.float32))
        check(len(polygon) % 2 == 0, f"expected x and y of each vertex, got {len(polygon)} numbers")
        polygons.append(polygon.reshape(-1, 2))
    return polygons


def decode_mask(mask: Mapping[str, Any], width: int, height: int) -> np.ndarray:
    """Decode a run-length mask of a photo to uint8 (height, width).

    Raises:
        ValueError: it is damaged, or of another size.
    """
    size, counts = list(mask.get("size", ())), mask.get("counts")
    check(
        size == [height, width],
        f"run-length mask: expected the size of the photo, [{height}, {width}], got {size}",
    )
    runs = np.asarray(_run_lengths(counts) if isinstance(counts, str | bytes) else counts)
    usable = runs.ndim == 1 and runs.dtype.kind in "iu" and (runs >= 0).all()
    check(
        bool(usable) and runs.sum() == height * width,
        f"run-length mask: expected runs of {height * width} pixels in all",
    )
    return mask_util.decode(mask_util.frPyObjects({"size": size, "counts": runs.tolist()}, height, width))


def _run_lengths(counts: str | bytes) -> list[int]:
    """Return the runs of a compressed mask, of which pycocotools' ``decode`` would not notice a missing end.

    Five bits a character from 48 on, the sixth says that the run goes on in the next; the last one's fifth is
    the sign. From the third run on it is the difference to the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode() if isinstance(counts, str) else counts:
        value |= (code - 48 & 31) << shift
        shift += 5
        if not code - 48 & 32:
            if code - 48 & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def polygons_of_mask(mask: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of a mask's parts, float32 (V, 2) each, through the middles of its outer pixels.

    As Detectron2's ``GenericMask.mask_to_polygons``, but that holes are filled and straight lines have two
    vertices. A part of fewer than three vertices, such as a single pixel, has no outline.

    Args:
        mask: uint8 (height, width).
    """
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = (contour.reshape(-1, 2).astype(np.float32) + 0.5 for contour in contours)
    return [outline for outline in outlines if len(outline) >= 3]
