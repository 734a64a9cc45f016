"""A garment in a photo: between its design and its annotation."""

from dataclasses import dataclass, field

import numpy as np

from kgdet_d2.synthetic.camera import Camera
from kgdet_d2.synthetic.canvas import Canvas
from kgdet_d2.synthetic.design import Design
from kgdet_d2.synthetic.fit import Points
from kgdet_d2.synthetic.pieces import Piece


@dataclass
class Garment:
    """Attributes:
    design: class, cut and cloth.
    points: by name, in body coordinates.
    style: DeepFashion2's: positive for the article that a pair of photos shares, else 0.
    pieces: the pieces of cloth by the number that owns their pixels.
    painted: by the same number, bool (H, W): the pixels the piece covered when it was painted.
    """

    design: Design
    points: Points
    style: int
    pieces: dict[int, Piece] = field(default_factory=dict)
    painted: dict[int, np.ndarray] = field(default_factory=dict)

    def keypoints(self, camera: Camera) -> np.ndarray:
        """(K_c, 2) pixels, in DeepFashion2's order."""
        return camera(np.stack([self.points[name] for name in self.design.keypoint_names]))

    def extent(self) -> np.ndarray:
        """bool (H, W): what was painted of it, hidden parts included."""
        return np.logical_or.reduce(list(self.painted.values()))

    def visible(self, canvas: Canvas) -> np.ndarray:
        """bool (H, W): where the canvas still shows it."""
        return np.isin(canvas.owner, list(self.pieces))
