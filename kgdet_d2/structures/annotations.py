"""Annotations of one split as columns: in memory, in a compact file, out of Detectron2's dataset dicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from detectron2.structures import BoxMode

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import (
    Column,
    check_class_indices,
    check_finite,
    check_shapes,
    check_types,
    check_unique,
    declared_columns,
    offsets_from_lengths,
    open_columns,
    read_columns,
    write_columns,
)
from kgdet_d2.utils.check import check

FORMAT_VERSION = 2
_PHOTO_FIELDS = {"file_name", "height", "width", "image_id", "annotations"}
_GARMENT_FIELDS = {"bbox", "bbox_mode", "category_id", "keypoints", "segmentation", "iscrowd"}


@dataclass(frozen=True, eq=False)
class Garment:
    """One garment of one photo; coordinates in continuous pixels of the photo.

    Attributes:
        category_id: class index, 0-based.
        box: float32 (4,), x1 y1 x2 y2.
        keypoints: float32 (K_c, 3), x y v of the class's own landmarks; v 0 absent, 1 occluded, 2 visible.
        polygons: float32 (V, 2) each.
        attributes: what else the dataset has for a garment (DeepFashion2: item, style, scale, occlusion,
            zoom_in, viewpoint), the same names for each of its garments.
        iscrowd: the box stands for several garments, which COCO's evaluation treats apart.
    """

    category_id: int
    box: np.ndarray
    keypoints: np.ndarray
    polygons: Sequence[np.ndarray] = ()
    attributes: Mapping[str, int | str] = field(default_factory=dict)
    iscrowd: bool = False


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo; ``file_name`` is relative to the split's image folder, width and height are in pixels.

    ``attributes`` is what else the dataset has for a photo (DeepFashion2: source, pair_id), the same names
    for each of its photos.
    """

    file_name: str
    image_id: int
    width: int
    height: int
    garments: Sequence[Garment]
    attributes: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class AnnotationTable:
    """The annotations of one split of N images, G garments, L landmarks, P polygons, V vertices.

    Columns are numpy arrays, a row for each image, garment, keypoint, polygon or vertex as declared; offsets
    have one row more: the garments of image i are rows ``garment_offsets[i]`` up to
    ``garment_offsets[i + 1]`` of the garment columns, and so on down to the vertices of a polygon. Contents
    as in :class:`Photo` and :class:`Garment`; an attribute is a column of integers or strings. Coordinates
    are float32, as on disk; what COCO's arithmetic needs in float64 is there as a property.

    Attributes:
        photo_attributes: name -> (N,), such as DeepFashion2's ``source``.
        garment_attributes: name -> (G,), such as DeepFashion2's ``scale``.

    Raises:
        ValueError: when a column's type or shape, or an offset, a class or a landmark count is wrong, or an
            image id occurs twice.
    """

    schema: KeypointSchema

    file_name: Annotated[np.ndarray, Column("image", np.str_)]
    image_id: Annotated[np.ndarray, Column("image", np.int64)]
    width: Annotated[np.ndarray, Column("image", np.int32)]
    height: Annotated[np.ndarray, Column("image", np.int32)]
    garment_offsets: Annotated[np.ndarray, Column("image", np.int64, counts="garment")]

    category_id: Annotated[np.ndarray, Column("garment", np.int32)]
    box: Annotated[np.ndarray, Column("garment", np.float32, (4,))]
    keypoint_offsets: Annotated[np.ndarray, Column("garment", np.int64, counts="keypoint")]
    polygon_offsets: Annotated[np.ndarray, Column("garment", np.int64, counts="polygon")]

    keypoints: Annotated[np.ndarray, Column("keypoint", np.float32, (3,))]
    vertex_offsets: Annotated[np.ndarray, Column("polygon", np.int64, counts="vertex")]
    vertices: Annotated[np.ndarray, Column("vertex", np.float32, (2,))]

    # None becomes a column without crowds.
    iscrowd: Annotated[np.ndarray, Column("garment", np.bool_, optional=True)] = None  # type: ignore[assignment]
    photo_attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    garment_attributes: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.iscrowd is None:
            object.__setattr__(self, "iscrowd", np.zeros(len(self.category_id), bool))
        check_types(self, _COLUMNS)
        check_shapes(self, _COLUMNS, {"image": len(self)})
        check_unique(self.image_id, "the image_id occurs twice")
        _check_attributes(self.photo_attributes, len(self))
        _check_attributes(self.garment_attributes, self.num_garments)
        check_class_indices(self.category_id, self.schema)
        counts = np.array([len(slots) for slots in self.schema.slots])
        fits = np.diff(self.keypoint_offsets) == counts[self.category_id]
        check(fits.all(), f"keypoint_offsets: {(~fits).sum()} garments do not fit their class")

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.file_name)

    @property
    def num_garments(self) -> int:
        """G, the number of garments."""
        return len(self.category_id)

    @cached_property
    def garment_image(self) -> np.ndarray:
        """Rows of the garments' images, int64 (G,), never falling."""
        return np.repeat(np.arange(len(self)), np.diff(self.garment_offsets))

    @cached_property
    def box_float64(self) -> np.ndarray:
        """Boxes for COCO's arithmetic, float64 (G, 4), x1 y1 x2 y2."""
        return self.box.astype(np.float64)

    @cached_property
    def points_float64(self) -> np.ndarray:
        """Landmarks for COCO's arithmetic, float64 (L, 2), x y."""
        return self.keypoints[:, :2].astype(np.float64)

    @cached_property
    def area(self) -> np.ndarray:
        """Areas of boxes in square pixels, float64 (G,), the scale of OKS and of COCO's sizes."""
        width, height = (self.box_float64[:, 2:] - self.box_float64[:, :2]).T
        return width * height

    @cached_property
    def has_area(self) -> np.ndarray:
        """Whether the box has a width and a height, bool (G,)."""
        width, height = (self.box[:, 2:] > self.box[:, :2]).T
        return width & height

    def labelled(self, *, visible_only: bool = False) -> np.ndarray:
        """Return bool (L,), the landmarks that an evaluation counts.

        Args:
            visible_only: those with v = 2; otherwise those with v = 1 too.
        """
        return self.keypoints[:, 2] > (1 if visible_only else 0)

    def num_labelled(self, *, visible_only: bool = False) -> np.ndarray:
        """Return int64 (G,), the number of each garment's landmarks that :meth:`labelled` counts."""
        cumulated = np.concatenate([[0], np.cumsum(self.labelled(visible_only=visible_only))])
        return np.diff(cumulated[self.keypoint_offsets])

    @cached_property
    def no_visible_by_class(self) -> np.ndarray:
        """Whether the image has a garment of the class without any visible landmark, bool (N, C)."""
        no_visible = np.zeros((len(self), self.schema.num_classes), bool)
        bare = self.num_labelled(visible_only=True) == 0
        no_visible[self.garment_image[bare], self.category_id[bare]] = True
        return no_visible

    def image_rows(self, image_ids: Iterable[int] | np.ndarray) -> np.ndarray:
        """Return int64 (M,), the rows of the images with the ids (M,).

        Raises:
            ValueError: naming an id that no image has.
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

    def select_garments(self, keep: np.ndarray) -> "AnnotationTable":
        """Return the table without some garments; all images stay.

        Args:
            keep: bool (G,), the garments that stay.
        """
        keypoints = np.repeat(keep, np.diff(self.keypoint_offsets))
        polygons = np.repeat(keep, np.diff(self.polygon_offsets))
        vertices = np.repeat(polygons, np.diff(self.vertex_offsets))
        return replace(
            self,
            garment_offsets=offsets_from_lengths(keep)[self.garment_offsets],
            category_id=self.category_id[keep],
            box=self.box[keep],
            iscrowd=self.iscrowd[keep],
            keypoint_offsets=offsets_from_lengths(np.diff(self.keypoint_offsets)[keep]),
            polygon_offsets=offsets_from_lengths(np.diff(self.polygon_offsets)[keep]),
            keypoints=self.keypoints[keypoints],
            vertex_offsets=offsets_from_lengths(np.diff(self.vertex_offsets)[polygons]),
            vertices=self.vertices[vertices],
            garment_attributes={name: array[keep] for name, array in self.garment_attributes.items()},
        )

    def with_area(self) -> "AnnotationTable":
        """Return the table without the garments whose box has no area."""
        return self if self.has_area.all() else self.select_garments(self.has_area)

    @classmethod
    def from_photos(cls, photos: Sequence[Photo], schema: KeypointSchema) -> "AnnotationTable":
        """Return the columns of the photos, in their order.

        Raises:
            ValueError: an attribute that only some have, or that is an int here and a str there; columns
                that the class refuses.
        """
        garments = list(chain.from_iterable(photo.garments for photo in photos))
        polygons = list(chain.from_iterable(garment.polygons for garment in garments))
        columns = {
            "garment_offsets": offsets_from_lengths([len(photo.garments) for photo in photos]),
            "keypoint_offsets": offsets_from_lengths([len(garment.keypoints) for garment in garments]),
            "polygon_offsets": offsets_from_lengths([len(garment.polygons) for garment in garments]),
            "vertex_offsets": offsets_from_lengths([len(polygon) for polygon in polygons]),
            "keypoints": _stack([garment.keypoints for garment in garments], 3),
            "vertices": _stack(polygons, 2),
        }
        for name in _COLUMNS.keys() - columns.keys():
            column = _COLUMNS[name]
            rows: Sequence[Photo] | Sequence[Garment] = photos if column.rows == "image" else garments
            values = np.array([getattr(row, name) for row in rows], column.dtype)
            columns[name] = values.reshape(len(rows), *column.shape)
        return cls(
            schema=schema,
            photo_attributes=_attribute_columns([photo.attributes for photo in photos], "photos"),
            garment_attributes=_attribute_columns([garment.attributes for garment in garments], "garments"),
            **columns,
        )

    @classmethod
    def from_dataset_dicts(
        cls, dataset_dicts: Iterable[Mapping[str, Any]], schema: KeypointSchema
    ) -> "AnnotationTable":
        """Return the columns of Detectron2's dataset dicts, which are read once and not kept.

        Read are ``image_id``, ``width``, ``height``, ``file_name`` (otherwise "") and ``annotations``
        (otherwise none), of each annotation ``category_id``, ``bbox``, ``bbox_mode``, the class-local
        ``keypoints`` (otherwise all absent), the polygons of ``segmentation`` (not run-length masks) and
        ``iscrowd``. Every further key with an int or a str is an attribute. Coordinates become float32.

        Raises:
            ValueError: a dict lacks a key; an image_id occurs twice; an annotation, its image named, has a
                class out of range, landmarks that do not fit its class, a polygon of an odd number of
                coordinates or a coordinate that is not finite; only some of the dicts have an attribute.
        """
        photos = []
        for number, record in enumerate(dataset_dicts):
            try:
                photos.append(_photo_of(record, schema))
            except KeyError as error:
                raise ValueError(
                    f"photo {number} of the list, {record.get('file_name')}: no {error}"
                ) from error
        return cls.from_photos(photos, schema)

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all; its folder is made where it is missing."""
        further: dict[str, np.ndarray] = {}
        for kind in ("photo_attributes", "garment_attributes"):
            further |= {f"{kind}.{name}": array for name, array in getattr(self, kind).items()}
        write_columns(path, self, _COLUMNS, version=FORMAT_VERSION, further=further, deflate=True)

    @classmethod
    def load(
        cls, path: str | Path, schema: KeypointSchema, *, prepare_command: str = ""
    ) -> "AnnotationTable":
        """Read and check a file that :meth:`save` wrote.

        Args:
            path: the file.
            schema: the schema it must be of.
            prepare_command: the command that makes the file, for the error when it is missing.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file: another version or schema, a damaged file, columns that contradict
                one another, a coordinate that is not finite.
        """
        hint = f" Make it with: {prepare_command}" if prepare_command else ""
        with open_columns(
            path, kind="annotation", version=FORMAT_VERSION, schema=schema, hint=hint
        ) as archive:
            return cls(
                schema=schema,
                photo_attributes=_stored_attributes(archive, "photo_attributes"),
                garment_attributes=_stored_attributes(archive, "garment_attributes"),
                **read_columns(archive, _COLUMNS),
            )


_COLUMNS = declared_columns(AnnotationTable)


def item_ids(pair_ids: np.ndarray, styles: np.ndarray) -> np.ndarray:
    """Return which garments are the same item: pair_id and style are equal, and the style is above 0.

    Args:
        pair_ids: int (n,), of each garment's image.
        styles: int (n,), of each garment.

    Returns:
        int64 (n,), equal for garments of the same item, -1 for a garment of none.
    """
    items = np.unique(np.c_[pair_ids, styles], axis=0, return_inverse=True)[1].ravel()
    return np.where(styles > 0, items, -1)


def _photo_of(record: Mapping[str, Any], schema: KeypointSchema) -> Photo:
    where = f"image {record['image_id']}"
    return Photo(
        file_name=record.get("file_name", ""),
        image_id=record["image_id"],
        width=record["width"],
        height=record["height"],
        garments=[_garment_of(annotation, schema, where) for annotation in record.get("annotations", ())],
        attributes=_attributes_of(record, _PHOTO_FIELDS),
    )


def _garment_of(annotation: Mapping[str, Any], schema: KeypointSchema, where: str) -> Garment:
    class_index = annotation["category_id"]
    last = schema.num_classes - 1
    check(0 <= class_index <= last, f"{where}: category_id: expected 0..{last}, got {class_index}")
    box = np.array([annotation["bbox"]], np.float64)
    box = BoxMode.convert(box, annotation["bbox_mode"], BoxMode.XYXY_ABS)[0].astype(np.float32)
    check_finite(f"{where}: bbox", box)
    count = schema.num_class_keypoints(class_index)
    keypoints = np.ravel(np.asarray(annotation.get("keypoints", np.zeros(3 * count)), np.float32))
    check(
        len(keypoints) == 3 * count,
        f"{where}: keypoints of class {schema.class_names[class_index]!r}: expected {3 * count} numbers, "
        f"x y v of {count} landmarks, got {len(keypoints)}",
    )
    check_finite(f"{where}: keypoints", keypoints)
    return Garment(
        category_id=class_index,
        box=box,
        keypoints=keypoints.reshape(count, 3),
        polygons=_polygons_of(annotation.get("segmentation"), where),
        attributes=_attributes_of(annotation, _GARMENT_FIELDS),
        iscrowd=annotation.get("iscrowd", 0),
    )


def _polygons_of(segmentation: object, where: str) -> list[np.ndarray]:
    if not isinstance(segmentation, list):
        return []
    polygons = []
    for coordinates in segmentation:
        polygon = np.ravel(np.asarray(coordinates, np.float32))
        check(
            len(polygon) % 2 == 0,
            f"{where}: segmentation: expected x and y of each vertex, got {len(polygon)} numbers",
        )
        check_finite(f"{where}: segmentation", polygon)
        polygons.append(polygon.reshape(-1, 2))
    return polygons


def _attributes_of(record: Mapping[str, Any], fields: set[str]) -> dict[str, Any]:
    """Return the ints and strs of a dict that are not among the fields."""
    further = {name: value for name, value in record.items() if name not in fields}
    return {name: value for name, value in further.items() if isinstance(value, int | str | np.integer)}


def _attribute_columns(rows: Sequence[Mapping[str, int | str]], kind: str) -> dict[str, np.ndarray]:
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(rows)):
        values = [row[name] for row in rows if name in row]
        check(
            len(values) == len(rows),
            f"attribute {name!r}: expected in all of {len(rows)} {kind}, got {len(values)}",
        )
        check(
            len({isinstance(value, str) for value in values}) == 1,
            f"attribute {name!r} of {kind}: expected int or str throughout, got both",
        )
        columns[name] = np.array(values)
    return columns


def _check_attributes(attributes: Mapping[str, np.ndarray], rows: int) -> None:
    for name, array in attributes.items():
        check(array.shape == (rows,), f"{name}: expected shape {(rows,)}, got {array.shape}")
        check(array.dtype.kind in "biuU", f"{name}: expected integers or strings, got {array.dtype}")


def _stored_attributes(archive: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Return the attributes of a kind, by name."""
    prefix = f"{kind}."
    return {name.removeprefix(prefix): archive[name] for name in archive if name.startswith(prefix)}


def _stack(arrays: Iterable[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.zeros((0, width), dtype=np.float32), *arrays], dtype=np.float32)
