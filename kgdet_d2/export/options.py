"""What can be exported, and how: refused by name before any work."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode

from kgdet_d2.export.aggregation import SPELLINGS

# Suffix of the file, and the packages that writing and checking it take, with the extra that brings them.
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}
_SYSTEMS = ("KGDet", "RepPoints", "FashionRetinaNet", "RetinaNet", "FCOS")
_DEFAULTS = {
    "MODEL.KGDET.FLIP_FUSION.ENABLED": False,
    "MODEL.KGDET.SPARSE_CELLS": 0,
    "MODEL.INFERENCE.PRECISION": "float32",
    "MODEL.INFERENCE.COMPILE": False,
}


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Attributes:
        format: "onnx", or "pt2" for ``torch.export``'s.
        aggregation: how aggregation at points is spelled: "deform_conv" or "grid_sample".
        batch: photos of a batch; None for any number.
        size: height and width of the input, in pixels; None for any.
        nms: detections are selected and suppressed inside the graph; else it gives all that is predicted.
    """

    format: str = "onnx"
    aggregation: str = "deform_conv"
    batch: int | None = None
    size: tuple[int, int] | None = None
    nms: bool = True

    def check(self, cfg: CfgNode, path: str | Path) -> None:
        """Refuse what cannot be exported.

        Args:
            cfg: of the model.
            path: of the file to write.

        Raises:
            ValueError: an option or a key of the config has a value that is not supported.
            ImportError: a package that the format takes is missing.
        """
        _one_of("--format", self.format, tuple(SUFFIXES))
        _one_of("--aggregation", self.aggregation, SPELLINGS)
        if Path(path).suffix != SUFFIXES[self.format]:
            raise ValueError(f"--output: expected a file that ends in {SUFFIXES[self.format]}, got {path}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"--batch: expected dynamic or a number from 1 on, got {self.batch}")
        _check_model(cfg)
        if not self.nms and cfg.MODEL.META_ARCHITECTURE == "KGDet" and cfg.MODEL.KGDET.REFINER.ENABLED:
            raise ValueError(
                "--no-nms: expected MODEL.KGDET.REFINER.ENABLED False with it, for it refines detections"
            )
        for package in _PACKAGES[self.format]:
            if find_spec(package) is None:
                command = f"pip install 'kgdet_d2[{self.format}]'"
                raise ImportError(f"{package} is missing: {command}", name=package)

    def check_divisor(self, divisor: int) -> None:
        """Raise ValueError where the fixed size is no multiple of what the backbone divides."""
        if self.size is not None and any(side < 1 or side % divisor for side in self.size):
            height, width = self.size
            raise ValueError(f"--size: expected multiples of {divisor} pixels, got {height}x{width}")


def _check_model(cfg: CfgNode) -> None:
    _one_of("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, _SYSTEMS)
    _one_of("INPUT.FORMAT", cfg.INPUT.FORMAT, ("RGB", "BGR"))
    for key, expected in _DEFAULTS.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        if value != expected:
            raise ValueError(f"{key}: expected {expected!r} for an export, got {value!r}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)} for an export, got {value!r}")
