"""Box AP and landmark AP by attributes of garments and photos, as DeepFashion2's paper tabulates them.

Ge et al., "DeepFashion2", CVPR 2019, reports AP for each scale, occlusion, zoom-in and viewpoint, and does
not say what becomes of detections, which have no such attribute. Here it is as with COCO's object sizes:

- By an attribute of *garments*, the garments with other values are ignored: to miss one costs nothing, and
  the detection that is matched with one counts neither way. A detection without a match is wrong in every
  sub-set, so that the scores of a rare value are lower for its being rare.
- By an attribute of *photos*, the photos with other values do not exist, nor do their detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kgdet_d2.evaluation.average_precision import Subset, average_precisions
from kgdet_d2.evaluation.ground_truth import GroundTruth
from kgdet_d2.structures.predictions import Predictions

# What DeepFashion2 and FLD annotate, and what their numbers mean.
VALUE_NAMES = {
    "scale": {1: "small", 2: "moderate", 3: "large"},
    "occlusion": {1: "slight", 2: "medium", 3: "heavy"},
    "zoom_in": {1: "no", 2: "medium", 3: "large"},
    "viewpoint": {1: "not worn", 2: "frontal", 3: "side or back"},
    "source": {},
    "variation_type": {
        0: "unknown",
        1: "normal pose",
        2: "medium pose",
        3: "large pose",
        4: "medium zoom-in",
        5: "large zoom-in",
    },
}
MOST_VALUES = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributeSubset:
    """A sub-set of the ground truth.

    Attributes:
        attribute: such as "scale".
        value: such as 2 or "shop".
        name: what the value means; the value itself where that is not known.
        num_garments: crowds apart.
        subset: the garments, or the photos, that have it.
    """

    attribute: str
    value: int | str
    name: str
    num_garments: int
    subset: Subset


def attribute_values(
    ground_truth: GroundTruth, attributes: Sequence[str] | None = None
) -> list[AttributeSubset]:
    """The sub-sets by each value of some attributes.

    Args:
        ground_truth: photos and garments.
        attributes: names of attributes; None: those of ``VALUE_NAMES`` that occur.

    Raises:
        ValueError: naming an attribute that there is not, or that has more than ``MOST_VALUES`` values.
    """
    columns = {**ground_truth.photo_attributes, **ground_truth.garment_attributes}
    if attributes is None:
        attributes = [name for name in VALUE_NAMES if name in columns]
    values = []
    for attribute in attributes:
        if attribute not in columns:
            raise ValueError(f"attribute {attribute!r}: expected one of {sorted(columns)}")
        found = np.unique(columns[attribute]).tolist()
        if len(found) > MOST_VALUES:
            raise ValueError(
                f"attribute {attribute!r}: expected at most {MOST_VALUES} different values, got {len(found)}"
            )
        values += [_attribute_value(ground_truth, attribute, value) for value in found]
    return values


def _attribute_value(ground_truth: GroundTruth, attribute: str, value: int | str) -> AttributeSubset:
    if attribute in ground_truth.garment_attributes:
        garments = ground_truth.garment_attributes[attribute] == value
        subset = Subset(garments=garments)
    else:
        photos = ground_truth.photo_attributes[attribute] == value
        subset, garments = Subset(photos=photos), photos[ground_truth.garment_image]
    return AttributeSubset(
        attribute=attribute,
        value=value,
        name=VALUE_NAMES.get(attribute, {}).get(value, str(value)),
        num_garments=int((garments & ~ground_truth.iscrowd).sum()),
        subset=subset,
    )


def subset_scores(
    ground_truth: GroundTruth, predictions: Predictions, values: Sequence[AttributeSubset]
) -> list[dict]:
    """AP of each sub-set, in percent, nan where there is no garment to find.

    Returns:
        For each of the values ``{"attribute", "value", "name", "garments", "bbox": {"AP", "AP50", "AP75"},
        "keypoints": (visible and occluded landmarks) the same, "keypoints_visible": (visible ones only) the
        same}``.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """
    if not values:
        return []
    subsets = [value.subset for value in values]
    columns = average_precisions(ground_truth, predictions, sizes=False, subsets=subsets)
    rows = []
    for index, value in enumerate(values):
        row = {"attribute": value.attribute, "value": value.value, "name": value.name}
        row["garments"] = value.num_garments
        for task, results in columns.items():
            summary = results[index].summary()
            row[task] = {score: summary[score] for score in ("AP", "AP50", "AP75")}
        rows.append(row)
    return rows
