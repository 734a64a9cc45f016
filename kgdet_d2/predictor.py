"""From photos to garments, in Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import nn

from kgdet_d2.checkpoint.checkpointer import config_of, load_model
from kgdet_d2.config import load_config
from kgdet_d2.data.images import Photo, image_to_tensor, to_array
from kgdet_d2.garments import Garments
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.schema import get_schema

# A garment has one name here: of those that overlap so much the best is left.
_ONE_NAME = ["MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST", "0.7"]


class FashionPredictor:
    """A model that finds the garments of photos.

    Args:
        model: in inference mode, of any of this project's systems.
        cfg: its config.
        score_threshold: of the garments that are kept, 0..1.
        batch_size: photos that run at a time, of a list.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode, *, score_threshold: float = 0.5, batch_size: int = 8):
        self.model = model
        self.cfg = cfg
        self.schema = get_schema(cfg.MODEL.KGDET.SCHEMA)
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        sides = [cfg.INPUT.MIN_SIZE_TEST] * 2
        self.resize = T.ResizeShortestEdge(sides, cfg.INPUT.MAX_SIZE_TEST)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | None = None,
        score_threshold: float = 0.5,
        config: str | None = None,
        opts: Sequence[str] = (),
    ) -> "FashionPredictor":
        """Load a model.

        Args:
            path: of a checkpoint of this project's or of the release's.
            device: "cpu", "cuda", ...; default: the GPU where there is one.
            score_threshold: of the garments that are kept, 0..1.
            config: the model's yaml file or the name of one, for weights that do not say what they are.
            opts: KEY VALUE overrides.

        Raises:
            FileNotFoundError, ValueError: see :func:`kgdet_d2.checkpoint.checkpointer.config_of`; or the
                weights do not fit the config.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        opts = ["MODEL.DEVICE", device, *_ONE_NAME, *opts]
        if config is None:
            cfg = config_of(path, opts)
        else:
            cfg = load_config(config, ["MODEL.WEIGHTS", str(path), *opts])
        return cls.from_config(cfg, score_threshold=score_threshold)

    @classmethod
    def from_config(cls, cfg: CfgNode, *, score_threshold: float = 0.5) -> "FashionPredictor":
        """Load the config's model, with MODEL.WEIGHTS; as ``MODEL.INFERENCE`` has it."""
        return cls(optimize_for_inference(load_model(cfg), cfg), cfg, score_threshold=score_threshold)

    @overload
    def __call__(self, photos: Photo) -> Garments: ...

    @overload
    def __call__(self, photos: list[Photo]) -> list[Garments]: ...

    def __call__(self, photos: Photo | list[Photo]) -> Garments | list[Garments]:
        """Find the garments of a photo, or of each photo of a list.

        Args:
            photos: a path, a PIL image, an array uint8 (H, W, 3) in RGB or (H, W) in grey, or a tensor uint8
                (3, H, W) in RGB; or a list of them.

        Raises:
            RuntimeError: a file cannot be read.
            ValueError: an array or a tensor of another shape or type.
        """
        if not isinstance(photos, list):
            return self([photos])[0]
        found: list[Garments] = []
        for start in range(0, len(photos), self.batch_size):
            found += self._predict(photos[start : start + self.batch_size])
        return found

    @torch.inference_mode()
    def _predict(self, photos: list[Photo]) -> list[Garments]:
        """Find the garments of a batch of photos."""
        inputs = [self._input(to_array(photo, self.cfg.INPUT.FORMAT)) for photo in photos]
        garments = []
        for photo, output in zip(photos, self.model(inputs), strict=True):
            instances = output["instances"]
            instances = instances[instances.scores >= self.score_threshold]
            file = str(photo) if isinstance(photo, str | Path) else ""
            garments.append(Garments.from_instances(instances, self.schema, file=file))
        return garments

    def _input(self, image: np.ndarray) -> dict:
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        return {"image": image_to_tensor(resized), "height": height, "width": width}
