"""The garments that a model finds on a photo, in the forms that other tools take."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from kgdet_d2.data.images import Photo, to_array
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.predictions import Predictions
from kgdet_d2.visualizer import PARTS, FashionVisualizer

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Garments:
    """The n garments of one photo, the best score first.

    Coordinates are continuous pixels of the photo as it is seen, its EXIF orientation applied.

    Attributes:
        schema: the landmarks.
        image_size: height and width of the photo.
        boxes: float32 (n, 4) x1, y1, x2, y2.
        scores: float32 (n,), 0..1.
        classes: int64 (n,), indices.
        keypoints: of each garment the landmarks of its own class, float32 (K_c, 3) x, y, score; None where
            the model predicts boxes alone.
        keypoint_scores: float32 (n,), of each garment's landmarks together, None where there are none.
        file: of the photo, "" where it came from none.
    """

    schema: KeypointSchema
    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    keypoints: tuple[np.ndarray, ...] | None
    keypoint_scores: np.ndarray | None = None
    file: str = ""

    @classmethod
    def from_instances(cls, instances: Instances, schema: KeypointSchema, *, file: str = "") -> "Garments":
        """Make garments of a model's output: pred_boxes, scores, pred_classes and maybe pred_keypoints."""
        fields = {name: value for name, value in instances.get_fields().items() if name != "pred_masks"}
        instances = Instances(instances.image_size, **fields).to("cpu")
        classes = instances.pred_classes.numpy()
        keypoints = None
        if instances.has("pred_keypoints"):
            wide = instances.pred_keypoints.float().numpy()  # (n, K, 3)
            keypoints = tuple(schema.gather(row, index) for row, index in zip(wide, classes, strict=True))
        together = instances.keypoint_scores.float().numpy() if instances.has("keypoint_scores") else None
        return cls(
            schema=schema,
            image_size=instances.image_size,
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            classes=classes,
            keypoints=keypoints,
            keypoint_scores=together,
            file=file,
        )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The garments' class names."""
        return [self.schema.class_names[index] for index in self.classes]

    @property
    def landmarks(self) -> list[dict[str, np.ndarray]]:
        """Of each garment x, y, score (3,) of its landmarks, by name; no landmark without any."""
        names = [self.schema.keypoint_names[index] for index in self.classes]
        keypoints = self.keypoints or [np.zeros((0, 3), np.float32)] * len(self)
        return [dict(zip(own, points, strict=False)) for own, points in zip(names, keypoints, strict=True)]

    def to_instances(self) -> Instances:
        """Return Detectron2's instances; landmarks are in the K slots of all classes, 0 in the others'."""
        instances = Instances(self.image_size)
        instances.pred_boxes = Boxes(torch.from_numpy(self.boxes))
        instances.scores = torch.from_numpy(self.scores)
        instances.pred_classes = torch.from_numpy(self.classes)
        if self.keypoints is not None:
            wide = np.zeros((len(self), self.schema.num_keypoints, 3), np.float32)
            for row, points, index in zip(wide, self.keypoints, self.classes, strict=True):
                row[:] = self.schema.scatter(points, index)
            instances.pred_keypoints = torch.from_numpy(wide)
        if self.keypoint_scores is not None:
            instances.keypoint_scores = torch.from_numpy(self.keypoint_scores)
        return instances

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can express.

        Returns:
            ``file``, ``height``, ``width``, and of each of ``garments`` its ``class``, ``score``, ``box`` and
            ``landmarks`` by name.
        """
        height, width = self.image_size
        garments = [
            {
                "class": name,
                "score": float(score),
                "box": box.tolist(),
                "landmarks": {landmark: point.tolist() for landmark, point in landmarks.items()},
            }
            for name, score, box, landmarks in zip(
                self.names, self.scores, self.boxes, self.landmarks, strict=True
            )
        ]
        return {"file": self.file, "height": height, "width": width, "garments": garments}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return official COCO results, see :meth:`Predictions.coco_results`."""
        no_class = np.zeros(self.schema.num_classes, bool)
        predictions = Predictions.from_instances(
            self.to_instances(), image_id=image_id, schema=self.schema, wide_classes=no_class
        )
        return list(predictions.coco_results())

    def to_supervision(self) -> tuple["supervision.Detections", "supervision.KeyPoints | None"]:
        """Return supervision's detections and key points, None of a model of boxes alone.

        Key points are (n, m, 2), m the most that a class has; what follows a class's own is 0, as there.

        Raises:
            ImportError: supervision is missing.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "supervision is missing: pip install 'kgdet_d2[supervision]'", name="supervision"
            ) from error
        names = np.array(self.names, dtype=str)
        detections = supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.classes, data={"class_name": names}
        )
        if self.keypoints is None:
            return detections, None
        padded = np.zeros((len(self), self.schema.padded_slots.shape[1], 3), np.float32)
        for row, points in zip(padded, self.keypoints, strict=True):
            row[: len(points)] = points
        return detections, supervision.KeyPoints(
            xy=padded[..., :2], keypoint_confidence=padded[..., 2], class_id=self.classes
        )

    def draw(self, photo: Photo, *, parts: Collection[str] = PARTS) -> np.ndarray:
        """Draw the garments on their photo; small photos are enlarged.

        Args:
            photo: as for :class:`FashionPredictor`.
            parts: some of "boxes", "landmarks" and "names".

        Returns:
            uint8 (H, W, 3), RGB.
        """
        metadata = Metadata(keypoint_schema=self.schema, thing_classes=list(self.schema.class_names))
        drawing = FashionVisualizer(to_array(photo, "RGB"), metadata, parts=parts)
        return drawing.draw_instance_predictions(self.to_instances()).get_image()
