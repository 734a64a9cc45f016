"""What a dataset is made of, counted from the columns of its annotations.

N photos, G garments, L landmarks of all garments. A table is a list of rows, a row a dict of column -> value
that JSON can hold. Shares are 0..1; a share or quantile of nothing is None. Lengths are pixels of the photo.
"""

from collections.abc import Sequence

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable

Row = dict[str, str | int | float | None]

SMALL, MEDIUM = 32**2, 96**2  # COCO: areas in square pixels below which a box is small, medium
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
MOST_VALUES = 12  # of an attribute that are listed one by one
_PAIR = "pair_id"


def overview(annotations: AnnotationTable) -> dict[str, int]:
    """Counts of the whole."""
    garments = np.diff(annotations.garment_offsets)
    pairs = annotations.photo_attributes.get(_PAIR)
    return {
        "photos": len(annotations),
        "photos without garments": int((garments == 0).sum()),
        "sizes of photos": len(np.unique(np.column_stack([annotations.width, annotations.height]), axis=0)),
        **({} if pairs is None else {"pairs": len(np.unique(pairs))}),
        "garments": int(garments.sum()),
        "garments without a labelled landmark": int((labelled_keypoints(annotations) == 0).sum()),
        "boxes without area": int((~has_area(annotations)).sum()),
        "labelled landmarks": int((annotations.keypoints[:, 2] > 0).sum()),
        "occluded landmarks": int((annotations.keypoints[:, 2] == 1).sum()),
    }


def garments_per_photo(annotations: AnnotationTable) -> list[Row]:
    """A row for each number of garments up to the largest."""
    counts = np.bincount(np.diff(annotations.garment_offsets))
    return [
        {"garments": number, "photos": int(count), "share": _share(count, len(annotations))}
        for number, count in enumerate(counts)
    ]


def classes(annotations: AnnotationTable) -> list[Row]:
    """A row for each class: its garments, its landmarks by visibility, its boxes by COCO's sizes."""
    schema, category = annotations.schema, annotations.category_id
    total = np.bincount(category, minlength=schema.num_classes)
    bare = np.bincount(category[labelled_keypoints(annotations) == 0], minlength=schema.num_classes)
    sizes = _sizes(annotations).astype(np.float64)
    grade = np.digitize(sizes.prod(axis=1), (SMALL, MEDIUM))
    graded = np.bincount(3 * category + grade, minlength=3 * schema.num_classes).reshape(-1, 3)
    seen = np.split(_visibility(annotations), _first_landmarks(schema)[1:])
    return [
        {
            "class": name,
            "garments": int(total[index]),
            "share": _share(total[index], len(category)),
            **_visibility_shares(seen[index].sum(axis=0)),
            "no landmark": int(bare[index]),
            **dict(zip(("small", "medium", "large"), graded[index].tolist(), strict=True)),
        }
        for index, name in enumerate(schema.class_names)
    ]


def keypoints(annotations: AnnotationTable) -> list[Row]:
    """A row for each landmark of each class, numbered from 1 within the class."""
    schema = annotations.schema
    names = [
        {"class": class_name, "number": number, "landmark": landmark}
        for class_name, keypoint_names in zip(schema.class_names, schema.keypoint_names, strict=True)
        for number, landmark in enumerate(keypoint_names, 1)
    ]
    seen = _visibility(annotations)
    return [
        row | {"garments": int(counts.sum())} | _visibility_shares(counts)
        for row, counts in zip(names, seen, strict=True)
    ]


def sizes(annotations: AnnotationTable) -> list[Row]:
    """A row of quantiles for each length and ratio of photos and of boxes that have an area."""
    photo = np.repeat(np.arange(len(annotations)), np.diff(annotations.garment_offsets))
    kept = has_area(annotations)
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
    """A row for each value of each attribute but pair_id; rare values of one with many are put together."""
    columns = {"photo": annotations.photo_attributes, "garment": annotations.garment_attributes}
    return [
        {"of": kind, "attribute": name, **row}
        for kind, named in columns.items()
        for name, column in named.items()
        if name != _PAIR
        for row in _values(column)
    ]


def levels(annotations: AnnotationTable, level: np.ndarray, names: Sequence[str]) -> list[Row]:
    """A row for each class, then one for all: the boxes with an area on each level.

    Args:
        annotations: of G garments.
        level: int64 (G,), an index into ``names``.
        names: of the levels.
    """
    schema, kept = annotations.schema, has_area(annotations)
    cells = annotations.category_id[kept] * len(names) + level[kept]
    counts = np.bincount(cells, minlength=schema.num_classes * len(names)).reshape(-1, len(names))
    rows = zip((*schema.class_names, "all"), (*counts, counts.sum(axis=0)), strict=True)
    return [{"class": name, **dict(zip(names, row.tolist(), strict=True))} for name, row in rows]


def has_area(annotations: AnnotationTable) -> np.ndarray:
    """bool (G,): boxes with a width and a height. Garments with others are left out in loading."""
    return (_sizes(annotations) > 0).all(axis=1)


def labelled_keypoints(annotations: AnnotationTable) -> np.ndarray:
    """int64 (G,): landmarks of each garment that are visible or occluded."""
    before = np.concatenate([[0], np.cumsum(annotations.keypoints[:, 2] > 0)])
    return np.diff(before[annotations.keypoint_offsets])


def _sizes(annotations: AnnotationTable) -> np.ndarray:
    """float32 (G, 2): widths and heights of boxes."""
    return annotations.box[:, 2:] - annotations.box[:, :2]


def _first_landmarks(schema: KeypointSchema) -> np.ndarray:
    """int64 (C,): where the landmarks of each class begin when those of all classes stand in a row.

    Not the schema's slots, which classes may share.
    """
    counts = [schema.num_class_keypoints(index) for index in range(schema.num_classes)]
    return np.cumsum([0, *counts])[:-1]


def _visibility(annotations: AnnotationTable) -> np.ndarray:
    """int64 (sum of K_c, 3): garments in which each landmark of each class is absent, occluded, visible."""
    schema = annotations.schema
    first = annotations.keypoint_offsets[:-1]
    start = _first_landmarks(schema)[annotations.category_id] - first
    row = np.arange(len(annotations.keypoints)) + np.repeat(start, np.diff(annotations.keypoint_offsets))
    rows = sum(map(len, schema.keypoint_names))
    v = annotations.keypoints[:, 2]
    total, occluded, visible = (
        np.bincount(chosen, minlength=rows) for chosen in (row, row[v == 1], row[v == 2])
    )
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
    shown = np.arange(len(values))
    if len(values) > MOST_VALUES:
        shown = np.sort(np.argsort(-counts, kind="stable")[: MOST_VALUES - 1])
    rows = [(str(values[index]), counts[index]) for index in shown]
    if len(values) > len(shown):
        rows.append((f"{len(values) - len(shown)} others", counts.sum() - counts[shown].sum()))
    return [
        {"value": value, "count": int(count), "share": _share(count, len(column))} for value, count in rows
    ]


def _quantiles(values: np.ndarray) -> Row:
    found = np.quantile(values, QUANTILES).tolist() if len(values) else [None] * len(QUANTILES)
    return {f"{q:.0%}": value for q, value in zip(QUANTILES, found, strict=True)}


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
