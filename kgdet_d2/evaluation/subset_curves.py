"""Precision and recall of many parts of the ground truth, for one class, with the work for all done once.

The numbers are those of pycocotools to the last bit. What it repeats for each part is saved: most detections
are in images without a garment of their class, and only have to be counted; and which garments are ignored
makes a difference to the matching where an image has several of a class, and nowhere else. Precision is
computed at the true positives alone, since the greatest from a recall on is reached at one of them.

N images with garments, G garments in one of them, D detections, T thresholds of similarity, R recalls.
"""

from collections.abc import Sequence

import numpy as np

from kgdet_d2.evaluation.coco_backends import Ranges
from kgdet_d2.evaluation.similarity import ClassPairs

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class SubsetCurves:
    """One class's detections, and their similarities to its garments.

    Args:
        pairs: the class's garments and detections by image, best score first.
        similarities: of each image, float64 (D, G), empty where there are no garments or no detections.
        score: float32, of all detections.
        detection_area: float64, of all detections, in square pixels.
        garment_area: float64, of all garments.
        iscrowd: bool, of all garments.
    """

    def __init__(
        self,
        pairs: ClassPairs,
        similarities: Sequence[np.ndarray],
        *,
        score: np.ndarray,
        detection_area: np.ndarray,
        garment_area: np.ndarray,
        iscrowd: np.ndarray,
    ) -> None:
        rows = np.concatenate(pairs.detections)
        lengths = np.array([len(of_image) for of_image in pairs.detections])
        starts = np.cumsum(lengths) - lengths
        self._image = np.repeat(np.arange(len(lengths)), lengths)  # of each detection
        self._number = np.arange(len(rows)) - starts[self._image]  # among its image's
        order = np.argsort(-score[rows], kind="mergesort")
        self._place = np.argsort(order)  # of each detection by score
        self._area = detection_area[rows]
        self._order = order
        self._garments = np.concatenate(pairs.garments)
        self._garment_image = np.repeat(np.arange(len(lengths)), [len(each) for each in pairs.garments])
        self._garment_area, self._iscrowd = garment_area[self._garments], iscrowd[self._garments]
        self._groups = _groups(pairs, similarities, starts)

    def curves(
        self, ignored: np.ndarray, exists: np.ndarray, areas: Ranges, max_detections: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute precision and recall of a part, -1 where there is nothing to find.

        Args:
            ignored: bool, of all garments of all classes, those that are ignored.
            exists: bool (P,), the images that exist.
            areas: A ranges in square pixels.
            max_detections: M limits of detections in an image, rising.

        Returns:
            float64 (T, R, A, 1) of the highest limit, and (T, A, M).
        """
        by_area = [self._in_area(ignored[self._garments], exists, area, max_detections) for area in areas]
        precision, recall = zip(*by_area, strict=True)
        return np.stack(precision, axis=-1)[..., None], np.stack(recall, axis=1)

    def _in_area(
        self, ignored: np.ndarray, exists: np.ndarray, area: tuple[float, float], limits: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return precision (T, R) and recall (T, M)."""
        ignored = ignored | (self._garment_area < area[0]) | (self._garment_area > area[1])
        precision = np.full((len(THRESHOLDS), len(RECALLS)), -1.0)
        recall = np.full((len(THRESHOLDS), len(limits)), -1.0)
        to_find = int(np.count_nonzero(~ignored & exists[self._garment_image]))
        if not to_find:
            return precision, recall
        # A detection counts unless its image does not exist, or it is of another size and without a match.
        counts = exists[self._image] & (self._area >= area[0]) & (self._area <= area[1])
        counted = np.cumsum(counts[self._order])  # up to each place
        matches = [group.match(ignored, self._iscrowd) for group in self._groups]
        detections = np.concatenate([detection for detection, _ in matches] or [np.zeros(0, np.int64)])
        empty = np.zeros((0, len(THRESHOLDS)), np.int64)
        garments = np.concatenate([garment for _, garment in matches] or [empty])  # (D', T), -1 for none
        here = exists[self._image[detections]]
        detections, garments = detections[here], garments[here]
        for index in range(len(THRESHOLDS)):
            matched = garments[:, index] >= 0
            found, true = detections[matched], ~ignored[garments[matched, index]]
            places = np.sort(self._place[found[true]])
            removed = np.sort(self._place[found[counts[found]]])
            false = counted[places] - np.searchsorted(removed, places, side="right")
            precision[index] = _interpolated(false, to_find)
            numbers = self._number[found[true]]
            recall[index] = [np.count_nonzero(numbers < limit) / to_find for limit in limits]
        return precision, recall


def _interpolated(false: np.ndarray, to_find: int) -> np.ndarray:
    """Return the precision (R,) at RECALLS, given the false positives before each true one, by score."""
    true = np.arange(1, len(false) + 1, dtype=np.float64)
    precision = true / (false + true + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]  # from a recall on
    places = np.searchsorted(true / to_find, RECALLS, side="left")
    return np.append(best, 0.0)[places]


class _Group:
    """The images with the same number of garments G of a class, and their detections that can match.

    Args:
        garments: int64 (N, G), places among the class's garments.
        detections: int64 (D,), image by image, best score first.
        offsets: int64 (N + 1,), of the images' detections.
        similarities: float64 (D, G).
    """

    def __init__(
        self, garments: np.ndarray, detections: np.ndarray, offsets: np.ndarray, similarities: np.ndarray
    ) -> None:
        self._garments, self._detections = garments, detections
        self._offsets, self._similarities = offsets, similarities
        self._known: np.ndarray | None = None  # matches where no image is mixed

    def match(self, ignored: np.ndarray, iscrowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the detections (D,), and the garments (D, T) they are matched with, -1 for none.

        Args:
            ignored: bool, of the class's garments.
            iscrowd: likewise.
        """
        kinds, crowds = ignored[self._garments], iscrowd[self._garments]  # (N, G)
        if self._known is None:
            self._known = self._matched(np.zeros_like(kinds), crowds, np.arange(len(kinds)))
        mixed = np.flatnonzero(kinds.any(axis=1) & ~kinds.all(axis=1))
        local = self._known
        if len(mixed):
            local = np.where(
                np.isin(self._image, mixed)[:, None], self._matched(kinds, crowds, mixed), self._known
            )
        garments = np.take_along_axis(self._garments[self._image], local.clip(min=0), axis=1)
        return self._detections, np.where(local < 0, -1, garments)

    @property
    def _image(self) -> np.ndarray:
        return np.repeat(np.arange(len(self._garments)), np.diff(self._offsets))

    def _matched(self, ignored: np.ndarray, crowds: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Match some images' detections as COCO does, the k-th of every image at a time; int64 (D, T)."""
        matched = np.full((len(self._detections), len(THRESHOLDS)), -1)
        count = self._garments.shape[1]
        free = np.ones((len(self._garments), len(THRESHOLDS), count), bool)
        lengths = np.diff(self._offsets)[images]
        for number in range(lengths.max(initial=0)):
            active = images[lengths > number]
            rows = self._offsets[active] + number
            similarity = self._similarities[rows][:, None]  # (N, 1, G)
            usable = free[active] | crowds[active][:, None]
            usable &= similarity >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
            # Garments that count come first, then the greatest similarity, of equals the last.
            counting = usable & ~ignored[active][:, None]
            usable = np.where(counting.any(axis=2, keepdims=True), counting, usable)
            value = np.where(usable, similarity, -1)
            best = count - 1 - value[..., ::-1].argmax(axis=2)
            found = usable.any(axis=2)
            matched[rows] = np.where(found, best, -1)
            image, threshold = np.nonzero(found)
            free[active[image], threshold, best[image, threshold]] = False
        return matched


def _groups(pairs: ClassPairs, similarities: Sequence[np.ndarray], starts: np.ndarray) -> list[_Group]:
    """Return the images that have garments and detections, by their number of garments."""
    first = np.cumsum([0, *(len(of_image) for of_image in pairs.garments)])
    by_count: dict[int, list[int]] = {}
    for image, matrix in enumerate(similarities):
        if matrix.size:
            by_count.setdefault(matrix.shape[1], []).append(image)
    groups = []
    for count, images in by_count.items():
        near = [np.flatnonzero((similarities[image] >= THRESHOLDS[0]).any(axis=1)) for image in images]
        groups.append(
            _Group(
                first[images][:, None] + np.arange(count),
                np.concatenate([starts[image] + rows for image, rows in zip(images, near, strict=True)]),
                np.cumsum([0, *map(len, near)]),
                np.concatenate([similarities[image][rows] for image, rows in zip(images, near, strict=True)]),
            )
        )
    return groups
