"""Drawings of garments on images: box, label, and the landmarks and edges of the garment's own class."""

import colorsys
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

LONG_SIDE = 768  # pixels; smaller images are enlarged to it, else labels would cover their garments
PARTS = ("boxes", "landmarks", "names")  # of a drawn garment


@dataclass(frozen=True)
class _Garment:
    """A garment to draw, predicted or annotated."""

    class_index: int
    box: np.ndarray  # (4,) x1 y1 x2 y2, pixels of the image
    keypoints: np.ndarray  # (K_c, 3) x, y, v; (0, 3) when there are none
    label: str

    @property
    def area(self) -> float:
        """The box's, in square pixels."""
        return float(np.prod(self.box[2:] - self.box[:2]))


class FashionVisualizer(Visualizer):
    """A Detectron2 Visualizer for garments.

    One colour per class. A visible landmark (v = 2) is filled, an occluded one (v = 1) hollow, one without
    label (v = 0) is not drawn; an edge joins landmarks that are drawn. Landmarks of the right side are
    squares, all others are round. A prediction has all landmarks of its class. Lines, dots and letters grow
    with the drawing.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Metadata,
        *,
        scale: float | None = None,
        score_threshold: float = 0.0,
        parts: Collection[str] = PARTS,
    ) -> None:
        """Prepare a drawing.

        Args:
            img_rgb: (H, W, 3) in [0, 255].
            metadata: of the dataset, with ``keypoint_schema``.
            scale: output pixels per image pixel; None: 1, or what makes a small image's long side 768.
            score_threshold: predictions with a lower score are not drawn.
            parts: what is drawn of a garment, some of :data:`PARTS`; a name comes with its score.
        """
        if scale is None:
            scale = max(1.0, LONG_SIDE / max(img_rgb.shape[:2]))
        super().__init__(img_rgb, metadata, scale=scale)
        self._schema = metadata.keypoint_schema
        self._score_threshold = score_threshold
        self._parts = frozenset(parts)
        # matplotlib measures lines and letters in points: `unit` of them are 1/400 of the drawing's side.
        side = scale * np.sqrt(self.output.width * self.output.height)
        self._unit = max(side / 400, 1) * 72 / self.output.dpi

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draw a model's garments.

        Args:
            predictions: N garments with pred_boxes, scores, pred_classes and, if any, pred_keypoints
                (N, K, 3), in the image's continuous pixels.

        Returns:
            the drawing, which all calls of this object add to.
        """
        predictions = predictions.to("cpu")
        predictions = predictions[predictions.scores >= self._score_threshold]
        garments = []
        for index in range(len(predictions)):
            class_index = int(predictions.pred_classes[index])
            keypoints = np.zeros((0, 3))
            if predictions.has("pred_keypoints"):
                keypoints = self._schema.gather(predictions.pred_keypoints[index].numpy(), class_index).copy()
                keypoints[:, 2] = 2  # drawn as visible: the third column of a prediction is its score
            label = f"{self._schema.class_names[class_index]} {predictions.scores[index]:.0%}"
            box = predictions.pred_boxes.tensor[index].numpy()
            garments.append(_Garment(class_index, box, keypoints, label))
        return self._draw_garments(garments)

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draw an image's ground truth.

        Args:
            dic: a dataset dict, landmarks class-local.

        Returns:
            the drawing, which all calls of this object add to.
        """
        garments = []
        for annotation in dic.get("annotations", ()):
            class_index = annotation["category_id"]
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            keypoints = np.reshape(annotation.get("keypoints", ()), (-1, 3))
            label = self._schema.class_names[class_index]
            garments.append(_Garment(class_index, np.asarray(box), keypoints, label))
        return self._draw_garments(garments)

    def _draw_garments(self, garments: Iterable[_Garment]) -> VisImage:
        """Draw all boxes and landmarks, small garments on top, and the labels above them all."""
        garments = sorted(garments, key=lambda garment: garment.area, reverse=True)
        if "landmarks" not in self._parts:
            garments = [replace(garment, keypoints=np.zeros((0, 3))) for garment in garments]
        for garment in garments:
            self._draw_shape(garment)
        dots = [garment.keypoints[garment.keypoints[:, 2] > 0, :2] for garment in garments]
        labels: list[np.ndarray] = []
        for garment in garments if "names" in self._parts else ():
            labels.append(self._draw_label(garment, dots, labels))
        return self.output

    def _draw_shape(self, garment: _Garment) -> None:
        """Draw box, edges and landmarks of one garment."""
        side = np.sqrt(self.output.width * self.output.height)
        pen = self._unit * np.clip(2 * np.sqrt(garment.area) / side, 0.7, 1)  # small garments, finer pen
        colour, width = self._colour(garment), 1.2 * pen
        x1, y1, x2, y2 = garment.box
        if "boxes" in self._parts:
            self._add_line([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=0.6 * pen)

        names = self._schema.keypoint_names[garment.class_index]
        drawn = {index: keypoint for index, keypoint in enumerate(garment.keypoints) if keypoint[2] > 0}
        for start, end in self._schema.skeleton[garment.class_index]:
            if start in drawn and end in drawn:
                (x1, y1, _), (x2, y2, _) = drawn[start], drawn[end]
                self._add_line([x1, x2], [y1, y2], color=colour, linewidth=width)
        for index, (x, y, v) in drawn.items():
            self._add_line(
                [x],
                [y],
                color=colour,
                linewidth=width,
                marker="s" if "right" in names[index] else "o",
                markersize=4 * pen,
                markeredgewidth=1.2 * pen,
                markerfacecolor=colour if v == 2 else "none",
            )

    def _add_line(self, x: Sequence[float], y: Sequence[float], **style: Any) -> None:
        """Add a line, or a marker, with a dark seam, so that it stands out from any image.

        Args:
            x: of the line's points, pixels of the image.
            y: likewise.
            **style: of matplotlib's Line2D, with ``linewidth``.
        """
        seam = [withStroke(linewidth=style["linewidth"] + self._unit, foreground="black", alpha=0.5)]
        self.output.ax.add_line(Line2D(x, y, path_effects=seam, **style))

    def _draw_label(self, garment: _Garment, dots: list[np.ndarray], labels: list[np.ndarray]) -> np.ndarray:
        """Write the label in or at a corner of the box, where it hides the fewest dots and no label.

        Args:
            garment: the garment that the label names.
            dots: per garment, the (M, 2) x, y of its drawn landmarks.
            labels: x1 y1 x2 y2 of the labels written before.

        Returns:
            the label's x1 y1 x2 y2, in pixels of the image like all the others.
        """
        colour, pad = self._colour(garment), 2 * self._unit
        text = self.output.ax.text(
            0,
            0,
            garment.label,
            fontsize=9 * self._unit,
            verticalalignment="top",
            color="black" if np.dot(colour, (0.3, 0.59, 0.11)) > 0.5 else "white",  # by luma
            bbox={"facecolor": colour, "edgecolor": "none", "pad": pad},
        )
        pad *= self.output.dpi / 72 / self.output.scale  # points -> pixels of the image
        extent = text.get_window_extent(self.output.canvas.get_renderer())
        size = np.array([extent.width, extent.height]) / self.output.scale + 2 * pad

        x1, y1, x2, y2 = garment.box
        limit = np.maximum((self.output.width, self.output.height) - size, 0)
        corners = itertools.product((x1, x2 - size[0]), (y1 - size[1], y1, y2 - size[1], y2))
        places = []
        for corner in np.clip(list(corners), 0, limit):
            places.append(np.concatenate([corner, corner + size]))  # x1 y1 x2 y2
        all_dots = np.concatenate(dots)
        best = min(places, key=lambda place: _count_hidden(place, all_dots, labels, margin=pad))
        text.set_position(tuple(best[:2] + pad))
        return best

    def _colour(self, garment: _Garment) -> tuple[float, float, float]:
        """Return one RGB in [0, 1] per class: hues around the circle, neighbours of different saturation."""
        hue = garment.class_index / self._schema.num_classes
        return colorsys.hsv_to_rgb(hue, (1.0, 0.5)[garment.class_index % 2], 1.0)


class _Hidden(NamedTuple):
    """How many things a label covers, the worse kind first."""

    labels: int
    dots: int


def _count_hidden(place: np.ndarray, dots: np.ndarray, labels: list[np.ndarray], *, margin: float) -> _Hidden:
    """Count what a label would touch.

    Args:
        place: x1 y1 x2 y2 of the label.
        dots: (M, 2) x, y of landmarks.
        labels: x1 y1 x2 y2 of the labels written before.
        margin: radius of the dots.
    """
    low, high = place[:2], place[2:]
    touched_labels = 0
    for label in labels:
        touched_labels += int((label[:2] < high).all() and (label[2:] > low).all())
    touched_dots = ((dots > low - margin) & (dots < high + margin)).all(axis=1)
    return _Hidden(touched_labels, int(touched_dots.sum()))
