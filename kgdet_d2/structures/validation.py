"""The checks of annotations' values, over columns: one for native data sets, COCO, compact files and dicts.

What becomes of a fault is the caller's: :class:`AnnotationTable` refuses it, a reader of a native data set
reports it and leaves out what cannot be used.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import repr as shortened

import numpy as np

from kgdet_d2.schema import KeypointSchema

LARGE = 2**24  # pixels; up to here float32 holds every whole number
NO_AREA = "box without area"
_MARGIN = 0.1  # of the photo's longer side


@dataclass(frozen=True)
class Fault:
    """A value that is wrong.

    Attributes:
        image: the photo's row.
        image_id: the photo's.
        file_name: the photo's.
        garment: the garment's place in its photo, from 0; -1 where the fault is the photo's own.
        part: what cannot be used because of it: "photo", "garment", "landmark" or "polygon".
        index: the landmark's or polygon's place in its garment, from 0; -1 where the fault is no part's.
        field: the garment's field, named as in Detectron2's dicts: category_id, bbox, keypoints or
            segmentation; or the photo's, image_id or size.
        kind: a few words that many faults share, to be counted.
        reason: what was expected and what was found.
    """

    image: int
    image_id: int
    file_name: str
    garment: int
    part: str
    index: int
    field: str
    kind: str
    reason: str

    def __str__(self) -> str:
        garment = f", garment {self.garment + 1}" if self.garment >= 0 else ""
        name = f" ({self.file_name})" if self.file_name else ""
        return f"image {self.image_id}{name}{garment}: {self.field}: {self.reason}"


def find_faults(columns: Mapping[str, np.ndarray], schema: KeypointSchema) -> Iterator[Fault]:
    """Find what is wrong with the values of columns whose types, shapes and offsets are right.

    Photos must have an id of their own and a size; garments a class of the schema, a box with an area and a
    part in the photo, as many landmarks as the class has, visibilities 0, 1 or 2; labelled landmarks stand at
    most a tenth of the photo's longer side outside of it; polygons have three points; all coordinates are
    finite and below ``LARGE``. A garment may have several faults, of its parts only where it has no other.

    Args:
        columns: those of :class:`AnnotationTable` by name; a garment may have any number of landmarks, and
            any class.
        schema: classes and landmarks.

    Yields:
        The faults: of photos, then of garments, landmarks and polygons.
    """
    checks = _Checks(columns, schema)
    yield from checks.photos()
    for check in (checks.classes, checks.boxes, checks.counts, checks.values):
        yield from check()
    yield from checks.far_landmarks()
    yield from checks.polygons()


def repeated(values: np.ndarray) -> np.ndarray:
    """Return bool (n,): whether a value (n,) has occurred before."""
    again = np.ones(len(values), bool)
    again[np.unique(values, return_index=True)[1]] = False
    return again


def within_range(array: np.ndarray) -> bool:
    """Return whether all numbers are finite and below ``LARGE``; NaN is neither."""
    return bool(array.max(initial=0) < LARGE and array.min(initial=0) > -LARGE)


@dataclass
class _Checks:
    """The checks of one set of columns; G garments, L landmarks, P polygons, V vertices."""

    columns: Mapping[str, np.ndarray]
    schema: KeypointSchema
    bad: np.ndarray = field(init=False)  # bool (G,), the garments with a fault so far

    def __post_init__(self) -> None:
        self.category_id, self.box = self.columns["category_id"], self.columns["box"]
        self.keypoints, self.keypoint_offsets = self.columns["keypoints"], self.columns["keypoint_offsets"]
        self.bad = np.zeros(len(self.category_id), bool)

    @cached_property
    def image(self) -> np.ndarray:
        """Int64 (G,), the rows of garments' photos."""
        offsets = self.columns["garment_offsets"]
        return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    @cached_property
    def size(self) -> np.ndarray:
        """Float32 (N, 2), widths and heights of photos."""
        return np.stack([self.columns["width"], self.columns["height"]], axis=1).astype(np.float32)

    def photos(self) -> Iterator[Fault]:
        ids, size = self.columns["image_id"], self.size
        for row in np.flatnonzero(repeated(ids)).tolist():
            yield self._fault(row, -1, "photo", "image_id", "image id occurs twice", "it occurs twice")
        wrong = ((size < 1) | (size >= LARGE)).any(axis=1)
        for row in np.flatnonzero(wrong).tolist():
            reason = f"expected width and height of 1 pixel or more, got {_shown(size[row])}"
            yield self._fault(row, -1, "photo", "size", "photo without size", reason)

    def classes(self) -> Iterator[Fault]:
        last = self.schema.num_classes - 1
        unknown = (self.category_id < 0) | (self.category_id > last)
        yield from self._garments(
            unknown, "category_id", "class", lambda row: f"expected 0..{last}, got {self.category_id[row]}"
        )

    def boxes(self) -> Iterator[Fault]:
        box = self.box
        endless = np.zeros(len(box), bool)
        if not within_range(box):
            endless = ~(np.abs(box) < LARGE).all(axis=1)
        yield from self._garments(endless, "bbox", *self._not_finite(lambda row: box[row]))
        with_area = (box[:, :2] < box[:, 2:]).all(axis=1)
        yield from self._garments(
            ~with_area & ~endless,
            "bbox",
            NO_AREA,
            lambda row: f"expected x1 < x2 and y1 < y2, got {_shown(box[row])}",
        )
        size = self.size[self.image]
        meets = ((box[:, :2] < size) & (box[:, 2:] > 0)).all(axis=1)
        yield from self._garments(
            ~meets & with_area & ~endless,
            "bbox",
            "box outside the photo",
            lambda row: f"expected a part in the photo of {_pixels(size[row])}, got {_shown(box[row])}",
        )

    def counts(self) -> Iterator[Fault]:
        expected = np.array([len(slots) for slots in self.schema.slots])
        known = (self.category_id >= 0) & (self.category_id < len(expected))
        expected = expected[np.where(known, self.category_id, 0)]
        found = np.diff(self.keypoint_offsets)
        yield from self._garments(
            known & (found != expected),
            "keypoints",
            "landmark count",
            lambda row: (
                f"expected {3 * expected[row]} numbers, x y v of {expected[row]} landmarks of class "
                f"{self.schema.class_names[self.category_id[row]]!r}, got {3 * found[row]}"
            ),
        )

    def values(self) -> Iterator[Fault]:
        """Check that landmarks are finite, and visibilities 0, 1 or 2."""
        keypoints, v = self.keypoints, self.keypoints[:, 2]
        not_visibility = ~((v == 0) | (v == 1) | (v == 2))
        if not within_range(keypoints):
            endless = ~(np.abs(keypoints) < LARGE).all(axis=1)
            not_visibility &= ~endless
            yield from self._garments(
                self._with_landmark(endless), "keypoints", *self._not_finite(self._landmarks)
            )
        yield from self._garments(
            self._with_landmark(not_visibility),
            "keypoints",
            "visibility",
            lambda row: f"expected visibility 0, 1 or 2, got {self._other_visibilities(row)}",
        )

    def far_landmarks(self) -> Iterator[Fault]:
        lengths = np.diff(self.keypoint_offsets)
        size = self.size
        margin = np.float32(_MARGIN) * size.max(axis=1, initial=0)
        limits = np.stack([-margin, size[:, 0] + margin, size[:, 1] + margin])[:, self.image]  # (3, G)
        low, right, bottom = np.repeat(limits, lengths, axis=1)  # (L,) each
        x, y, v = self.keypoints.T
        far = ((x < low) | (y < low) | (x > right) | (y > bottom)) & (v > 0)
        for row, garment, index in self._parts(np.flatnonzero(far), self.keypoint_offsets):
            image = self.image[garment]
            reason = (
                f"landmark {index + 1}: expected at most {margin[image]:g} pixels outside the photo of "
                f"{_pixels(size[image])}, got {_shown(self.keypoints[row, :2])}"
            )
            kind = "landmark far outside the photo"
            yield self._fault(image, garment, "landmark", "keypoints", kind, reason, index)

    def polygons(self) -> Iterator[Fault]:
        vertices, vertex_offsets = self.columns["vertices"], self.columns["vertex_offsets"]
        offsets = self.columns["polygon_offsets"]
        few = np.diff(vertex_offsets) < 3
        for row, garment, index in self._parts(np.flatnonzero(few), offsets):
            points = vertex_offsets[row + 1] - vertex_offsets[row]
            reason = f"polygon {index + 1}: expected 3 points or more, got {points}"
            image = self.image[garment]
            yield self._fault(image, garment, "polygon", "segmentation", "polygon", reason, index)
        if within_range(vertices):
            return
        endless = np.flatnonzero(~(np.abs(vertices) < LARGE).all(axis=1))
        rows = np.unique(np.searchsorted(vertex_offsets, endless, side="right") - 1)
        kind, describe = self._not_finite(lambda row: vertices[slice(*vertex_offsets[row : row + 2])])
        for row, garment, index in self._parts(rows[~few[rows]], offsets):
            reason = f"polygon {index + 1}: {describe(row)}"
            yield self._fault(self.image[garment], garment, "polygon", "segmentation", kind, reason, index)

    # --- helpers ---

    def _garments(
        self, wrong: np.ndarray, name: str, kind: str, describe: Callable[[int], str]
    ) -> Iterator[Fault]:
        """Yield a fault for each garment of a mask (G,)."""
        self.bad |= wrong
        for row in np.flatnonzero(wrong).tolist():
            yield self._fault(self.image[row], row, "garment", name, kind, describe(row))

    def _fault(
        self, image: int, garment: int, part: str, name: str, kind: str, reason: str, index: int = -1
    ) -> Fault:
        """Make a fault; ``garment`` is a row of the columns, -1 for none."""
        place = -1 if garment < 0 else int(garment - self.columns["garment_offsets"][image])
        image_id, file_name = int(self.columns["image_id"][image]), str(self.columns["file_name"][image])
        return Fault(int(image), image_id, file_name, place, part, int(index), name, kind, reason)

    def _parts(self, rows: np.ndarray, offsets: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """Yield the row, its garment and its place there of parts of garments that have no other fault."""
        garments = np.searchsorted(offsets, rows, side="right") - 1
        for row, garment in zip(rows.tolist(), garments.tolist(), strict=True):
            if not self.bad[garment]:
                yield row, garment, row - int(offsets[garment])

    def _with_landmark(self, wrong: np.ndarray) -> np.ndarray:
        """Return bool (G,): whether the garment has a landmark of a mask (L,)."""
        garments = np.searchsorted(self.keypoint_offsets, np.flatnonzero(wrong), side="right") - 1
        marked = np.zeros(len(self.category_id), bool)
        marked[garments] = True
        return marked

    def _landmarks(self, row: int) -> np.ndarray:
        return self.keypoints[slice(*self.keypoint_offsets[row : row + 2])]

    def _other_visibilities(self, row: int) -> str:
        found = self._landmarks(row)[:, 2]
        return ", ".join(map(str, np.unique(found[~np.isin(found, (0, 1, 2)) & (np.abs(found) < LARGE)])))

    @staticmethod
    def _not_finite(values_of: Callable[[int], np.ndarray]) -> tuple[str, Callable[[int], str]]:
        def describe(row: int) -> str:
            return f"expected finite numbers below {LARGE}, got {_shown(values_of(row))}"

        return "number not finite or too large", describe


def _shown(values: np.ndarray) -> str:
    """Write numbers as short as float32 allows, a few of them."""
    return shortened([float(text) for text in np.ravel(values).astype(str)])


def _pixels(size: np.ndarray) -> str:
    return "{:.0f} x {:.0f} pixels".format(*size)
