"""COCO results, the JSON of any tool's detections, read as predictions."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, NamedTuple

import numpy as np

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures._columns import offsets_from_lengths
from kgdet_d2.structures.annotations import AnnotationTable
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.utils.check import check
from kgdet_d2.utils.json_array import read_json_array

logger = logging.getLogger(__name__)


class _Detection(NamedTuple):
    """One result; optional fields are None where it lacks them.

    Attributes:
        photo: row of the image in the ground truth.
        category_id: class index.
        score: the detection's.
        box: float32 (4,), x1 y1 x2 y2.
        keypoints: float32 (K_c, 2), x y.
        wide: float32 (K, 2), x y over the global slots.
        keypoint_score: of its landmarks together.
    """

    photo: int
    category_id: int
    score: float
    box: np.ndarray
    keypoints: np.ndarray | None
    wide: np.ndarray | None
    keypoint_score: float | None


def load_coco_results(path: str | Path, ground_truth: AnnotationTable) -> Predictions:
    """Read COCO results on photos of a ground truth; a result at a time is in memory as JSON.

    A result has ``image_id``, ``category_id`` (the class index + 1), ``score``, ``bbox`` (x y width height),
    and, in all results or in none, ``keypoints``: 3 numbers, x y and one that is not read, for each of the
    class's K_c landmarks, or for each of all K. Then ``bbox`` may be missing: it becomes the box around the
    class's landmarks, with a warning. ``keypoint_score``, in all or in none, is what landmarks are ranked by.
    Other keys are not read. Numbers become float32.

    All K landmarks, zeros included, are kept where COCO's OKS reads them, see :class:`Predictions`.

    Args:
        path: the file.
        ground_truth: of the schema that the results are of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, the result's index in its list from 0, the field, what was expected and
            what was found.
    """
    reader = _Reader(ground_truth)
    detections = []
    for index, result in enumerate(read_json_array(path)):
        try:
            detections.append(reader.read(result))
        except ValueError as error:
            raise ValueError(f"{path}: [{index}]: {error}") from error
    for name in ("keypoints", "keypoint_score"):
        _check_all_or_none(detections, name, path)
    if reader.boxless:
        logger.warning("%s: %d results without bbox get the box around their landmarks", path, reader.boxless)
    return _columns(detections, ground_truth)


def index_of_result(path: str | Path, image_id: int, number: int) -> int:
    """Return the index in a file's list of the ``number``-th result on an image, from 0.

    Args:
        path: of a file that :func:`load_coco_results` has read.
        image_id: the image's.
        number: that of the detection among its image's, in the predictions read.
    """
    results = enumerate(read_json_array(path))
    return next(islice((index for index, result in results if result["image_id"] == image_id), number, None))


class _Reader:
    """Reads one result after another; raises ValueError, naming the field."""

    def __init__(self, ground_truth: AnnotationTable) -> None:
        self.schema: KeypointSchema = ground_truth.schema
        self.reads_all_slots = ground_truth.no_visible_by_class
        self.boxless = 0  # results that had no bbox
        self.rows = {image_id: row for row, image_id in enumerate(ground_truth.image_id.tolist())}

    def read(self, result: object) -> _Detection:
        if not isinstance(result, dict):
            raise ValueError(f"expected an object, got {shortened(result)}")
        image_id = _integer(result, "image_id")
        if image_id not in self.rows:
            raise ValueError(f"image_id: expected that of a photo of the dataset, got {image_id}")
        photo, class_index = self.rows[image_id], _integer(result, "category_id") - 1
        last = self.schema.num_classes
        check(0 <= class_index < last, f"category_id: expected 1..{last}, got {class_index + 1}")
        own, wide = self._keypoints(result, class_index)
        return _Detection(
            photo=photo,
            category_id=class_index,
            score=_number(result, "score"),
            box=self._box(result, own),
            keypoints=own,
            wide=wide if self.reads_all_slots[photo, class_index] else None,
            keypoint_score=_number(result, "keypoint_score") if "keypoint_score" in result else None,
        )

    def _box(self, result: Mapping, keypoints: np.ndarray | None) -> np.ndarray:
        if keypoints is not None and "bbox" not in result:  # as in results of COCO's keypoint task
            self.boxless += 1
            return np.concatenate([keypoints.min(axis=0), keypoints.max(axis=0)])
        box = _numbers(result, "bbox")
        check(len(box) == 4, f"bbox: expected x y width height, got {len(box)} numbers")
        check(
            bool((box[2:] >= 0).all()),
            f"bbox: expected x y width height with no negative side, got {result['bbox']}",
        )
        return np.concatenate([box[:2], box[:2] + box[2:]])

    def _keypoints(self, result: Mapping, class_index: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the class's own landmarks (K_c, 2) and all (K, 2), None for what is not there."""
        if result.get("keypoints") in (None, []):
            return None, None
        values = _numbers(result, "keypoints")
        count, slots = self.schema.num_class_keypoints(class_index), self.schema.num_keypoints
        if len(values) not in {3 * count, 3 * slots}:
            raise ValueError(
                f"keypoints: expected {3 * count} numbers, x y score of the {count} landmarks of "
                f"{self.schema.class_names[class_index]!r}, or {3 * slots}, of all {slots}, got {len(values)}"
            )
        points = values.reshape(-1, 3)[:, :2]
        if len(points) == slots:
            return self.schema.gather(points, class_index), points
        return points.copy(), None  # without the scores


def _value(result: Mapping, name: str) -> Any:
    if name not in result:
        raise ValueError(f"{name} is missing, got {sorted(result)}")
    return result[name]


def _integer(result: Mapping, name: str) -> int:
    value = _value(result, name)
    if type(value) is not int:  # isinstance would take true for one
        raise ValueError(f"{name}: expected an integer, got {shortened(value)}")
    return value


def _number(result: Mapping, name: str) -> float:
    return float(_numbers({name: [_value(result, name)]}, name, "a finite number")[0])


def _numbers(result: Mapping, name: str, wanted: str = "a list of finite numbers") -> np.ndarray:
    """Return float32 (n,)."""
    values = _value(result, name)
    if isinstance(values, list) and set(map(type, values)) <= {int, float}:
        with np.errstate(over="ignore"), suppress(OverflowError):  # of an integer beyond float64
            array = np.array(values, np.float32)
            if np.isfinite(array).all():
                return array
    raise ValueError(f"{name}: expected {wanted}, got {shortened(values)}")


def _check_all_or_none(detections: Sequence[_Detection], name: str, path: str | Path) -> None:
    has = np.array([getattr(detection, name) is not None for detection in detections], bool)
    if has.any() and not has.all():
        index = int(np.argmax(has != has[0]))
        first, this = ("has it", "has none") if has[0] else ("has none", "has it")
        raise ValueError(
            f"{path}: [{index}]: {name}: expected in all results or in none, but [0] {first} and this {this}"
        )


def _columns(detections: Sequence[_Detection], ground_truth: AnnotationTable) -> Predictions:
    """Return the detections photo by photo, in the ground truth's order; a photo's keep theirs."""
    schema = ground_truth.schema
    detections = sorted(detections, key=lambda detection: detection.photo)
    photos, counts = np.unique(np.array([each.photo for each in detections], np.int64), return_counts=True)
    keypoints = [each.keypoints for each in detections if each.keypoints is not None]
    wide = {row: each.wide for row, each in enumerate(detections) if each.wide is not None}
    return Predictions(
        schema=schema,
        image_id=ground_truth.image_id[photos],
        detection_offsets=offsets_from_lengths(counts),
        category_id=np.array([each.category_id for each in detections], np.int16),
        score=np.array([each.score for each in detections], np.float32),
        box=np.array([each.box for each in detections], np.float32).reshape(-1, 4),
        keypoints=np.concatenate([np.zeros((0, 2), np.float32), *keypoints]),
        wide_detection=np.array(list(wide), np.int64),
        wide_keypoints=np.array(list(wide.values()), np.float32).reshape(-1, schema.num_keypoints, 2),
        keypoint_score=np.array([each.keypoint_score or 0 for each in detections], np.float32),
        has_keypoints=len(keypoints) == len(detections),
    )
