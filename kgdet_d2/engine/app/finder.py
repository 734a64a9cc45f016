"""What the page does with a photo: find its garments, once, and show some of them. It knows no browser."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kgdet_d2.figure_page import write_jpeg
from kgdet_d2.garments import Garments
from kgdet_d2.predictor import FashionPredictor
from kgdet_d2.utils.io import write_json

LONG_SIDE = 1280  # pixels of a drawn picture at most; those of whole photos take matplotlib seconds
HEADERS = ("garment", "score", "x1", "y1", "x2", "y2", "landmarks")  # of the table
_IMAGE_ID = 1  # in COCO results, which are of one photo here


class RefusedPhoto(RuntimeError):
    """A photo that nothing is found on; the message is for those who sent it."""


class Files(NamedTuple):
    """The files of a photo: the picture, :meth:`Garments.to_dict`, and official COCO results."""

    picture: Path
    garments: Path
    coco: Path


@dataclass(frozen=True)
class Found:
    """What was found on a photo, and the photo as far as drawing needs it.

    Attributes:
        garments: from the predictor's threshold on, in pixels of the whole photo; ``file`` is its name.
        photo: uint8 (H, W, 3), RGB, reduced to :data:`LONG_SIDE` where it was larger.
    """

    garments: Garments
    photo: np.ndarray

    def above(self, score: float) -> Garments:
        """Return the garments from this score on."""
        instances = self.garments.to_instances()
        kept = instances[instances.scores >= score]
        return Garments.from_instances(kept, self.garments.schema, file=self.garments.file)

    def table(self, score: float) -> list[list]:
        """Return a row of :data:`HEADERS` for each garment from this score on; pixels of the whole photo."""
        garments = self.above(score)
        rows = zip(garments.names, garments.scores, garments.boxes, garments.landmarks, strict=True)
        return [
            [name, round(float(each), 3), *box.astype(float).round(1).tolist(), len(landmarks)]
            for name, each, box, landmarks in rows
        ]

    def draw(self, score: float, parts: Collection[str]) -> np.ndarray:
        """Draw the garments from this score on, see :meth:`Garments.draw`."""
        garments = self.above(score)
        (height, width), size = garments.image_size, self.photo.shape[:2]
        scale = np.array([size[1] / width, size[0] / height, 1], np.float32)
        reduced = replace(
            garments,
            image_size=size,
            boxes=garments.boxes * scale[[0, 1, 0, 1]],
            keypoints=garments.keypoints and tuple(points * scale for points in garments.keypoints),
        )
        return reduced.draw(self.photo, parts=parts)

    def write(self, folder: Path, score: float, parts: Collection[str]) -> Files:
        """Write the files of the garments from this score on into a folder."""
        garments = self.above(score)
        stem = Path(garments.file).stem
        files = Files(*(folder / f"{stem}_{end}" for end in ("picture.jpg", "garments.json", "coco.json")))
        write_jpeg(files.picture, self.draw(score, parts)[:, :, ::-1])
        write_json(files.garments, garments.to_dict())
        write_json(files.coco, garments.to_coco(_IMAGE_ID))
        return files


class GarmentFinder:
    """Finds the garments of photos that strangers send, one photo at a time.

    Args:
        predictor: the model; its threshold is the lowest score that can be shown.
        time_limit: seconds for a photo, those included in which the model works on others'.
    """

    def __init__(self, predictor: FashionPredictor, *, time_limit: float):
        self.predictor = predictor
        self.time_limit = time_limit
        self._pool = ThreadPoolExecutor(max_workers=1)

    def find(self, path: str | Path) -> Found:
        """Read a photo and run the model on it.

        Raises:
            RefusedPhoto: names the file, which cannot be read, or took too long.
        """
        path = Path(path)
        future = self._pool.submit(self._find, path)
        try:
            return future.result(self.time_limit)
        except TooLate:
            future.cancel()  # where it has not begun; what has begun ends by itself
            raise RefusedPhoto(f"{path.name}: no answer within {self.time_limit:g} s, try later") from None

    def _find(self, path: Path) -> Found:
        try:
            pixels = self.predictor.mapper.read(path)
        except RuntimeError as error:
            # Where this machine keeps the file is none of the visitor's business.
            raise RefusedPhoto(str(error).replace(str(path), path.name)) from error
        garments = replace(self.predictor(pixels), file=path.name)
        photo = Image.fromarray(pixels)
        photo.thumbnail((LONG_SIDE, LONG_SIDE))
        return Found(garments, np.asarray(photo))
