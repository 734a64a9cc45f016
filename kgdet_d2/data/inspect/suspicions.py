"""Garments whose annotation looks wrong, found from the columns of the annotations alone.

G garments, L landmarks of all garments, K_c of one class. Regions of crowds (``iscrowd``) are no garments and
are not judged. A landmark is one that is labelled, v > 0. Lengths are pixels of the photo, or shares of the
longer side of the garment's box.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from kgdet_d2.data.inspect.flip_check import AGREES, FlipCheck, is_frontal, positions_in_boxes
from kgdet_d2.data.inspect.problems import Kind, Problem
from kgdet_d2.structures.annotations import AnnotationTable

OUTSIDE = 0.1  # of the box's longer side: how far out a landmark, or a box out of its photo, is suspicious
COINCIDE = 0.5  # pixels: landmarks that lie no further apart coincide
TINY = 16  # pixels of the resized photo: boxes whose area is below the square of it are tiny
ODD_FORM = 4  # times the class's median of width / height, or a quarter of it
MOST_FORM = 10  # width / height, or height / width, which is odd whatever the class
SAME_BOXES = 0.9  # IoU of two boxes of one class
EXCHANGED = (
    0.5  # of the distance from where the class's landmarks lie is left once left and right are exchanged
)

NO_AREA = Kind("box without area", "has a box without width or height; training leaves it out")
BEYOND = Kind(
    "box beyond the photo",
    f"has a box that leaves the photo by over {OUTSIDE:.0%} of its longer side",
)
TINY_BOX = Kind("tiny box", f"has a box smaller than {TINY} x {TINY} pixels once the photo is resized")
ODD_BOX = Kind(
    "odd form of the box",
    f"has a box over {ODD_FORM} times as wide or as narrow as is the median of its class, "
    f"or over {MOST_FORM} times as long as wide",
)
OUT_OF_BOX = Kind(
    "landmarks outside the box", f"has landmarks outside its box by over {OUTSIDE:.0%} of its longer side"
)
AT_ORIGIN = Kind("landmarks at the origin", "has landmarks labelled at (0, 0), where tools put absent ones")
ONE_POINT = Kind("landmarks at one point", "has several landmarks, all at one point")
COINCIDENT = Kind(
    "landmarks that coincide", f"has different landmarks no more than {COINCIDE} pixels apart, but not all"
)
SIDES = Kind(
    "left and right exchanged",
    "has its landmarks less than half as far from where they lie in its class once left and right are "
    "exchanged; so does one that is seen from behind",
)
TWICE = Kind("garment twice", f"has a box with an IoU over {SAME_BOXES} with another's of its class")
KINDS = (
    NO_AREA, BEYOND, TINY_BOX, ODD_BOX, OUT_OF_BOX, AT_ORIGIN, ONE_POINT, COINCIDENT, SIDES, TWICE
)  # fmt: skip

_MAX_CELLS = 1 << 22  # distances of landmarks that are held at a time


def find_suspicions(
    annotations: AnnotationTable, resized_box: np.ndarray, checks: Sequence[FlipCheck]
) -> list[Problem]:
    """Find the garments that look wrong.

    Args:
        annotations: of G garments.
        resized_box: float32 (G, 4), their boxes in the photos as a network sees them.
        checks: of the flip map, by :func:`~kgdet_d2.data.inspect.flip_check.check_flip_map`.

    Returns:
        Problems of :data:`KINDS`; a garment may have several.
    """
    return [
        *_boxes(annotations, resized_box),
        *_landmarks_by_their_places(annotations),
        *_coincident(annotations),
        *_exchanged_sides(annotations, checks),
        *_twice(annotations),
    ]


def _flagged(
    kind: Kind,
    annotations: AnnotationTable,
    rows: np.ndarray,
    severity: np.ndarray,
    reason: Callable[[int], str],
) -> Iterator[Problem]:
    """Generate a problem for each garment of rows (n,), with its severity (G,); crowds are left out."""
    for row in rows[~annotations.iscrowd[rows]].tolist():
        photo = int(annotations.garment_image[row])
        yield Problem(kind, photo, reason(row), garments=(row,), severity=float(severity[row]))


def _boxes(annotations: AnnotationTable, resized_box: np.ndarray) -> Iterator[Problem]:
    box = annotations.box_float64
    width, height = (box[:, 2:] - box[:, :2]).T
    has_area, photo = annotations.has_area, annotations.garment_image

    def flagged(kind: Kind, flags: np.ndarray, severity: np.ndarray, text: str) -> Iterator[Problem]:
        def reason(row: int) -> str:
            return text.format(width[row], height[row], severity[row])

        return _flagged(kind, annotations, np.flatnonzero(flags), severity, reason)

    yield from flagged(NO_AREA, ~has_area, np.ones(len(box)), "{:.4g} x {:.4g} pixels")

    edge = np.column_stack([annotations.width, annotations.height])[photo]
    beyond = np.maximum(-box[:, :2], box[:, 2:] - edge).max(axis=1, initial=0)
    share = beyond / _longer_side(annotations)
    text = "{:.4g} x {:.4g} pixels, by {:.0%} of the longer side"
    yield from flagged(BEYOND, has_area & (share > OUTSIDE), share, text)

    resized = (resized_box[:, 2:] - resized_box[:, :2]).astype(np.float64).prod(axis=1).clip(0)
    tiny = has_area & (resized < TINY**2)
    text = "{:.4g} x {:.4g} pixels in the photo"
    yield from flagged(TINY_BOX, tiny, -resized, text)

    form = np.ones(len(box))
    np.divide(width, height, out=form, where=has_area)
    from_class = np.exp(np.abs(_log_form_from_class(annotations, form)))
    longish = np.maximum(form, 1 / form)
    severity = np.maximum(from_class / ODD_FORM, longish / MOST_FORM)
    yield from flagged(ODD_BOX, has_area & (severity > 1), severity, "{:.4g} x {:.4g} pixels")


def _log_form_from_class(annotations: AnnotationTable, form: np.ndarray) -> np.ndarray:
    """Return float64 (G,), the logarithm of width / height less the median of the class."""
    judged = annotations.has_area & ~annotations.iscrowd
    difference = np.zeros(len(form))
    for index in np.unique(annotations.category_id[judged]).tolist():
        own = judged & (annotations.category_id == index)
        difference[own] = np.log(form[own]) - np.median(np.log(form[own]))
    return difference


def _longer_side(annotations: AnnotationTable) -> np.ndarray:
    """Return float64 (G,), 1 at least, so that a box without area has a tolerance, too."""
    box = annotations.box_float64
    return (box[:, 2:] - box[:, :2]).max(axis=1, initial=1)


def _landmarks_by_their_places(annotations: AnnotationTable) -> Iterator[Problem]:
    garment = np.repeat(np.arange(annotations.num_garments), np.diff(annotations.keypoint_offsets))  # (L,)
    labelled, xy = annotations.labelled(), annotations.points_float64
    number = annotations.num_labelled()

    box = annotations.box_float64[garment]
    outside = np.maximum(box[:, :2] - xy, xy - box[:, 2:]).max(axis=1, initial=0)
    share = outside / _longer_side(annotations)[garment]
    out = labelled & (share > OUTSIDE) & annotations.has_area[garment]
    furthest, out_count = np.zeros(len(number)), _count(garment[out], len(number))
    np.maximum.at(furthest, garment[out], share[out])

    def far(row: int) -> str:
        return f"{out_count[row]} of {number[row]} landmarks, by {furthest[row]:.0%} of the longer side"

    yield from _flagged(OUT_OF_BOX, annotations, np.flatnonzero(out_count), furthest, far)

    origin_count = _count(garment[labelled & (xy == 0).all(axis=1)], len(number))
    yield from _flagged(
        AT_ORIGIN,
        annotations,
        np.flatnonzero(origin_count),
        origin_count / np.maximum(number, 1),
        lambda row: f"{origin_count[row]} of {number[row]} landmarks",
    )


def _count(garment: np.ndarray, garments: int) -> np.ndarray:
    return np.bincount(garment, minlength=garments)


def _coincident(annotations: AnnotationTable) -> Iterator[Problem]:
    """Find the garments with landmarks at the places of others."""
    for index, names in enumerate(annotations.schema.keypoint_names):
        rows = np.flatnonzero((annotations.category_id == index) & ~annotations.iscrowd)
        chunk = max(_MAX_CELLS // max(len(names), 1) ** 2, 1)
        for start in range(0, len(rows), chunk):
            yield from _coincident_in(annotations, rows[start : start + chunk], names)


def _coincident_in(annotations: AnnotationTable, rows: np.ndarray, names: Sequence[str]) -> Iterator[Problem]:
    local = np.arange(len(names))
    keypoints = annotations.keypoints[annotations.keypoint_offsets[rows][:, None] + local]  # (n, K_c, 3)
    x, y, labelled = keypoints[..., 0], keypoints[..., 1], keypoints[..., 2] > 0
    first, second = np.triu_indices(len(names), 1)  # of the P pairs
    both = labelled[:, first] & labelled[:, second]  # (n, P)
    near = np.abs(x[:, first] - x[:, second]) <= COINCIDE
    near &= np.abs(y[:, first] - y[:, second]) <= COINCIDE
    together = both & near
    for garment in np.flatnonzero(together.any(axis=1)).tolist():
        row, count = int(rows[garment]), int(together[garment].sum())
        photo, number = int(annotations.garment_image[row]), int(labelled[garment].sum())
        if count == both[garment].sum():
            at_x, at_y = keypoints[garment, labelled[garment]][0, :2].tolist()
            reason = f"all {number} landmarks at ({at_x:.4g}, {at_y:.4g})"
            yield Problem(ONE_POINT, photo, reason, garments=(row,), severity=number)
        else:
            pair = int(np.argmax(together[garment]))
            reason = f"{names[first[pair]]} and {names[second[pair]]}"
            reason += f", and {count - 1} further pairs" if count > 1 else ""
            yield Problem(COINCIDENT, photo, reason, garments=(row,), severity=count / number)


def _exchanged_sides(annotations: AnnotationTable, checks: Sequence[FlipCheck]) -> Iterator[Problem]:
    """Find single garments whose landmarks fit the class's places better once left and right are exchanged.

    Only where it can be told: in classes of enough garments whose pairs agree with the flip map, in garments
    with two such pairs or more. One that lies upside down, whose left is at the right likewise, is no such.
    """
    usable = np.flatnonzero(is_frontal(annotations) & annotations.has_area & ~annotations.iscrowd)
    for check in checks:
        known = np.array([verdict == AGREES for verdict in check.verdict])
        paired = known & (check.partner != np.arange(len(known)))
        rows = usable[annotations.category_id[usable] == check.category_id]
        if paired.sum() < 4 or not len(rows):
            continue
        positions = positions_in_boxes(annotations, rows, check.category_id).astype(np.float64)  # (n, K_c, 2)
        seen = np.isfinite(positions[..., 0])
        seen &= known & seen[:, check.partner]
        enough = (seen & paired).sum(axis=1) >= 4  # two pairs
        plain, exchanged, upside_down = (
            _distance(positions, place, seen)
            for place in (check.median_xy, check.median_xy[check.partner], 1 - check.median_xy)
        )
        wrong = enough & (exchanged < EXCHANGED * plain) & (exchanged < upside_down)
        for garment in np.flatnonzero(wrong).tolist():
            row = int(rows[garment])
            reason = (
                f"{exchanged[garment]:.2f} of the box away from the class's places once they are exchanged, "
                f"{plain[garment]:.2f} as they are"
            )
            photo, severity = int(annotations.garment_image[row]), plain[garment] - exchanged[garment]
            yield Problem(SIDES, photo, reason, garments=(row,), severity=float(severity))


def _distance(positions: np.ndarray, places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the root mean square distance of landmarks (n, K_c, 2) from places (K_c, 2), of those seen.

    Args:
        positions: of the garments' landmarks.
        places: that they are compared with.
        seen: bool (n, K_c).

    Returns:
        float64 (n,), 0 where none is seen.
    """
    squares = np.where(seen, ((positions - places) ** 2).sum(axis=2), 0)
    return np.sqrt(squares.sum(axis=1) / np.maximum(seen.sum(axis=1), 1))


def _twice(annotations: AnnotationTable) -> Iterator[Problem]:
    judged = np.flatnonzero(annotations.has_area & ~annotations.iscrowd)
    key = annotations.garment_image[judged] * annotations.schema.num_classes + annotations.category_id[judged]
    order = np.argsort(key, kind="stable")
    groups = np.split(judged[order], np.flatnonzero(np.diff(key[order])) + 1)
    for rows in groups:
        if len(rows) < 2:
            continue
        boxes = BoxMode.convert(annotations.box_float64[rows], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        iou = mask_util.iou(boxes, boxes, [0] * len(boxes))
        for first, second in combinations(range(len(rows)), 2):
            if iou[first, second] > SAME_BOXES:
                garments = int(rows[first]), int(rows[second])
                photo = int(annotations.garment_image[rows[0]])
                yield Problem(
                    TWICE, photo, f"IoU {iou[first, second]:.3f}", garments, severity=iou[first, second]
                )
