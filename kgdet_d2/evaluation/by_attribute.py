"""Box AP and landmark AP by attributes of garments and photos, as DeepFashion2's paper tabulates them.

Ge et al., "DeepFashion2", CVPR 2019, reports AP for each scale, occlusion, zoom-in and viewpoint, and does
not specify what becomes of detections, which have no such attribute. Here they are treated as with COCO's
object sizes:

- By an attribute of *garments*, the garments with other values are ignored: to miss one costs nothing, and
  the detection that is matched with one counts neither way. A detection without a match is wrong in every
  subset, so that the scores of a rare value are lower because it is rare.
- By an attribute of *images*, the images with other values do not exist, nor do their detections.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kgdet_d2.evaluation.average_precision import Subset, average_precisions
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions

# The attributes that DeepFashion2 and FLD annotate, and the meanings of their numbers.
VALUE_NAMES: dict[str, dict[int | str, str]] = {
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
    """The part of the ground truth with one value of an attribute.

    Attributes:
        attribute: the attribute, such as "scale".
        value: the value, such as 2 or "shop".
        name: the value's meaning; the value itself where that is not known.
        num_garments: the garments that have it, crowds apart.
        subset: the garments, or the images, that have it.
    """

    attribute: str
    value: int | str
    name: str
    num_garments: int
    subset: Subset


def attribute_values(
    ground_truth: AnnotationTable, attributes: Sequence[str] | None = None
) -> list[AttributeSubset]:
    """Return the subsets by each value of some attributes.

    Args:
        ground_truth: images and garments.
        attributes: names of attributes; None: those of ``VALUE_NAMES`` that occur.

    Raises:
        ValueError: naming an attribute that does not exist, or that has more than ``MOST_VALUES`` values.
    """
    columns = {**ground_truth.photo_attributes, **ground_truth.garment_attributes}
    if attributes is None:
        attributes = [name for name in VALUE_NAMES if name in columns]
    subsets = []
    for attribute in attributes:
        if attribute not in columns:
            raise ValueError(f"attribute {attribute!r}: expected one of {sorted(columns)}")
        values = np.unique(columns[attribute]).tolist()
        if len(values) > MOST_VALUES:
            raise ValueError(
                f"attribute {attribute!r}: expected at most {MOST_VALUES} different values, got {len(values)}"
            )
        subsets += [_attribute_subset(ground_truth, attribute, value) for value in values]
    return subsets


def _attribute_subset(ground_truth: AnnotationTable, attribute: str, value: int | str) -> AttributeSubset:
    if attribute in ground_truth.garment_attributes:
        garments = ground_truth.garment_attributes[attribute] == value
        subset = Subset(garments=garments)
    else:
        images = ground_truth.photo_attributes[attribute] == value
        garments = images[ground_truth.garment_image]
        subset = Subset(images=images)
    return AttributeSubset(
        attribute=attribute,
        value=value,
        name=VALUE_NAMES.get(attribute, {}).get(value, str(value)),
        num_garments=int((garments & ~ground_truth.iscrowd).sum()),
        subset=subset,
    )


def subset_scores(
    ground_truth: AnnotationTable, predictions: Predictions, subsets: Sequence[AttributeSubset]
) -> list[dict]:
    """Compute the AP of each subset, in percent, nan where there is no garment to find.

    Args:
        ground_truth: images and garments.
        predictions: of the same schema.
        subsets: of the ground truth.

    Returns:
        For each of the subsets ``{"attribute", "value", "name", "garments", "bbox": {"AP", "AP50", "AP75"},
        "keypoints": (visible and occluded landmarks) the same, "keypoints_visible": (visible ones only) the
        same}``.

    Raises:
        ValueError: an image that was predicted is not in the ground truth.
    """
    if not subsets:
        return []
    parts = [attribute_subset.subset for attribute_subset in subsets]
    by_task = average_precisions(ground_truth, predictions, sizes=False, subsets=parts)
    rows = []
    for index, attribute_subset in enumerate(subsets):
        row: dict = {
            "attribute": attribute_subset.attribute,
            "value": attribute_subset.value,
            "name": attribute_subset.name,
            "garments": attribute_subset.num_garments,
        }
        for task, results in by_task.items():
            summary = results[index].summary()
            row[task] = {score: summary[score] for score in ("AP", "AP50", "AP75")}
        rows.append(row)
    return rows
