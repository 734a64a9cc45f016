"""A model as a file: traced, written, run where it is meant to run, and compared with the model."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn
from torch.export import Dim, ExportedProgram

from kgdet_d2.export.aggregation import spell_aggregations
from kgdet_d2.export.compare import Difference, compare_detections, compare_everywhere, make_batches
from kgdet_d2.export.dense import DenseAnchors, DensePointSets
from kgdet_d2.export.detector import ExportedDetector, Normalize, Rules, Selection
from kgdet_d2.export.formats import FORMATS
from kgdet_d2.export.metadata import describe
from kgdet_d2.export.options import ExportOptions
from kgdet_d2.export.sizing import SizeRule
from kgdet_d2.modeling.meta_arch.kgdet import PointSetDetector
from kgdet_d2.utils.catalog import schema_of_config
from kgdet_d2.utils.io import atomic_write

_DIMENSIONS = ("height", "width")


def export_model(
    model: nn.Module,
    cfg: CfgNode,
    path: str | Path,
    photos: Sequence[np.ndarray],
    options: ExportOptions,
    shown_score: float,
) -> Difference:
    """Export a model, and compare what the file finds with what the model finds.

    Args:
        model: any system that ``docs/EXPORT.md`` names, in inference mode; it stays as it is.
        cfg: its config.
        path: of the file, which is written only if it finds the same.
        photos: uint8 (H, W, 3) RGB, at least one, to compare on.
        options: how it is exported.
        shown_score: see :func:`~kgdet_d2.export.metadata.describe`.

    Returns:
        How the two differ.

    Raises:
        ValueError, ImportError: see :meth:`ExportOptions.check`; or the file finds something else.
        OSError: the weights cannot be read, or the file not be written.
    """
    options.check(cfg, path)
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).requires_grad_(False)
    backbone: Any = model.backbone
    divisor = max(1, backbone.size_divisibility)
    options.check_divisor(divisor)
    size_rule = SizeRule.from_config(cfg, divisor, options.size)
    batches = make_batches(photos, size_rule, options.batch)
    detector = build_detector(copy.deepcopy(model), cfg, options)
    with torch.no_grad():
        program = trace(detector, size_rule, options)
        outputs = list(detector(*map(torch.from_numpy, batches[0])))
    rules = rules_of(model)
    metadata = describe(cfg, options, size_rule, rules, outputs, shown_score)
    exported_format = FORMATS[options.format]
    content = exported_format.write(program, outputs, metadata)
    runtime = exported_format.load(content)
    if options.nms:
        difference = compare_detections(model, cfg, runtime, batches, rules)
    else:
        plain = ExportedDetector(detector.normalize, dense_network(model), None)
        difference = compare_everywhere(plain, runtime, batches)
    difference.check(str(path))
    with atomic_write(path) as file:
        file.write(content)
    return difference


def build_detector(model: nn.Module, cfg: CfgNode, options: ExportOptions) -> ExportedDetector:
    """Make the graph's module of a model, whose aggregations are spelled anew, in place."""
    spell_aggregations(model, options.aggregation)
    parts: Any = model
    normalize = Normalize(
        reverses=cfg.INPUT.FORMAT == "BGR", mean=parts.pixel_mean.cpu(), std=parts.pixel_std.cpu()
    )
    selection = None
    if options.nms:
        slots = torch.from_numpy(schema_of_config(cfg).padded_slots)
        selection = Selection(rules_of(model), slots, getattr(model, "refiner", None))
    return ExportedDetector(normalize, dense_network(model), selection).eval()


def dense_network(model: Any) -> DensePointSets | DenseAnchors:
    """Return what predicts at all places."""
    return DensePointSets(model) if isinstance(model, PointSetDetector) else DenseAnchors(model)


def rules_of(model: Any) -> Rules:
    """Return how a model selects its detections."""
    if isinstance(model, PointSetDetector):
        limits = model.postprocessor
        return Rules(
            score_threshold=limits.score_threshold,
            topk=limits.topk_candidates,
            nms_threshold=limits.nms_threshold,
            max_detections=limits.max_detections,
            class_agnostic_threshold=limits.class_agnostic_nms_threshold,
            by_location=True,
        )
    return Rules(
        score_threshold=model.test_score_thresh,
        topk=model.test_topk_candidates,
        nms_threshold=model.test_nms_thresh,
        max_detections=model.max_detections_per_image,
        class_agnostic_threshold=1.0,
        by_location=False,
    )


def trace(detector: ExportedDetector, size_rule: SizeRule, options: ExportOptions) -> ExportedProgram:
    """Trace the graph, for any number of photos and any size unless the options fix them."""
    unit = size_rule.multiple_of
    # Neither one photo nor one location: a size of 1 would be taken for a constant.
    height, width = options.size or (4 * unit, 6 * unit)
    number = options.batch or 2
    images = torch.zeros(number, 3, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]]).repeat(number, 1)
    batch: dict[int, Any] = {} if options.batch else {0: Dim("batch", min=1)}
    sides: dict[int, Any] = {}
    if options.size is None:
        sides = {axis: unit * Dim(name, min=1) for axis, name in enumerate(_DIMENSIONS, start=2)}
    shapes = {"images": {**batch, **sides}, "sizes": batch}
    with warnings.catch_warnings():
        # torchvision's, about its own nms
        warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)
        return torch.export.export(detector, (images, sizes), dynamic_shapes=shapes)
