"""From photos to garments, in Python."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import nn

from kgdet_d2.checkpoint.checkpointer import find_model_config, load_model
from kgdet_d2.data.images import Photo, image_to_tensor, to_array
from kgdet_d2.export.compare import Difference
from kgdet_d2.export.exporter import export_model
from kgdet_d2.export.options import ExportOptions
from kgdet_d2.garments import Garments
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.synthetic import generate_photo
from kgdet_d2.utils.catalog import schema_of_config

DRAWN_PHOTOS = 2  # an exported file is compared on so many where none are given
DEALT_BATCHES = 4  # so many batches of photos are dealt by size at a time
# A garment has one name here: of those that overlap so much the best is left.
_ONE_NAME = ["MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST", "0.7"]


def predictor_config(
    path: str | Path | None, device: str | None = None, config: str | None = None, opts: Sequence[str] = ()
) -> CfgNode:
    """Return the config that :meth:`FashionPredictor.from_checkpoint` builds a model of, as it describes."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return find_model_config(config, path, ["MODEL.DEVICE", device, *_ONE_NAME, *opts])


class PhotoMapper:
    """The way from a photo to a model's input, for inference.

    Args:
        cfg: its ``INPUT``.
    """

    def __init__(self, cfg: CfgNode):
        self.image_format = cfg.INPUT.FORMAT
        self.alpha_on_white = cfg.INPUT.ALPHA_ON_WHITE
        self.resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, photo: Photo) -> dict:
        """Return ``image``, a tensor of the resized photo, and the photo's own ``height`` and ``width``."""
        image = to_array(photo, self.image_format, alpha_on_white=self.alpha_on_white)
        height, width = image.shape[:2]
        resized = self.resize.get_transform(image).apply_image(image)
        return {"image": image_to_tensor(resized), "height": height, "width": width}

    def read(self, photo: Photo) -> np.ndarray:
        """Return the pixels that the network's input is made of, in RGB: uint8 (H, W, 3)."""
        return to_array(photo, "RGB", alpha_on_white=self.alpha_on_white)


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
        self.schema = schema_of_config(cfg)
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.mapper = PhotoMapper(cfg)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None,
        device: str | None = None,
        score_threshold: float = 0.5,
        config: str | None = None,
        opts: Sequence[str] = (),
    ) -> "FashionPredictor":
        """Load a model.

        Args:
            path: of a checkpoint of this project's or of the release's; None where ``config`` or ``opts``
                name it as MODEL.WEIGHTS.
            device: "cpu", "cuda", ...; default: the GPU where there is one.
            score_threshold: of the garments that are kept, 0..1.
            config: the model's yaml file or the name of one, for weights that do not say what they are.
            opts: KEY VALUE overrides.

        Raises:
            FileNotFoundError, ValueError: see :func:`kgdet_d2.checkpoint.checkpointer.find_model_config`; or
                the weights do not fit the config.
        """
        return cls.from_config(predictor_config(path, device, config, opts), score_threshold=score_threshold)

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
        step = DEALT_BATCHES * self.batch_size
        for start in range(0, len(photos), step):
            found += self._predict_some(photos[start : start + step])
        return found

    def _predict_some(self, photos: list[Photo]) -> list[Garments]:
        inputs = [self.mapper(photo) for photo in photos]
        found: dict[int, Garments] = {}
        for rows in self.batches(inputs, self.batch_size):
            found.update(zip(rows, self.predict_mapped([inputs[row] for row in rows]), strict=True))
        files = [str(photo) if isinstance(photo, str | Path) else "" for photo in photos]
        return [replace(found[row], file=file) for row, file in enumerate(files)]

    def batches(self, inputs: Sequence[dict], batch_size: int) -> Iterator[list[int]]:
        """Deal photos that :class:`PhotoMapper` has mapped into batches, by row.

        A batch's photos are padded to one size. Here it is the one to which each is padded when it is alone,
        for more padding changes what is found.
        """
        backbone: Any = self.model.backbone
        divisor = max(1, backbone.size_divisibility)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for row, photo in enumerate(inputs):
            size = tuple(-(-side // divisor) for side in photo["image"].shape[1:])
            by_size.setdefault(size, []).append(row)
        for rows in by_size.values():
            yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))

    @torch.inference_mode()
    def predict_mapped(self, inputs: list[dict]) -> list[Garments]:
        """Find the garments of a batch, see :meth:`batches`."""
        outputs = [output["instances"] for output in self.model(inputs)]
        kept = [instances[instances.scores >= self.score_threshold] for instances in outputs]
        return [Garments.from_instances(instances, self.schema) for instances in kept]

    def export(
        self, path: str | Path, format: str = "onnx", *, photos: Sequence[Photo] = (), **options: Any
    ) -> Difference:
        """Write the model as a file that runs without this package, see ``docs/EXPORT.md``.

        Args:
            path: the file, whose suffix is the format's; it is written only if it finds what the model finds.
            format: "onnx" or "pt2".
            photos: on which that is compared; default: drawn ones.
            options: the other attributes of :class:`~kgdet_d2.export.options.ExportOptions`.

        Returns:
            By how much the two differ.

        Raises:
            ValueError: the model or an option is not supported, or the file finds something else.
            ImportError: a package that the format takes is missing.
            OSError: the weights cannot be read, or the file not be written.
            RuntimeError: a photo cannot be read.
        """
        chosen = ExportOptions(format=format, **options)
        chosen.check(self.cfg, path)
        drawn = (
            [generate_photo(index).image[:, :, ::-1] for index in range(DRAWN_PHOTOS)] if not photos else []
        )
        arrays = [*(self.mapper.read(photo) for photo in photos), *drawn]
        return export_model(self.model, self.cfg, path, arrays, chosen, self.score_threshold)
