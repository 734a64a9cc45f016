"""Statistics of a dataset, counted from the columns of its annotations.

N photos, G garments, L landmarks of all garments. A table is a list of rows, a row a dict of column -> value
that JSON can hold. Shares are 0..1; a share or quantile of nothing is None. Lengths are pixels of the photo.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable

Row = dict[str, Any]

SMALL, MEDIUM = 32**2, 96**2  # COCO: areas in square pixels below which a box is small, medium
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
MOST_VALUES = 12  # rows of an attribute with many values, the last of which sums up the rare ones
_PAIR = "pair_id"


def overview(annotations: AnnotationTable) -> dict[str, int]:
    """Count photos, garments, boxes and landmarks of the whole dataset."""
    garments = np.diff(annotations.garment_offsets)
    pairs = annotations.photo_attributes.get(_PAIR)
    return {
        "photos": len(annotations),
        "photos without garments": int((garments == 0).sum()),
        "sizes of photos": len(np.unique(np.column_stack([annotations.width, annotations.height]), axis=0)),
        **({} if pairs is None else {"pairs": len(np.unique(pairs))}),
        "garments": int(garments.sum()),
        "garments without a labelled landmark": int((annotations.num_labelled() == 0).sum()),
        "boxes without area": int((~annotations.has_area).sum()),
        "labelled landmarks": int((annotations.keypoints[:, 2] > 0).sum()),
        "occluded landmarks": int((annotations.keypoints[:, 2] == 1).sum()),
    }


def garments_per_photo(annotations: AnnotationTable) -> list[Row]:
    """Make a row for each number of garments in a photo, up to the largest."""
    counts = np.bincount(np.diff(annotations.garment_offsets))
    return [
        {"garments": number, "photos": int(count), "share": _share(count, len(annotations))}
        for number, count in enumerate(counts)
    ]


def classes(annotations: AnnotationTable) -> list[Row]:
    """Make a row for each class: its garments, its landmarks by visibility, its boxes by COCO's sizes."""
    schema, category = annotations.schema, annotations.category_id
    total = np.bincount(category, minlength=schema.num_classes)
    unlabelled = annotations.num_labelled() == 0
    total_unlabelled = np.bincount(category[unlabelled], minlength=schema.num_classes)
    area = _sizes(annotations).astype(np.float64).prod(axis=1)
    size_index = np.digitize(area, (SMALL, MEDIUM))
    by_size = np.bincount(3 * category + size_index, minlength=3 * schema.num_classes).reshape(-1, 3)
    visibility = np.split(_visibility(annotations), _first_keypoints(schema)[1:])
    rows = []
    for index, name in enumerate(schema.class_names):
        small, medium, large = by_size[index].tolist()
        rows.append(
            {
                "class": name,
                "garments": int(total[index]),
                "share": _share(total[index], len(category)),
                **_visibility_shares(visibility[index].sum(axis=0)),
                "no landmark": int(total_unlabelled[index]),
                "small": small,
                "medium": medium,
                "large": large,
            }
        )
    return rows


def keypoints(annotations: AnnotationTable) -> list[Row]:
    """Make a row for each landmark of each class, numbered from 1 within the class."""
    schema = annotations.schema
    visibility = np.split(_visibility(annotations), _first_keypoints(schema)[1:])
    rows = []
    for class_name, names, class_visibility in zip(
        schema.class_names, schema.keypoint_names, visibility, strict=True
    ):
        for number, (name, counts) in enumerate(zip(names, class_visibility, strict=True), 1):
            row = {"class": class_name, "number": number, "landmark": name, "garments": int(counts.sum())}
            rows.append(row | _visibility_shares(counts))
    return rows


def sizes(annotations: AnnotationTable) -> list[Row]:
    """Make a row of quantiles for each length and ratio of photos and of boxes that have an area."""
    photo = annotations.garment_image
    kept = annotations.has_area
    width, height = _sizes(annotations)[kept].T.astype(np.float64)
    quantities = {
        "photo width": annotations.width,
        "photo height": annotations.height,
        "box width": width,
        "box height": height,
        "box sqrt(area)": np.sqrt(width * height),
        "box width / photo width": width / annotations.width[photo[kept]],
        "box height / photo height": height / annotations.height[photo[kept]],
        "box width / height": width / height,
    }
    return [{"": name, **_quantiles(values)} for name, values in quantities.items()]


def attributes(annotations: AnnotationTable) -> list[Row]:
    """Make a row for each value of each attribute but pair_id; rare values of one with many share a row."""
    tables = {"photo": annotations.photo_attributes, "garment": annotations.garment_attributes}
    rows = []
    for kind, columns in tables.items():
        for name, column in columns.items():
            if name != _PAIR:
                rows += [{"of": kind, "attribute": name, **row} for row in _values(column)]
    return rows


def levels(annotations: AnnotationTable, level: np.ndarray, names: Sequence[str]) -> list[Row]:
    """Make a row for each class, then one for all: the boxes with an area on each level.

    Args:
        annotations: of G garments.
        level: int64 (G,), an index into ``names``.
        names: of the levels.
    """
    schema, kept = annotations.schema, annotations.has_area
    class_and_level = annotations.category_id[kept] * len(names) + level[kept]
    counts = np.bincount(class_and_level, minlength=schema.num_classes * len(names)).reshape(-1, len(names))
    rows = []
    for class_name, row in zip((*schema.class_names, "all"), (*counts, counts.sum(axis=0)), strict=True):
        rows.append({"class": class_name, **dict(zip(names, row.tolist(), strict=True))})
    return rows


def _sizes(annotations: AnnotationTable) -> np.ndarray:
    """Return float32 (G, 2): widths and heights of boxes."""
    return annotations.box[:, 2:] - annotations.box[:, :2]


def _first_keypoints(schema: KeypointSchema) -> np.ndarray:
    """Return int64 (C,): where the landmarks of each class begin when those of all classes stand in a row.

    Not the schema's slots, which classes may share.
    """
    counts = [schema.num_class_keypoints(index) for index in range(schema.num_classes)]
    return np.cumsum([0, *counts])[:-1]


def _visibility(annotations: AnnotationTable) -> np.ndarray:
    """Count the garments in which each landmark of each class is absent, occluded, visible.

    Returns:
        int64 (sum of K_c, 3).
    """
    schema = annotations.schema
    first = annotations.keypoint_offsets[:-1]
    start = _first_keypoints(schema)[annotations.category_id] - first
    row = np.arange(len(annotations.keypoints)) + np.repeat(start, np.diff(annotations.keypoint_offsets))
    num_rows = sum(map(len, schema.keypoint_names))
    v = annotations.keypoints[:, 2]
    total = np.bincount(row, minlength=num_rows)
    occluded = np.bincount(row[v == 1], minlength=num_rows)
    visible = np.bincount(row[v == 2], minlength=num_rows)
    return np.column_stack([total - occluded - visible, occluded, visible])


def _visibility_shares(counts: np.ndarray) -> Row:
    absent, occluded, visible = counts.tolist()
    total = absent + occluded + visible
    return {
        "labelled": _share(occluded + visible, total),
        "visible": _share(visible, total),
        "occluded": _share(occluded, total),
        "absent": _share(absent, total),
    }


def _values(column: np.ndarray) -> list[Row]:
    values, counts = np.unique(column, return_counts=True)
    listed = np.arange(len(values))
    if len(values) > MOST_VALUES:
        listed = np.sort(np.argsort(-counts, kind="stable")[: MOST_VALUES - 1])
    rows = [(str(values[index]), counts[index]) for index in listed]
    if len(values) > len(listed):
        rows.append((f"{len(values) - len(listed)} others", counts.sum() - counts[listed].sum()))
    return [
        {"value": value, "count": int(count), "share": _share(count, len(column))} for value, count in rows
    ]


def _quantiles(values: np.ndarray) -> Row:
    quantiles = np.quantile(values, QUANTILES).tolist() if len(values) else [None] * len(QUANTILES)
    return {f"{q:.0%}": value for q, value in zip(QUANTILES, quantiles, strict=True)}


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
