"""Greedy matching and precision-recall curves by pycocotools or by faster-coco-eval, for one class.

Both libraries build a dict for each landmark set of each object, compute similarities in a Python loop and
keep all classes at once. Here they get one class's objects without coordinates, and the similarities.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCOeval_faster
from pycocotools.cocoeval import COCOeval

_CLASS = 0  # the one class there is
Objects = Sequence[Sequence[dict]]  # a list for each of P photos
Ranges = Sequence[tuple[float, float]]


class PycocotoolsBackend(COCOeval):
    """The reference.

    Args:
        detections: of P photos, each with ``id`` from 1, ``score`` and ``area``, best score first.
        similarities: of P photos, float64 (D, G), empty where there are no garments or no detections.
    """

    def __init__(self, detections: Objects, similarities: Sequence[np.ndarray]) -> None:
        super().__init__(iouType="bbox")
        self._dts = {(photo, _CLASS): objects for photo, objects in enumerate(detections)}
        self._similarities = similarities

    def curves(
        self, garments: Objects, photos: np.ndarray, areas: Ranges, max_detections: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of some of the photos, -1 where there is nothing to find.

        Args:
            garments: of all P photos, each with ``id`` from 1, ``area``, ``iscrowd`` and ``ignore``.
            photos: indices into the P photos.
            areas: A ranges in square pixels.
            max_detections: M limits a photo, rising.

        Returns:
            float64 (T, R, A, M) at T = 10 thresholds of similarity and R = 101 of recall, and (T, A, M).
        """
        self._gts = {(photo, _CLASS): objects for photo, objects in enumerate(garments)}
        return _curves(self, photos, areas, max_detections)

    def _prepare(self) -> None:
        pass

    def computeIoU(self, photo: int, category_id: int) -> np.ndarray:
        return self._similarities[photo]


class FasterCocoEvalBackend(COCOeval_faster):
    """The fast path: the same arguments and the same numbers as :class:`PycocotoolsBackend`, from C++."""

    def __init__(self, detections: Objects, similarities: Sequence[np.ndarray]) -> None:
        super().__init__(iouType="bbox")
        _fill(self.dt_dataset, detections)
        self._similarities = [matrix.tolist() for matrix in similarities]  # which C++ reads faster

    def curves(
        self, garments: Objects, photos: np.ndarray, areas: Ranges, max_detections: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`PycocotoolsBackend.curves`."""
        _fill(self.gt_dataset, garments)
        return _curves(self, photos, areas, max_detections)

    def _prepare(self) -> None:
        pass

    def computeIoU(self, photo: int, category_id: int) -> list[list[float]]:
        return self._similarities[photo][: self.params.maxDets[-1]]


Backend = PycocotoolsBackend | FasterCocoEvalBackend
BACKENDS = {"pycocotools": PycocotoolsBackend, "faster-coco-eval": FasterCocoEvalBackend}


def _fill(dataset, objects: Objects) -> None:
    """Give the C++ data set, emptied, the objects of each photo."""
    dataset.clean()
    for photo, of_photo in enumerate(objects):
        for values in of_photo:
            dataset.append_ref(photo, _CLASS, values)


def _curves(
    engine: Backend, photos: np.ndarray, areas: Ranges, max_detections: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    parameters = engine.params
    parameters.imgIds, parameters.catIds = photos.tolist(), [_CLASS]
    parameters.areaRng, parameters.maxDets = [list(area) for area in areas], list(max_detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        engine.evaluate()
        engine.accumulate()
    return engine.eval["precision"][:, :, 0], engine.eval["recall"][:, 0]
