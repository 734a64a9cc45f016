"""Greedy matching and precision-recall curves by pycocotools or by faster-coco-eval, for one class.

Both libraries build a dict for each landmark set of each object, compute similarities in a Python loop and
keep all classes at once. Here they get one class's objects without coordinates, and the similarities.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCOeval_faster
from pycocotools.cocoeval import COCOeval

_CLASS = 0  # the id of the only class
Objects = Sequence[Sequence[dict]]  # a list for each of P images
Ranges = Sequence[tuple[float, float]]


class PycocotoolsBackend(COCOeval):
    """The reference.

    Args:
        detections: of P images, each with ``id`` from 1, ``score`` and ``area``, best score first.
        similarities: of P images, float64 (D, G), empty where there are no garments or no detections.
    """

    def __init__(self, detections: Objects, similarities: Sequence[np.ndarray]) -> None:
        super().__init__(iouType="bbox")
        self._dts = {(image, _CLASS): objects for image, objects in enumerate(detections)}
        self._similarities = similarities

    def curves(
        self, garments: Objects, images: np.ndarray, areas: Ranges, max_detections: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute precision and recall of some of the images, -1 where there is nothing to find.

        Args:
            garments: of all P images, each with ``id`` from 1, ``area``, ``iscrowd`` and ``ignore``.
            images: indices into the P images.
            areas: A ranges in square pixels.
            max_detections: M limits an image, rising.

        Returns:
            float64 (T, R, A, M) at T = 10 thresholds of similarity and R = 101 of recall, and (T, A, M).
        """
        self._gts = {(image, _CLASS): objects for image, objects in enumerate(garments)}
        return _curves(self, images, areas, max_detections)

    def _prepare(self) -> None:
        """Replace the library's, which reads objects from COCO data sets."""

    def computeIoU(self, image: int, category_id: int) -> np.ndarray:
        """Return the similarities (D, G) of an image."""
        return self._similarities[image]


class FasterCocoEvalBackend(COCOeval_faster):
    """The fast path: the same arguments and the same numbers as :class:`PycocotoolsBackend`, from C++."""

    def __init__(self, detections: Objects, similarities: Sequence[np.ndarray]) -> None:
        super().__init__(iouType="bbox")
        _fill(self.dt_dataset, detections)
        self._similarities = [matrix.tolist() for matrix in similarities]  # which C++ reads faster

    def curves(
        self, garments: Objects, images: np.ndarray, areas: Ranges, max_detections: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute precision and recall, see :meth:`PycocotoolsBackend.curves`."""
        _fill(self.gt_dataset, garments)
        return _curves(self, images, areas, max_detections)

    def _prepare(self) -> None:
        """Replace the library's, which reads objects from COCO data sets."""

    def computeIoU(self, image: int, category_id: int) -> list[list[float]]:
        """Return the similarities of an image: G numbers for each detection within the limit."""
        return self._similarities[image][: self.params.maxDets[-1]]


Backend = PycocotoolsBackend | FasterCocoEvalBackend
BACKENDS: dict[str, type[Backend]] = {
    "pycocotools": PycocotoolsBackend,
    "faster-coco-eval": FasterCocoEvalBackend,
}


def _fill(dataset: Any, objects: Objects) -> None:
    """Give the C++ data set, emptied, the objects of each image."""
    dataset.clean()
    for image, of_image in enumerate(objects):
        for values in of_image:
            dataset.append_ref(image, _CLASS, values)


def _curves(
    backend: Backend, images: np.ndarray, areas: Ranges, max_detections: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    parameters = backend.params
    parameters.imgIds, parameters.catIds = images.tolist(), [_CLASS]
    parameters.areaRng, parameters.maxDets = [list(area) for area in areas], list(max_detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        backend.evaluate()
        backend.accumulate()
    return backend.eval["precision"][:, :, 0], backend.eval["recall"][:, 0]
