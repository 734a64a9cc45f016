"""A model's detections on a data set, as columns: in memory, on disk, and as official COCO results."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import (
    Column,
    check_class_indices,
    check_finite,
    check_shapes,
    check_types,
    check_unique,
    concatenate_columns,
    declared_columns,
    empty_columns,
    offsets_from_lengths,
    open_columns,
    read_columns,
    stored_name,
    write_columns,
)
from kgdet_d2.utils.check import check

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """The D detections on N images, with their L landmarks. Coordinates are continuous pixels.

    The detections of image i are rows ``detection_offsets[i]`` up to ``detection_offsets[i + 1]``, the
    landmarks of detection j rows ``keypoint_offsets[j]`` up to ``keypoint_offsets[j + 1]``. A network
    predicts all K landmarks for each detection. Those of the predicted class are kept, because the others
    are unlabelled in every garment of that class.

    In one case COCO's OKS reads all K: a garment without any labelled landmark is compared by the distance
    of all landmarks from its doubled box, and a detection near it is ignored. So W detections, those in an
    image that has such a garment of their class, are kept with all K. Then results are COCO's own. Where they
    are not kept, because the ground truth was not at hand or another tool found no others, the landmarks of
    the class are compared alone.

    :meth:`from_instances` and :meth:`load` check that all numbers are finite.

    Attributes:
        schema: the landmarks.
        image_id: int64 (N,), each once.
        detection_offsets: int64 (N + 1,).
        category_id: int16 (D,), 0-based class index.
        score: float32 (D,).
        box: float32 (D, 4), x1 y1 x2 y2.
        keypoint_score: float32 (D,), the score of a detection's landmarks, by which they are ranked; 0
            everywhere for a model whose landmarks have no score but the detection's.
        keypoints: float32 (L, 2), x y.
        wide_detection: int64 (W,), rising rows of detections.
        wide_keypoints: float32 (W, K, 2), x y over the global slots.
        has_keypoints: False for a model that predicts boxes alone; L and W are 0 then.

    Raises:
        ValueError: when a column's type or shape, an offset or a class index is wrong, an image occurs twice,
            or a box has a corner beyond the opposite one.
    """

    schema: KeypointSchema
    image_id: Annotated[np.ndarray, Column("image", np.int64)]
    detection_offsets: Annotated[np.ndarray, Column("image", np.int64, counts="detection")]
    category_id: Annotated[np.ndarray, Column("detection", np.int16)]
    score: Annotated[np.ndarray, Column("detection", np.float32)]
    box: Annotated[np.ndarray, Column("detection", np.float32, (4,))]
    keypoints: Annotated[np.ndarray, Column("keypoint", np.float32, (2,))]
    wide_detection: Annotated[np.ndarray, Column("wide", np.int64)]
    wide_keypoints: Annotated[np.ndarray, Column("wide", np.float32, ("slot", 2))]
    # None becomes a column of zeros.
    keypoint_score: Annotated[np.ndarray, Column("detection", np.float32, optional=True)] = None  # type: ignore[assignment]
    has_keypoints: bool = True

    def __post_init__(self) -> None:
        if self.keypoint_score is None:
            object.__setattr__(self, "keypoint_score", np.zeros_like(self.score))
        check_types(self, _COLUMNS)
        check_class_indices(self.category_id, self.schema)
        sizes = {
            "image": len(self),
            "keypoint": int(self.keypoint_offsets[-1]),
            "wide": len(self.wide_detection),
            "slot": self.schema.num_keypoints,
        }
        check_shapes(self, _COLUMNS, sizes)
        steps = np.diff(self.wide_detection, prepend=-1, append=self.num_detections)
        rising = bool((steps > 0).all())
        check(rising, f"wide_detection: expected rising rows of {self.num_detections} detections")
        check_unique(self.image_id, "predicted more than once")
        self._check_box_order()

    def _check_box_order(self) -> None:
        wrong = np.flatnonzero((self.box[:, :2] > self.box[:, 2:]).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            image_id = self.image_id[self.detection_image[row]]
            raise ValueError(
                f"detection {row}, of image {image_id}: box: expected x1 y1 x2 y2 "
                f"with x1 <= x2 and y1 <= y2, got {self.box[row].tolist()}; {len(wrong)} of {len(self.box)} "
                "boxes are not in that order"
            )

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.image_id)

    @property
    def num_detections(self) -> int:
        """D, the number of detections."""
        return len(self.category_id)

    @cached_property
    def keypoint_offsets(self) -> np.ndarray:
        """Offsets of the detections' landmarks, int64 (D + 1,), which follow from the classes."""
        return offsets_from_lengths(_num_keypoints(self.category_id, self.schema) * self.has_keypoints)

    @cached_property
    def detection_image(self) -> np.ndarray:
        """Rows of the detections' images, int64 (D,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.detection_offsets))

    def ranked_by_keypoints(self) -> "Predictions":
        """Return the predictions with the landmarks' scores, where they have their own, as those of all."""
        return replace(self, score=self.keypoint_score) if self._is_ranked_by_keypoints else self

    @cached_property
    def _is_ranked_by_keypoints(self) -> bool:
        return bool(self.keypoint_score.any())

    @cached_property
    def box_xywh(self) -> np.ndarray:
        """Boxes, float32 (D, 4), x y width height; subtracted in float32, as Detectron2 does for COCO."""
        return BoxMode.convert(self.box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

    @cached_property
    def area(self) -> np.ndarray:
        """Areas of boxes in square pixels, float64 (D,); multiplied in float64, as pycocotools does."""
        return self.box_xywh[:, 2:].astype(np.float64).prod(axis=1)

    @classmethod
    def from_instances(
        cls, instances: Instances, *, image_id: int, schema: KeypointSchema, wide_classes: np.ndarray
    ) -> "Predictions":
        """Return the columns of a model's output for one image, which is not modified.

        Args:
            instances: n garments with pred_boxes (n, 4) x1 y1 x2 y2, scores (n,), pred_classes (n,) and,
                unless the model predicts boxes alone, pred_keypoints (n, K, 3) of x, y, score, and
                keypoint_scores (n,) where these have their own, on any device and in any precision; float32
                is kept.
            image_id: the image's id.
            schema: the landmarks.
            wide_classes: bool (C,), the classes whose detections are kept with all K landmarks, see
                :attr:`AnnotationTable.no_visible_by_class`.

        Raises:
            ValueError: naming the image, when a field is missing or of the wrong shape, a class index is
                out of range, or a number is not finite.
        """
        where = f"prediction for image {image_id}"
        _check_instances(instances, schema, where)
        fields = {name: value for name, value in instances.get_fields().items() if name in _FIELDS}
        instances = Instances(instances.image_size, **fields).to("cpu")  # masks would be large
        classes = instances.pred_classes.numpy().astype(np.int16)
        if instances.has("pred_keypoints"):
            points = _to_float32(instances.pred_keypoints[..., :2], f"{where}: pred_keypoints")
            wide = np.flatnonzero(wide_classes[classes])
            columns = {
                "keypoints": points[class_keypoints(classes, schema)],
                "wide_detection": wide,
                "wide_keypoints": points[wide],
            }
        else:
            columns = empty_columns(_KEYPOINT_COLUMNS, {"slot": schema.num_keypoints})
        scores = _to_float32(instances.scores, f"{where}: scores")
        if instances.has("keypoint_scores"):
            columns["keypoint_score"] = _to_float32(instances.keypoint_scores, f"{where}: keypoint_scores")
        return cls(
            schema=schema,
            image_id=np.array([image_id], np.int64),
            detection_offsets=np.array([0, len(classes)], np.int64),
            category_id=classes,
            score=scores,
            box=_to_float32(instances.pred_boxes.tensor, f"{where}: pred_boxes"),
            has_keypoints=instances.has("pred_keypoints"),
            **columns,
        )

    @classmethod
    def empty(cls, schema: KeypointSchema) -> "Predictions":
        """Return predictions on no images."""
        columns = empty_columns(_COLUMNS, {"slot": schema.num_keypoints})
        return cls(schema=schema, has_keypoints=True, **columns)

    @classmethod
    def concatenate(cls, parts: Iterable["Predictions"], schema: KeypointSchema) -> "Predictions":
        """Return the images of all parts, which may be none, in their order.

        Raises:
            ValueError: naming an image that occurs twice; or some parts have landmarks and some have none.
        """
        parts = [cls.empty(schema), *parts]
        has_keypoints = {part.has_keypoints for part in parts if len(part)} or {True}
        check(len(has_keypoints) == 1, "pred_keypoints: expected in all predictions or in none, got both")
        columns = concatenate_columns(parts, _COLUMNS)
        starts = np.cumsum([0, *(part.num_detections for part in parts[:-1])])
        columns["wide_detection"] += np.repeat(starts, [len(part.wide_detection) for part in parts])
        return cls(schema=schema, has_keypoints=has_keypoints.pop(), **columns)

    def save(self, path: str | Path, *, compact: bool = False) -> None:
        """Write an .npz file, whole or not at all.

        Args:
            path: the file.
            compact: keep landmarks as float16 from their box's upper left corner, those of the class alone,
                and deflate the file. Otherwise it is exact, and not deflated: floats hardly shrink and it
                takes long.
        """
        further: dict[str, Any] = {stored_name("has_keypoints"): self.has_keypoints}
        columns: Mapping[str, Column] = _COLUMNS
        if compact:
            columns = {name: column for name, column in _COLUMNS.items() if name not in _KEYPOINT_COLUMNS}
            corners = np.repeat(self.box[:, :2], np.diff(self.keypoint_offsets), axis=0)
            further[_COMPACT] = _to_bytes(self.keypoints - corners)
        write_columns(path, self, columns, version=FORMAT_VERSION, further=further, deflate=compact)

    @classmethod
    def load(cls, path: str | Path, schema: KeypointSchema) -> "Predictions":
        """Read and check a file that :meth:`save` wrote, compact or not.

        A file without wide rows has the landmarks of the class alone.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file: another version or schema, a damaged file, columns that contradict
                one another, a number that is not finite.
        """
        with open_columns(path, kind="predictions", version=FORMAT_VERSION, schema=schema) as archive:
            has_keypoints = archive[stored_name("has_keypoints")].item()
            left_out = _columns_left_out(archive)
            columns = read_columns(
                archive, {name: column for name, column in _COLUMNS.items() if name not in left_out}
            )
            columns |= empty_columns(
                {name: _COLUMNS[name] for name in left_out}, {"slot": schema.num_keypoints}
            )
            if _COMPACT in archive:
                check_class_indices(columns["category_id"], schema)
                counts = _num_keypoints(columns["category_id"], schema) * has_keypoints
                corners = np.repeat(columns["box"][:, :2], counts, axis=0)
                columns["keypoints"] = _from_bytes(archive[_COMPACT], len(corners)) + corners
            for name, array in columns.items():
                if array.dtype.kind == "f":
                    check_finite(name, array)
            return cls(schema=schema, has_keypoints=has_keypoints, **columns)

    def coco_results(self) -> Iterator[dict]:
        """Generate one official COCO result a detection, image by image, see :meth:`coco_result`."""
        return map(self.coco_result, range(self.num_detections))

    def coco_result(self, row: int, *, all_slots: bool = True) -> dict[str, Any]:
        """Return a detection as an official COCO result.

        ``category_id`` is the class index + 1, as in DeepFashion2's own annotations; ``bbox`` is x y width
        height; ``keypoints`` are numbers x, y, score, the score being the detection's; a model of boxes alone
        has no such key. Where landmarks are ranked by scores of their own these are ``keypoint_score``, which
        other tools do not read.

        Args:
            row: the detection's.
            all_slots: 3 K numbers over the global slots, zeros where a landmark is not kept; otherwise 3 K_c
                numbers, of the class's own landmarks.
        """
        result = {
            "image_id": int(self.image_id[self.detection_image[row]]),
            "category_id": int(self.category_id[row]) + 1,
            "bbox": self.box_xywh[row].tolist(),
            "score": float(self.score[row]),
        }
        if self.has_keypoints:
            result["keypoints"] = self._coco_keypoints(row, all_slots).ravel().tolist()
        if self._is_ranked_by_keypoints:
            result["keypoint_score"] = float(self.keypoint_score[row])
        return result

    def _coco_keypoints(self, row: int, all_slots: bool) -> np.ndarray:
        """Return float32 (K, 3) or (K_c, 3) of x, y, score."""
        own = self.keypoints[slice(*self.keypoint_offsets[row : row + 2])]
        scored = np.column_stack([own, np.full(len(own), self.score[row])])
        if not all_slots:
            return scored
        if row not in self._row_of_wide:
            return self.schema.scatter(scored, self.category_id[row])
        wide = self.wide_keypoints[self._row_of_wide[row]]
        return np.column_stack([wide, np.full(len(wide), self.score[row])])

    @cached_property
    def _row_of_wide(self) -> dict[int, int]:
        return {detection: row for row, detection in enumerate(self.wide_detection.tolist())}


_COLUMNS = declared_columns(Predictions)
_KEYPOINT_COLUMNS = {name: _COLUMNS[name] for name in ("keypoints", "wide_detection", "wide_keypoints")}
_COMPACT = "landmarks_float16"  # in a file, in place of what _KEYPOINT_COLUMNS are stored as
_FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_keypoints", "keypoint_scores")


def class_keypoints(classes: np.ndarray, schema: KeypointSchema) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the global slot, int64 (L,) both, of each landmark of n detections.

    Args:
        classes: int (n,), their class indices.
        schema: the landmarks.
    """
    slots = [schema.slots[class_index] for class_index in classes.tolist()]
    lengths = np.array([len(class_slots) for class_slots in slots], np.int64)
    return np.repeat(np.arange(len(slots)), lengths), np.fromiter(chain.from_iterable(slots), np.int64)


def _num_keypoints(category_id: np.ndarray, schema: KeypointSchema) -> np.ndarray:
    """Return the numbers of landmarks of the classes (n,), int64 (n,)."""
    return np.array([len(slots) for slots in schema.slots], np.int64)[category_id]


def _columns_left_out(archive: Mapping[str, np.ndarray]) -> set[str]:
    """Return the columns that a file may lack: those of landmarks if it is compact, or both wide ones."""
    if _COMPACT in archive:
        return set(_KEYPOINT_COLUMNS)
    wide = {"wide_detection", "wide_keypoints"}
    return set() if any(stored_name(name) in archive for name in wide) else wide


def _to_bytes(points: np.ndarray) -> np.ndarray:
    """Return float32 (L, 2) as float16, uint8 (2, L, 2): all lower bytes, then all upper ones.

    So they deflate better. Beyond float16's range points are at its end.
    """
    largest = np.finfo(np.float16).max
    halves = points.clip(-largest, largest).astype("<f2")
    return np.ascontiguousarray(np.moveaxis(halves.view(np.uint8).reshape(-1, 2, 2), -1, 0))


def _from_bytes(stored: np.ndarray, count: int) -> np.ndarray:
    """Return what :func:`_to_bytes` returned as float32 (L, 2).

    Raises:
        ValueError: another type or shape than that of ``count`` landmarks.
    """
    fits = stored.dtype == np.uint8 and stored.shape == (2, count, 2)
    check(fits, f"{_COMPACT}: expected uint8 {(2, count, 2)}, got {stored.dtype} {stored.shape}")
    halves = np.ascontiguousarray(np.moveaxis(stored, 0, -1)).view("<f2")
    return halves[..., 0].astype(np.float32)


def _to_float32(tensor: torch.Tensor, where: str) -> np.ndarray:
    """Return a float32 copy, whose numbers are finite."""
    values = np.array(tensor.detach().to(torch.float32).numpy())
    check_finite(where, values)
    return values


def _check_instances(instances: Instances, schema: KeypointSchema, where: str) -> None:
    for field in ("pred_boxes", "scores", "pred_classes"):
        check(instances.has(field), f"{where}: {field} is missing, got {sorted(instances.get_fields())}")
    if instances.has("pred_keypoints"):
        shape, expected = tuple(instances.pred_keypoints.shape), (len(instances), schema.num_keypoints, 3)
        check(shape == expected, f"{where}: pred_keypoints: expected shape {expected}, got {shape}")
    classes, last = instances.pred_classes, schema.num_classes - 1
    wrong = classes[(classes < 0) | (classes > last)]
    check(len(wrong) == 0, f"{where}: pred_classes: expected 0..{last}, got {wrong.unique().tolist()}")
