"""The export of DeepFashion2 in the COCO format that its official evaluation and other tools expect.

Every garment has the 294 slots of all classes, and all its and its photo's attributes. Widths and heights are
those of the upright photo.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.utils.io import write_json_array

_EXACT = 2**24  # up to here float32 holds every whole number

# In the order of the schema's classes.
CATEGORY_NAMES = (
    "short_sleeved_shirt",
    "long_sleeved_shirt",
    "short_sleeved_outwear",
    "long_sleeved_outwear",
    "vest",
    "sling",
    "shorts",
    "trousers",
    "skirt",
    "short_sleeved_dress",
    "long_sleeved_dress",
    "vest_dress",
    "sling_dress",
)


def write_official_coco(
    file: BinaryIO, annotations: AnnotationTable, *, visible_only: bool, description: str | None = None
) -> None:
    """Write the JSON, a photo or garment at a time.

    Image ids are the dataset's, category ids count from 1, annotation ids number the garments from 1.

    Args:
        file: open for writing.
        annotations: DeepFashion2's.
        visible_only: write occluded landmarks as not labelled: 0, 0, 0, as COCO defines those. The evaluation
            reads only v of landmarks that are not labelled.
        description: the progress bar's; None shows no bar.

    Raises:
        ValueError: annotations of another dataset, or a number that is not finite.
    """
    if annotations.schema.name != DEEPFASHION2.name:
        raise ValueError(f"expected annotations of {DEEPFASHION2.name}, got {annotations.schema.name}")
    garments = tqdm(
        _garments(annotations, visible_only),
        total=len(annotations.category_id),
        desc=description,
        unit="garment",
        disable=description is None,
    )
    file.write(b'{"info": {}, "licenses": [], "images": ')
    write_json_array(file, _images(annotations))
    file.write(b', "annotations": ')
    write_json_array(file, garments)
    file.write(b', "categories": ')
    write_json_array(file, _categories())
    file.write(b"}\n")


def _images(annotations: AnnotationTable) -> Iterator[dict]:
    for index in range(len(annotations)):
        yield {
            "coco_url": "",
            "date_captured": "",
            "file_name": str(annotations.file_name[index]),
            "flickr_url": "",
            "id": int(annotations.image_id[index]),
            "license": 0,
            "width": int(annotations.width[index]),
            "height": int(annotations.height[index]),
            **{name: array[index].item() for name, array in annotations.photo_attributes.items()},
        }


def _garments(annotations: AnnotationTable, visible_only: bool) -> Iterator[dict]:
    for photo, rows in enumerate(pairwise(annotations.garment_offsets.tolist())):
        attributes = {name: array[photo].item() for name, array in annotations.photo_attributes.items()}
        for row in range(*rows):
            yield {
                "id": row + 1,
                "image_id": int(annotations.image_id[photo]),
                **_garment(annotations, row, visible_only),
                **attributes,
                **{name: array[row].item() for name, array in annotations.garment_attributes.items()},
            }


def _garment(annotations: AnnotationTable, row: int, visible_only: bool) -> dict:
    category_id = int(annotations.category_id[row])
    x1, y1, x2, y2 = annotations.box[row]
    box = _shortest(np.array((x1, y1, x2 - x1, y2 - y1)))
    keypoints = annotations.keypoints[slice(*annotations.keypoint_offsets[row : row + 2])]
    if visible_only:
        keypoints = np.where(keypoints[:, 2:] == 1, np.float32(0), keypoints)
    first, last = annotations.polygon_offsets[row : row + 2].tolist()
    edges = annotations.vertex_offsets[first : last + 1].tolist()
    return {
        "category_id": category_id + 1,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(annotations.iscrowd[row]),
        "num_keypoints": int(np.count_nonzero(keypoints[:, 2])),
        "keypoints": _shortest(DEEPFASHION2.scatter(keypoints, category_id).ravel()),
        "segmentation": [_shortest(annotations.vertices[slice(*ends)].ravel()) for ends in pairwise(edges)],
    }


def _categories() -> Iterator[dict]:
    keypoints = [str(number) for number in range(1, DEEPFASHION2.num_keypoints + 1)]
    for category_id, name in enumerate(CATEGORY_NAMES, 1):
        yield {
            "id": category_id,
            "name": name,
            "supercategory": "clothes",
            "keypoints": keypoints,
            "skeleton": [],
        }


def _shortest(values: np.ndarray) -> list[int | float]:
    """Convert float32 (n,) to the numbers of fewest digits that float32 reads as the same."""
    if np.array_equal(values, np.rint(values)) and np.abs(values).max(initial=0) < _EXACT:
        return values.astype(np.int64).tolist()
    texts = values.astype(str).tolist()
    return [int(value) if value.is_integer() else value for value in map(float, texts)]
