"""A model's detections on a data set, as columns: in memory, on disk, and as official COCO results."""

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import BoxMode, Instances

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import stored_name
from kgdet_d2.utils.io import atomic_write

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """The D detections on N photos, with their L landmarks. Coordinates are continuous pixels.

    The detections of photo i are rows ``detection_offsets[i]`` up to ``detection_offsets[i + 1]``, the
    landmarks of detection j rows ``keypoint_offsets[j]`` up to ``keypoint_offsets[j + 1]``. A network
    places all K landmarks for each detection. Kept are those of the class that was predicted, for the
    others are unlabelled in every garment of that class.

    In one case COCO's OKS reads all K: a garment without any labelled landmark is compared by the distance
    of all landmarks from its doubled box, and a detection near it is ignored. So W detections, those in a
    photo that has such a garment of their class, are kept with all K. Then results are COCO's own.

    Attributes:
        schema: the landmarks.
        image_id: int64 (N,), each once.
        detection_offsets: int64 (N + 1,).
        category_id: int16 (D,), 0-based class index.
        score: float32 (D,).
        box: float32 (D, 4), x1 y1 x2 y2.
        has_landmarks: False for a model that makes boxes alone; L and W are 0 then.
        landmarks: float32 (L, 2), x y.
        wide_detection: int64 (W,), rising rows of detections.
        wide_landmarks: float32 (W, K, 2), x y over the global slots.

    Raises:
        ValueError: when a column's type or shape, an offset or a class index is wrong, a number is not
            finite, or a photo occurs twice.
    """

    schema: KeypointSchema
    image_id: np.ndarray
    detection_offsets: np.ndarray
    category_id: np.ndarray
    score: np.ndarray
    box: np.ndarray
    keypoints: np.ndarray
    wide_detection: np.ndarray
    wide_keypoints: np.ndarray
    has_keypoints: bool = True

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            found = getattr(self, name).dtype
            _require(found == dtype, f"{name}: expected {np.dtype(dtype)}, got {found}")
        last = self.schema.num_classes - 1
        wrong = self.category_id[(self.category_id < 0) | (self.category_id > last)]
        _require(not wrong.size, f"category_id: expected 0..{last}, got {np.unique(wrong)}")
        detections, sizes = len(self.category_id), (len(self.image_id), len(self.wide_detection))
        shapes = _shapes(self.schema, sizes[0], detections, int(self.keypoint_offsets[-1]), sizes[1])
        for name, shape in shapes.items():
            array = getattr(self, name)
            _require(array.shape == shape, f"{name}: expected shape {shape}, got {array.shape}")
            bad = array.size - np.count_nonzero(np.isfinite(array))
            _require(bad == 0, f"{name}: expected finite numbers, {bad} of {array.size} are not")
        ends = (self.detection_offsets[0], self.detection_offsets[-1])
        rising = ends == (0, detections) and (np.diff(self.detection_offsets) >= 0).all()
        _require(rising, f"detection_offsets: expected 0 first, {detections} last and no decrease")
        steps = np.diff(self.wide_detection, prepend=-1, append=detections)
        _require((steps > 0).all(), f"wide_detection: expected rising rows of {detections} detections")
        ids, counts = np.unique(self.image_id, return_counts=True)
        for twice in ids[counts > 1]:
            raise ValueError(f"image {twice}: predicted more than once")

    def __len__(self) -> int:
        """N, the number of photos."""
        return len(self.image_id)

    @property
    def num_detections(self) -> int:
        """D."""
        return len(self.category_id)

    @cached_property
    def keypoint_offsets(self) -> np.ndarray:
        """int64 (D + 1,); they follow from the classes."""
        counts = np.array([len(slots) * self.has_keypoints for slots in self.schema.slots])
        return np.concatenate([[0], np.cumsum(counts[self.category_id])])

    @cached_property
    def detection_image(self) -> np.ndarray:
        """int64 (D,), the row of the detection's photo."""
        return np.repeat(np.arange(len(self)), np.diff(self.detection_offsets))

    @cached_property
    def box_xywh(self) -> np.ndarray:
        """float32 (D, 4), x y width height: subtracted in float32, as Detectron2 does for COCO results."""
        return BoxMode.convert(self.box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

    @cached_property
    def area(self) -> np.ndarray:
        """float64 (D,): the box's area in square pixels; multiplied in float64, as pycocotools does."""
        return self.box_xywh[:, 2:].astype(np.float64).prod(axis=1)

    @classmethod
    def from_instances(
        cls, instances: Instances, *, image_id: int, schema: KeypointSchema, wide_classes: np.ndarray
    ) -> "Predictions":
        """A model's output for one photo, which stays as it is.

        Args:
            instances: n garments with pred_boxes (n, 4) x1 y1 x2 y2, scores (n,), pred_classes (n,) and,
                unless the model makes boxes alone, pred_keypoints (n, K, 3) of x, y, score, on any device
                and in any precision; kept are float32.
            image_id, schema: the photo's id, the landmarks.
            wide_classes: bool (C,), whose detections are kept with all K landmarks, see
                :attr:`GroundTruth.no_visible_by_class`.

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
            points = _finite(instances.pred_keypoints[..., :2], f"{where}: pred_keypoints")
            wide = np.flatnonzero(wide_classes[classes])
            columns = {"keypoints": points[_own_slots(classes, schema)]}
            columns |= {"wide_detection": wide, "wide_keypoints": points[wide]}
        else:
            columns = _no_columns(schema, ("keypoints", "wide_detection", "wide_keypoints"))
        return cls(
            schema=schema,
            image_id=np.array([image_id], np.int64),
            detection_offsets=np.array([0, len(classes)], np.int64),
            category_id=classes,
            score=_finite(instances.scores, f"{where}: scores"),
            box=_finite(instances.pred_boxes.tensor, f"{where}: pred_boxes"),
            has_keypoints=instances.has("pred_keypoints"),
            **columns,
        )

    @classmethod
    def empty(cls, schema: KeypointSchema) -> "Predictions":
        """Of no photos."""
        return cls(schema=schema, **_no_columns(schema, _DTYPES))

    @classmethod
    def concatenate(cls, parts: Iterable["Predictions"], schema: KeypointSchema) -> "Predictions":
        """The photos of all parts, in their order; no parts at all are well.

        Raises:
            ValueError: naming an image that occurs twice; or some parts have landmarks and some have none.
        """
        parts = [cls.empty(schema), *parts]
        having = {part.has_keypoints for part in parts if len(part)} or {True}
        _require(len(having) == 1, "pred_keypoints: expected in all predictions or in none, got both")
        starts = np.cumsum([0, *(part.num_detections for part in parts[:-1])])
        columns = {name: [getattr(part, name) for part in parts] for name in _DTYPES}
        for number, (part, start) in enumerate(zip(parts, starts, strict=True)):
            columns["wide_detection"][number] = part.wide_detection + start
            columns["detection_offsets"][number] = part.detection_offsets[bool(number) :] + start
        joined = {name: np.concatenate(arrays) for name, arrays in columns.items()}
        return cls(schema=schema, has_keypoints=having.pop(), **joined)

    def save(self, path: str | Path) -> None:
        """Write an .npz file, whole or not at all. Not deflated: floats hardly shrink and it takes long."""
        columns = {stored_name(name): getattr(self, name) for name in (*_DTYPES, "has_keypoints")}
        with atomic_write(path) as file:
            np.savez(file, format_version=FORMAT_VERSION, schema=self.schema.name, **columns)

    @classmethod
    def load(cls, path: str | Path, schema: KeypointSchema) -> "Predictions":
        """Read and check a file that :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file: another version or schema, a damaged file, columns that contradict
                one another.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: there is no such predictions file")
        try:
            _require(zipfile.is_zipfile(path), "truncated, or of another kind")
            with np.load(path, allow_pickle=False) as archive:
                for name, expected in {"format_version": FORMAT_VERSION, "schema": schema.name}.items():
                    found = archive[name].item()
                    _require(found == expected, f"{name}: expected {expected!r}, got {found!r}")
                columns = {name: archive[stored_name(name)] for name in _DTYPES}
                return cls(schema=schema, has_keypoints=archive["has_landmarks"].item(), **columns)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: not a usable predictions file: {error}") from error

    def coco_results(self) -> Iterator[dict]:
        """One official COCO result a detection, photo by photo.

        ``category_id`` is the class index + 1, as in DeepFashion2's own annotations; ``bbox`` is x y width
        height; ``keypoints`` are 3 K numbers x, y, score over the global slots, the score being the
        detection's, and zeros where a landmark is not kept; a model of boxes alone has no such key.
        """
        boxes = self.box_xywh
        wide = dict(zip(self.wide_detection.tolist(), self.wide_keypoints, strict=True))
        for row, image in enumerate(self.detection_image):
            result = {
                "image_id": int(self.image_id[image]),
                "category_id": int(self.category_id[row]) + 1,
                "bbox": boxes[row].tolist(),
                "score": float(self.score[row]),
            }
            if self.has_keypoints:
                result["keypoints"] = self._coco_keypoints(row, wide.get(row)).ravel().tolist()
            yield result

    def _coco_keypoints(self, row: int, wide: np.ndarray | None) -> np.ndarray:
        """float32 (K, 3) of x, y, score; ``wide`` (K, 2) where all are kept."""
        keypoints = np.zeros((self.schema.num_keypoints, 3), np.float32)
        slots = slice(None) if wide is not None else list(self.schema.slots[self.category_id[row]])
        own = self.keypoints[slice(*self.keypoint_offsets[row : row + 2])]
        keypoints[slots, :2] = own if wide is None else wide
        keypoints[slots, 2] = self.score[row]
        return keypoints


_FIELDS = ("pred_boxes", "scores", "pred_classes", "pred_keypoints")
_DTYPES = {
    "image_id": np.int64,
    "detection_offsets": np.int64,
    "category_id": np.int16,
    "score": np.float32,
    "box": np.float32,
    "keypoints": np.float32,
    "wide_detection": np.int64,
    "wide_keypoints": np.float32,
}


def _shapes(
    schema: KeypointSchema, photos: int, detections: int, keypoints: int, wide: int
) -> dict[str, tuple[int, ...]]:
    return {
        "image_id": (photos,),
        "detection_offsets": (photos + 1,),
        "category_id": (detections,),
        "score": (detections,),
        "box": (detections, 4),
        "keypoints": (keypoints, 2),
        "wide_detection": (wide,),
        "wide_keypoints": (wide, schema.num_keypoints, 2),
    }


def _no_columns(schema: KeypointSchema, names: Iterable[str]) -> dict[str, np.ndarray]:
    shapes = _shapes(schema, 0, 0, 0, 0)
    return {name: np.zeros(shapes[name], _DTYPES[name]) for name in names}


def _own_slots(classes: np.ndarray, schema: KeypointSchema) -> tuple[np.ndarray, np.ndarray]:
    """Classes of n detections -> row and global slot of each detection's own landmarks, int64 (L,) both."""
    slots = [schema.slots[class_index] for class_index in classes.tolist()]
    rows = np.repeat(np.arange(len(slots)), np.array([len(own) for own in slots], np.int64))
    return rows, np.fromiter(chain.from_iterable(slots), np.int64)


def _finite(tensor: torch.Tensor, where: str) -> np.ndarray:
    """A float32 copy, checked."""
    values = np.array(tensor.detach().to(torch.float32).numpy())
    bad = values.size - np.count_nonzero(np.isfinite(values))
    _require(bad == 0, f"{where}: expected finite numbers, {bad} of {values.size} are not")
    return values


def _check_instances(instances: Instances, schema: KeypointSchema, where: str) -> None:
    for field in ("pred_boxes", "scores", "pred_classes"):
        _require(instances.has(field), f"{where}: {field} is missing, got {sorted(instances.get_fields())}")
    if instances.has("pred_keypoints"):
        shape, expected = tuple(instances.pred_keypoints.shape), (len(instances), schema.num_keypoints, 3)
        _require(shape == expected, f"{where}: pred_keypoints: expected shape {expected}, got {shape}")
    classes, last = instances.pred_classes, schema.num_classes - 1
    wrong = classes[(classes < 0) | (classes > last)]
    _require(len(wrong) == 0, f"{where}: pred_classes: expected 0..{last}, got {wrong.unique().tolist()}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
