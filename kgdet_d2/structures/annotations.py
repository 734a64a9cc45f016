"""Annotations of one split as columns: in memory, in a compact file, out of Detectron2's dataset dicts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import (
    Column,
    check_shapes,
    check_types,
    declared_columns,
    offsets_from_lengths,
    open_columns,
    read_columns,
    write_columns,
)
from kgdet_d2.structures.dataset_dicts import photos_of_dicts
from kgdet_d2.structures.photos import Garment, Photo
from kgdet_d2.structures.validation import NO_AREA, find_faults
from kgdet_d2.utils.check import check

FORMAT_VERSION = 2


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
        ValueError: when a column's type or shape or an offset is wrong; or a value is, as
            :func:`kgdet_d2.structures.validation.find_faults` says, the photo and the garment named. Boxes
            without area alone are let in; :class:`FashionDataset` leaves these out.
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
        _check_attributes(self.photo_attributes, len(self))
        _check_attributes(self.garment_attributes, self.num_garments)
        faults = (fault for fault in find_faults(vars(self), self.schema) if fault.kind != NO_AREA)
        first = next(faults, None)
        if first is not None:
            more = sum(1 for _ in faults)
            raise ValueError(f"{first}; {more} more faults" if more else str(first))

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
        """Return the table of the photos, in their order; see :func:`columns_of_photos`.

        Raises:
            ValueError: an attribute is an int here and a str there; or columns that the class refuses.
        """
        return cls(schema=schema, **columns_of_photos(photos))

    @classmethod
    def from_dataset_dicts(
        cls, dataset_dicts: Iterable[Mapping[str, Any]], schema: KeypointSchema
    ) -> "AnnotationTable":
        """Return the columns of Detectron2's dataset dicts, which are read once and not kept.

        Read are ``image_id``, ``width``, ``height``, ``file_name`` (otherwise "") and ``annotations``
        (otherwise none), of each annotation ``category_id``, ``bbox``, ``bbox_mode``, the class-local
        ``keypoints`` (otherwise none is labelled: zeros), ``segmentation``, a run-length mask as its
        outlines, and ``iscrowd``. Lists, arrays and tensors are alike. Every further key with an int or a
        str is an attribute. Coordinates become float32. Where an image_id is a str, all photos are numbered
        by their position in the list, from 1.

        Raises:
            ValueError: naming the photo, by its number in the list from 0 and its file, and the garment: a
                dict lacks a key or a value has another form; or an image_id occurs twice, or a value is
                wrong, as the class says.
        """
        return cls.from_photos(photos_of_dicts(dataset_dicts, schema), schema)

    def save(self, path: str | Path | BinaryIO) -> None:
        """Write the file, whole or not at all; its folder is made where it is missing. Or an open one."""
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
    """Return which garments are the same item: pair_id and style are equal, and both above 0.

    Args:
        pair_ids: int (n,), of each garment's image.
        styles: int (n,), of each garment.

    Returns:
        int64 (n,), equal for garments of the same item, -1 for a garment of none; unknown ids are 0.
    """
    items = np.unique(np.c_[pair_ids, styles], axis=0, return_inverse=True)[1].ravel()
    return np.where((styles > 0) & (pair_ids > 0), items, -1)


def columns_of_photos(photos: Sequence[Photo]) -> dict[str, Any]:
    """Return the columns of photos by name, unchecked but for their types.

    An attribute that a photo or garment lacks is 0 or "" there.

    Raises:
        ValueError: an attribute is an int here and a str there.
    """
    garments = list(chain.from_iterable(photo.garments for photo in photos))
    polygons = list(chain.from_iterable(garment.polygons for garment in garments))
    columns: dict[str, Any] = {
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
        values = [getattr(row, name) for row in rows]
        if column.dtype is np.int32:  # numbers beyond are no class and no size either
            values = [min(max(value, -(2**31)), 2**31 - 1) for value in values]
        columns[name] = np.array(values, column.dtype).reshape(len(rows), *column.shape)
    for kind, rows in (("photo", photos), ("garment", garments)):
        columns[f"{kind}_attributes"] = _attribute_columns([row.attributes for row in rows], f"{kind}s")
    return columns


def _attribute_columns(rows: Sequence[Mapping[str, int | str]], kind: str) -> dict[str, np.ndarray]:
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(rows)):
        is_text = {isinstance(row[name], str) for row in rows if name in row}
        check(len(is_text) == 1, f"attribute {name!r} of {kind}: expected int or str throughout, got both")
        unknown = "" if is_text == {True} else 0
        columns[name] = np.array([row.get(name, unknown) for row in rows])
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
