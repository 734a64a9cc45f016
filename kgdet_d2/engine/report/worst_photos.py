"""The photos with the worst errors, drawn beside their ground truth.

The cost of a photo is the sum of what is wrong with it, by the detections from a score on:

- a wrong detection, of whatever kind of TIDE's, costs its score;
- a garment that is missed costs 1;
- a garment that is found costs the share of its visible landmarks that lie further from the truth than a
  tenth of the longer side of its box, those that PCK@0.1 counts as wrong.

Photos that were not predicted are not among them, nor are those that cost nothing.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from tqdm import tqdm

from kgdet_d2.data import fashion_dataset
from kgdet_d2.data.images import read_image
from kgdet_d2.evaluation.keypoint_error import KeypointErrors
from kgdet_d2.evaluation.report import type_name
from kgdet_d2.evaluation.tide import ERRORS, DetectionErrors, ErrorType
from kgdet_d2.garments import Garments
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.visualizer import FashionVisualizer

FAR = 0.1  # of the longer side of the box: the landmarks further off count
HEIGHT, WIDTH = 480, 640  # pixels, the most of a drawn photo
GAP = 6  # between the two


class WorstPhoto(NamedTuple):
    """A photo with errors, and its picture.

    Attributes:
        name: of the file.
        cost: see the module.
        findings: what is wrong, such as "2 Cls, 1 Miss, 3 of 20 landmarks off".
        garments: the names of the ground truth's.
        predicted: the names and scores of the detections that are drawn.
        picture: the ground truth left and the detections right, uint8 RGB (h, w, 3); empty where the photo
            cannot be read.
        problem: why it cannot be read, "" where it can.
    """

    name: str
    cost: float
    findings: str
    garments: list[str]
    predicted: list[str]
    picture: np.ndarray
    problem: str


class PhotoErrors:
    """What is wrong with each of N photos, by the detections from a score on.

    Args:
        errors: of D detections on G garments.
        landmarks: the errors of their visible landmarks, None for predictions of boxes alone.
        score_threshold: the detections' least score.

    Attributes:
        errors: as given.
        score_threshold: as given.
        detection_photo: int64 (D,), row of the detection's photo in the ground truth.
        wrong: bool (D,), whether a detection counts and is wrong.
        missed: bool (G,), whether a garment is.
        compared: int64 (G,), the visible landmarks of a garment that is found.
        off: int64 (G,), those of them that are far from the truth.
        cost: float64 (N,), see the module.
    """

    def __init__(
        self, errors: DetectionErrors, landmarks: KeypointErrors | None, score_threshold: float
    ) -> None:
        truth, predictions = errors.matcher.ground_truth, errors.matcher.predictions
        self.errors, self.score_threshold = errors, score_threshold
        counted = predictions.score >= score_threshold
        self.detection_photo = truth.image_rows(predictions.image_id)[predictions.detection_image]
        self.wrong = counted & np.isin(errors.error_type, ERRORS)
        self.missed = errors.missed(score_threshold)
        self.compared = self.off = np.zeros(truth.num_garments, np.int64)
        if landmarks is not None:
            found = np.zeros(truth.num_garments, bool)
            found[errors.garment[counted & (errors.error_type == ErrorType.CORRECT)]] = True
            of_found = found[landmarks.garment]
            self.compared = self._count(landmarks.garment[of_found])
            self.off = self._count(landmarks.garment[of_found & (landmarks.side_error > FAR)])
        shares = self.off / np.maximum(self.compared, 1)
        self.cost = np.zeros(len(truth))
        np.add.at(self.cost, self.detection_photo[self.wrong], predictions.score[self.wrong])
        np.add.at(self.cost, truth.garment_image, self.missed + shares)

    def _count(self, garments: np.ndarray) -> np.ndarray:
        return np.bincount(garments, minlength=self.errors.matcher.ground_truth.num_garments)

    def worst(self, count: int) -> list[int]:
        """Return the rows of the predicted photos that cost most, at most so many, the most costly first."""
        truth, predictions = self.errors.matcher.ground_truth, self.errors.matcher.predictions
        rows = truth.image_rows(predictions.image_id)
        order = rows[np.lexsort((predictions.image_id, -self.cost[rows]))]
        return [row for row in order[:count].tolist() if self.cost[row] > 0]

    def findings(self, row: int) -> str:
        """Return what is wrong with a photo, in words."""
        of_photo = self.wrong & (self.detection_photo == row)
        kinds = Counter(self.errors.error_type[of_photo].tolist())
        garments = slice(*self.errors.matcher.ground_truth.garment_offsets[row : row + 2])
        kinds[ErrorType.MISS] = int(self.missed[garments].sum())
        found = [f"{kinds[error]} {type_name(error)}" for error in ERRORS if kinds[error]]
        if off := int(self.off[garments].sum()):
            found.append(f"{off} of {self.compared[garments].sum()} landmarks off")
        return ", ".join(found)


def draw_worst(photo_errors: PhotoErrors, dataset: str, *, count: int) -> Iterator[WorstPhoto]:
    """Draw the photos that cost most.

    Args:
        photo_errors: of the dataset's photos.
        dataset: the registered name.
        count: how many at most.
    """
    records, metadata = fashion_dataset(dataset), MetadataCatalog.get(dataset)
    names = metadata.keypoint_schema.class_names
    for row in tqdm(photo_errors.worst(count), desc="drawing the worst photos", unit="photo"):
        record = records[row]
        file_name = record.get("file_name", "")
        found = garments_on(record, photo_errors.errors.matcher.predictions, photo_errors.score_threshold)
        scores = zip(found.names, found.scores, strict=True)
        picture, problem = np.zeros((0, 0, 3), np.uint8), ""
        try:
            picture = _draw_pair(read_image(file_name, "RGB"), record, found, metadata)
        except RuntimeError as error:
            problem = str(error)
        yield WorstPhoto(
            name=Path(file_name).name or f"image {record['image_id']}",
            cost=float(photo_errors.cost[row]),
            findings=photo_errors.findings(row),
            garments=[names[garment["category_id"]] for garment in record.get("annotations", ())],
            predicted=[f"{name} {score:.0%}" for name, score in scores],
            picture=picture,
            problem=problem,
        )


def garments_on(record: dict, predictions: Predictions, score_threshold: float) -> Garments:
    """Return the detections on a photo, those with that score or a higher one.

    Args:
        record: the photo's dataset dict; it is among those that were predicted.
        predictions: of the dataset.
        score_threshold: their least score.
    """
    (row,) = np.flatnonzero(predictions.image_id == record["image_id"])
    rows = np.arange(*predictions.detection_offsets[row : row + 2])
    rows = rows[predictions.score[rows] >= score_threshold]
    rows = rows[np.argsort(-predictions.score[rows], kind="stable")]
    keypoints = None
    if predictions.has_keypoints:
        ends = predictions.keypoint_offsets
        own = [predictions.keypoints[ends[row] : ends[row + 1]] for row in rows]
        keypoints = tuple(
            np.insert(points, 2, score, axis=1)
            for points, score in zip(own, predictions.score[rows], strict=True)
        )
    return Garments(
        schema=predictions.schema,
        image_size=(record["height"], record["width"]),
        boxes=predictions.box[rows],
        scores=predictions.score[rows],
        classes=predictions.category_id[rows].astype(np.int64),
        keypoints=keypoints,
    )


def _draw_pair(image: np.ndarray, record: dict, found: Garments, metadata: Metadata) -> np.ndarray:
    """Return the ground truth and, right of it, the detections, drawn and scaled down: RGB (h, w, 3)."""
    truth = FashionVisualizer(image, metadata).draw_dataset_dict(record).get_image()
    height, width = truth.shape[:2]
    scale = min(HEIGHT / height, WIDTH / width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    pair = [cv2.resize(drawn, size, interpolation=cv2.INTER_AREA) for drawn in (truth, found.draw(image))]
    gap = np.full((size[1], GAP, 3), 255, np.uint8)
    return np.hstack([pair[0], gap, pair[1]])
