"""The garments to be found, as columns."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from detectron2.structures import BoxMode

from kgdet_d2.schema import KeypointSchema

_PHOTO_FIELDS = {"file_name", "height", "width", "image_id", "annotations"}
_GARMENT_FIELDS = {"bbox", "bbox_mode", "category_id", "keypoints", "segmentation", "iscrowd"}


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundTruth:
    """N photos with G garments and L landmarks. Coordinates are continuous pixels.

    The garments of photo i are rows ``garment_offsets[i]`` up to ``garment_offsets[i + 1]``, the landmarks
    of garment j rows ``keypoint_offsets[j]`` up to ``keypoint_offsets[j + 1]``.

    Attributes:
        schema: the landmarks.
        image_id: int64 (N,), each once.
        width, height: int32 (N,).
        garment_image: int64 (G,), the row of the garment's photo, never falling.
        category_id: int64 (G,), 0-based class index.
        box: float64 (G, 4), x1 y1 x2 y2.
        iscrowd: bool (G,).
        keypoint_offsets: int64 (G + 1,).
        keypoints: float64 (L, 3), x y v of the class's own landmarks; v 0 absent, 1 occluded, 2 visible.
        photo_attributes: name -> int or str (N,), such as DeepFashion2's ``source``.
        garment_attributes: name -> int or str (G,), such as DeepFashion2's ``scale``.
    """

    schema: KeypointSchema
    image_id: np.ndarray
    width: np.ndarray
    height: np.ndarray
    garment_image: np.ndarray
    category_id: np.ndarray
    box: np.ndarray
    iscrowd: np.ndarray
    keypoint_offsets: np.ndarray
    keypoints: np.ndarray
    photo_attributes: Mapping[str, np.ndarray]
    garment_attributes: Mapping[str, np.ndarray]

    @classmethod
    def from_dataset_dicts(cls, dataset_dicts: Iterable[dict], schema: KeypointSchema) -> "GroundTruth":
        """Columns of dataset dicts with class-local landmarks, which are read once and not kept.

        Every further key with an int or a str, in a photo's dict or in an annotation, is an attribute.

        Raises:
            ValueError: an image_id that occurs twice; an annotation, its image named, whose class is out
                of range, whose landmarks do not fit its class or that has a coordinate that is not
                finite; an attribute that only some of the dicts have.
        """
        photos, garments, photo_attributes, garment_attributes = [], [], [], []
        for index, record in enumerate(dataset_dicts):
            photos.append((record["image_id"], record["width"], record["height"]))
            photo_attributes.append(_attributes(record, _PHOTO_FIELDS))
            for annotation in record["annotations"]:
                where = f"image {record['image_id']}"
                garments.append((index, *_garment(annotation, schema, where)))
                garment_attributes.append(_attributes(annotation, _GARMENT_FIELDS))
        image_id, width, height = _transposed(photos, 3)
        garment_image, category_id, box, iscrowd, keypoints = _transposed(garments, 5)
        return cls(
            schema=schema,
            image_id=_unique(np.array(image_id, np.int64)),
            width=np.array(width, np.int32),
            height=np.array(height, np.int32),
            garment_image=np.array(garment_image, np.int64),
            category_id=np.array(category_id, np.int64),
            box=np.array(box, np.float64).reshape(-1, 4),
            iscrowd=np.array(iscrowd, bool),
            keypoint_offsets=np.cumsum([0, *map(len, keypoints)], dtype=np.int64),
            keypoints=np.concatenate([np.zeros((0, 3)), *keypoints]),
            photo_attributes=_attribute_columns(photo_attributes, "photos"),
            garment_attributes=_attribute_columns(garment_attributes, "garments"),
        )

    def __len__(self) -> int:
        """N, the number of photos."""
        return len(self.image_id)

    @property
    def num_garments(self) -> int:
        """G."""
        return len(self.category_id)

    @cached_property
    def area(self) -> np.ndarray:
        """float64 (G,): the box's area in square pixels, the scale of OKS and of COCO's sizes."""
        width, height = (self.box[:, 2:] - self.box[:, :2]).T
        return width * height

    @cached_property
    def garment_offsets(self) -> np.ndarray:
        """int64 (N + 1,)."""
        return np.searchsorted(self.garment_image, np.arange(len(self) + 1))

    def labelled(self, *, visible_only: bool = False) -> np.ndarray:
        """bool (L,): the landmarks that an evaluation counts.

        Args:
            visible_only: those with v = 2; otherwise those with v = 1 too.
        """
        return self.keypoints[:, 2] > (1 if visible_only else 0)

    def num_labelled(self, *, visible_only: bool = False) -> np.ndarray:
        """int64 (G,): how many landmarks of each garment :meth:`labelled` counts."""
        cumulated = np.concatenate([[0], np.cumsum(self.labelled(visible_only=visible_only))])
        return np.diff(cumulated[self.keypoint_offsets])

    @cached_property
    def no_visible_by_class(self) -> np.ndarray:
        """bool (N, C): the photo has a garment of the class without any visible landmark."""
        lacking = np.zeros((len(self), self.schema.num_classes), bool)
        bare = self.num_labelled(visible_only=True) == 0
        lacking[self.garment_image[bare], self.category_id[bare]] = True
        return lacking

    def photo_rows(self, image_ids: np.ndarray) -> np.ndarray:
        """int64 (M,): the rows of the photos with the image ids (M,).

        Raises:
            ValueError: naming an id that no photo has.
        """
        rows = []
        for image_id in np.asarray(image_ids, np.int64).tolist():
            if image_id not in self._row_of:
                raise ValueError(f"image {image_id}: no such image_id among the {len(self)} photos")
            rows.append(self._row_of[image_id])
        return np.array(rows, np.int64)

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {image_id: row for row, image_id in enumerate(self.image_id.tolist())}


def _garment(annotation: dict, schema: KeypointSchema, where: str) -> tuple:
    """Class index, box, iscrowd, landmarks (K_c, 3)."""
    class_index = annotation["category_id"]
    if not 0 <= class_index < schema.num_classes:
        raise ValueError(f"{where}: category_id: expected 0..{schema.num_classes - 1}, got {class_index}")
    box = np.array([annotation["bbox"]], np.float64)
    box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)[0]
    keypoints = np.asarray(annotation["keypoints"], np.float64).ravel()
    count = schema.num_class_keypoints(class_index)
    if len(keypoints) != 3 * count:
        name = schema.class_names[class_index]
        raise ValueError(
            f"{where}: keypoints of class {name!r}: expected {3 * count} numbers, x y v of {count} "
            f"landmarks, got {len(keypoints)}"
        )
    for field, values in {"bbox": box, "keypoints": keypoints}.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: {field}: expected finite numbers, got {values.tolist()}")
    return class_index, box, annotation.get("iscrowd", 0), keypoints.reshape(-1, 3)


def _attributes(record: dict, fields: Set[str]) -> dict[str, int | str]:
    return {
        name: value
        for name, value in record.items()
        if name not in fields and isinstance(value, int | str | np.integer)
    }


def _attribute_columns(rows: list[dict], what: str) -> dict[str, np.ndarray]:
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        if len(values) < len(rows):
            raise ValueError(f"attribute {name!r}: expected in all of {len(rows)} {what}, got {len(values)}")
        if len({isinstance(value, str) for value in values}) > 1:
            raise ValueError(f"attribute {name!r} of {what}: expected int or str throughout, got both")
        columns[name] = np.array(values)
    return columns


def _transposed(rows: list[tuple], count: int) -> list[tuple]:
    return list(zip(*rows, strict=True)) or [()] * count


def _unique(image_id: np.ndarray) -> np.ndarray:
    ids, counts = np.unique(image_id, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"image {ids[counts > 1][0]}: the image_id occurs twice")
    return image_id
