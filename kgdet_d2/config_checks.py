"""The checks of a config: values against tables, and contradictions between keys by functions."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from math import inf
from typing import Any

from detectron2.config import CfgNode

from kgdet_d2.utils.catalog import schema_of_config

logger = logging.getLogger(__name__)

_ENDS_EXCLUDED = ("PRIOR_PROB", "CENTER_SAMPLING_RADIUS")  # keys whose range is open
# The nodes of MODEL that an architecture reads. Those of the others are not checked.
_NODES = {
    "KGDet": ("KGDET", "FPN"),
    "RepPoints": ("KGDET", "REPPOINTS"),
    "RetinaNet": ("RETINANET",),
    "FashionRetinaNet": ("RETINANET",),
    "FCOS": ("FCOS",),
}
_CROP_TYPES = ("relative_range", "relative", "absolute", "absolute_range")
_ODD_SQUARES = [side**2 for side in range(3, 16, 2)]


def check_config(
    cfg: CfgNode, choices: Mapping[str, Iterable[str]], ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Refuse values that are not allowed or contradict one another.

    Args:
        cfg: the config.
        choices: key -> allowed words.
        ranges: key -> lowest and highest number.

    Raises:
        ValueError: lists every problem found, by key, with what was expected and what was found.
    """
    problems = [*_table_problems(cfg, choices, ranges), *_solver_problems(cfg), *_input_problems(cfg)]
    problems += _backbone_problems(cfg)
    problems += _fine_level_problems(cfg)
    check_system = _SYSTEMS.get(cfg.MODEL.META_ARCHITECTURE)
    if check_system is not None:
        problems += check_system(cfg)
    if problems:
        raise ValueError("config: " + "; ".join(problems))
    if cfg.INPUT.SCALE_JITTER:
        logger.warning("INPUT.MIN_SIZE_TRAIN has no effect: INPUT.SCALE_JITTER takes its place")


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key."""
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def _table_problems(
    cfg: CfgNode, choices: Mapping[str, Iterable[str]], ranges: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    nodes = ("INFERENCE", "LOSS_NORMALIZER", *_NODES.get(cfg.MODEL.META_ARCHITECTURE, ()))
    for key in [*choices, *ranges]:
        section, node = key.split(".")[:2]
        if section == "MODEL" and node not in nodes:
            continue
        value = get_value(cfg, key)
        if key in choices and value not in choices[key]:
            yield f"{key}: expected {_any_of(choices[key])}, got {value!r}"
        if key in ranges:
            yield from _range_problems(key, value, *ranges[key])


def _range_problems(key: str, value: float, low: float, high: float) -> Iterator[str]:
    if key.endswith(_ENDS_EXCLUDED):
        fits = low < value < high
        expected = f"a number above {low}" if high == inf else f"a number between {low} and {high}"
    else:
        fits = low <= value <= high
        expected = f"at least {low}" if high == inf else f"{low}..{high}"
    if not fits:
        yield f"{key}: expected {expected}, got {value}"


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))


def _expect(cfg: CfgNode, key: str, expected: Any, reason: str) -> Iterator[str]:
    value = get_value(cfg, key)
    if value != expected:
        yield f"{key}: expected {expected!r}{reason}, got {value!r}"


# --- what every system reads ---


def _solver_problems(cfg: CfgNode) -> Iterator[str]:
    late = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_ITER]
    if late:
        yield f"SOLVER.STEPS: expected steps below SOLVER.MAX_ITER = {cfg.SOLVER.MAX_ITER}, got {late}"
    if cfg.SOLVER.EMA.ENABLED:
        reason = " with SOLVER.EMA, for it measures the statistics of weights that are not the averaged ones"
        yield from _expect(cfg, "TEST.PRECISE_BN.ENABLED", False, reason)


def _input_problems(cfg: CfgNode) -> Iterator[str]:
    jitter, crop = cfg.INPUT.SCALE_JITTER, cfg.INPUT.CROP
    if jitter and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
        yield f"INPUT.SCALE_JITTER: expected () or two rising factors above 0, got {jitter}"
    if any(cfg.INPUT.COLOR.values()):
        yield from _expect(cfg, "INPUT.FORMAT", "RGB", ", which INPUT.COLOR needs")
    if crop.ENABLED:
        yield from _crop_problems(crop)
    if cfg.MODEL.MASK_ON and (crop.ENABLED or jitter) and find_spec("shapely") is None:
        yield "MODEL.MASK_ON: polygons are cropped by shapely, which is missing: pip install shapely"


def _backbone_problems(cfg: CfgNode) -> Iterator[str]:
    name = cfg.MODEL.BACKBONE.NAME
    if name == "build_timm_lean_fpn_backbone" and find_spec("timm") is None:
        yield f"MODEL.BACKBONE.NAME: {name!r} needs timm, which is missing: pip install 'kgdet_d2[timm]'"


def _crop_problems(crop: CfgNode) -> Iterator[str]:
    if crop.TYPE not in _CROP_TYPES:
        yield f"INPUT.CROP.TYPE: expected {_any_of(_CROP_TYPES)}, got {crop.TYPE!r}"
        return
    relative = crop.TYPE.startswith("relative")
    fits = [0 < side <= 1 if relative else isinstance(side, int) and side >= 1 for side in crop.SIZE]
    rising = crop.TYPE != "absolute_range" or list(crop.SIZE) == sorted(crop.SIZE)
    if fits != [True, True] or not rising:
        expected = "two shares above 0 and up to 1" if relative else "two whole numbers of pixels"
        expected += ", (min, max)" if crop.TYPE == "absolute_range" else ", (height, width)"
        yield f"INPUT.CROP.SIZE: expected {expected}, with TYPE {crop.TYPE!r}, got {crop.SIZE}"


# --- parts of systems ---


def _schema_problems(cfg: CfgNode, node: str, *names: str) -> Iterator[str]:
    """Compare a node's NUM_CLASSES, NUM_KEYPOINTS with the schema's."""
    schema = schema_of_config(cfg)
    for name in names:
        reason = f", as MODEL.KGDET.SCHEMA {schema.name!r} has it"
        yield from _expect(cfg, f"MODEL.{node}.{name}", getattr(schema, name.lower()), reason)


def _group_problems(key: str, channels: int, *norms: str) -> Iterator[str]:
    if "GN" in norms and channels % 32:
        yield f"{key}: expected a multiple of GroupNorm's 32 groups, got {channels}"


def _gamma_problems(key: str, gamma: float) -> Iterator[str]:
    if gamma != 0 and gamma < 1:
        reason = "for between them the gradient is infinite where a score reaches 1"
        yield f"{key}: expected 0 or at least 1, {reason}, got {gamma}"


def _point_set_problems(cfg: CfgNode) -> Iterator[str]:
    """Check what KGDet and RepPoints share."""
    kgdet, fpn = cfg.MODEL.KGDET, cfg.MODEL.FPN
    yield from _schema_problems(cfg, "KGDET", "NUM_CLASSES", "NUM_KEYPOINTS")
    yield from _group_problems("MODEL.KGDET.CONV_DIM", kgdet.CONV_DIM, kgdet.NORM)
    yield from _group_problems("MODEL.FPN.OUT_CHANNELS", fpn.OUT_CHANNELS, fpn.NORM)
    yield from _gamma_problems("MODEL.KGDET.LOSS.FOCAL_GAMMA", kgdet.LOSS.FOCAL_GAMMA)
    if not kgdet.COLUMNS or not set(kgdet.COLUMNS) <= set(_ODD_SQUARES):
        yield f"MODEL.KGDET.COLUMNS: expected some of {_ODD_SQUARES}, got {kgdet.COLUMNS}"
    if len(kgdet.LOSS.STAGE_WEIGHTS) != kgdet.NUM_STAGES:
        yield (
            f"MODEL.KGDET.LOSS.STAGE_WEIGHTS: expected MODEL.KGDET.NUM_STAGES = {kgdet.NUM_STAGES} numbers, "
            f"got {kgdet.LOSS.STAGE_WEIGHTS}"
        )
    if kgdet.NUM_STAGES == 1:
        reason = " with one stage, there being no later ones"
        yield from _expect(cfg, "MODEL.KGDET.SPARSE_CELLS", 0, reason)
        yield from _expect(cfg, "MODEL.KGDET.SPARSE_TRAINING", 0, reason)


def _keypoint_problems(cfg: CfgNode) -> Iterator[str]:
    yield from _expect(cfg, "MODEL.KEYPOINT_ON", True, ", since the model learns from landmarks")
    reason = ", since boxes are learnt from images whose garments have no landmark, too"
    yield from _expect(cfg, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 0, reason)
    sigmas, count = cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.KGDET.NUM_KEYPOINTS
    if sigmas and len(sigmas) != count:
        yield (
            f"TEST.KEYPOINT_OKS_SIGMAS: expected none (the dataset's own) or MODEL.KGDET.NUM_KEYPOINTS = "
            f"{count} numbers, got {len(sigmas)}"
        )


def _box_detector_problems(cfg: CfgNode, node: str) -> Iterator[str]:
    """Check one of Detectron2's dense detectors, whose keys are in ``MODEL.<node>``."""
    detector, fpn = cfg.MODEL[node], cfg.MODEL.FPN
    yield from _expect(cfg, "MODEL.KEYPOINT_ON", False, ", since the model has boxes alone")
    yield from _gamma_problems(f"MODEL.{node}.FOCAL_LOSS_GAMMA", detector.FOCAL_LOSS_GAMMA)
    yield from _group_problems("MODEL.FPN.OUT_CHANNELS", fpn.OUT_CHANNELS, fpn.NORM, detector.NORM)


def _fine_level_problems(cfg: CfgNode) -> Iterator[str]:
    level, stages = cfg.MODEL.FPN.FINE_LEVEL, cfg.MODEL.RESNETS.OUT_FEATURES
    if cfg.MODEL.META_ARCHITECTURE != "KGDet":
        yield from _expect(cfg, "MODEL.FPN.FINE_LEVEL", "", ", since only KGDet's refiner reads it")
    if level == "p2" and cfg.MODEL.BACKBONE.NAME.startswith("build_resnet") and "res2" not in stages:
        yield f"MODEL.RESNETS.OUT_FEATURES: expected res2 with MODEL.FPN.FINE_LEVEL 'p2', got {stages}"


# --- systems ---


def _kgdet_problems(cfg: CfgNode) -> Iterator[str]:
    kgdet, flip = cfg.MODEL.KGDET, cfg.MODEL.KGDET.FLIP_FUSION
    yield from _point_set_problems(cfg)
    yield from _keypoint_problems(cfg)
    yield from _refiner_problems(cfg)
    fits = len(kgdet.COLUMNS) == 1 and kgdet.COLUMNS[0] <= kgdet.NUM_KEYPOINTS
    if kgdet.AGGREGATION == "selection" and not fits:
        yield (
            "MODEL.KGDET.COLUMNS: expected with AGGREGATION 'selection' one number, at most "
            f"MODEL.KGDET.NUM_KEYPOINTS = {kgdet.NUM_KEYPOINTS}, got {kgdet.COLUMNS}"
        )
    if flip.ENABLED:
        unpaired = schema_of_config(cfg).unpaired_classes
        if unpaired:
            reason = (
                f", since it is not known which landmarks of {_any_of(unpaired)} change places in a mirror"
            )
            yield from _expect(cfg, "MODEL.KGDET.FLIP_FUSION.ENABLED", False, reason)
        reason = " with FLIP_FUSION, whose two passes would choose different cells"
        yield from _expect(cfg, "MODEL.KGDET.SPARSE_CELLS", 0, reason)
        yield from _expect(cfg, "MODEL.KGDET.SPARSE_TRAINING", 0, reason)
    else:
        yield from _expect(cfg, "MODEL.KGDET.FLIP_FUSION.IN_TRAINING", False, " where ENABLED is False")


def _refiner_problems(cfg: CfgNode) -> Iterator[str]:
    refiner, fpn = cfg.MODEL.KGDET.REFINER, cfg.MODEL.FPN
    if not refiner.ENABLED:
        return
    if not fpn.FINE_LEVEL:
        yield "MODEL.FPN.FINE_LEVEL: expected 'p2' or 'p3' with MODEL.KGDET.REFINER, got ''"
    if refiner.WINDOW < 3 or refiner.WINDOW % 2 == 0:
        yield f"MODEL.KGDET.REFINER.WINDOW: expected an odd number from 3 on, got {refiner.WINDOW}"
    if not refiner.SPACINGS or min(refiner.SPACINGS) <= 0:
        yield f"MODEL.KGDET.REFINER.SPACINGS: expected numbers above 0, one a round, got {refiner.SPACINGS}"


def _reppoints_problems(cfg: CfgNode) -> Iterator[str]:
    kgdet, reppoints = cfg.MODEL.KGDET, cfg.MODEL.REPPOINTS
    yield from _point_set_problems(cfg)
    if kgdet.NUM_STAGES < 2:
        yield f"MODEL.KGDET.NUM_STAGES: expected at least 2, the first has no classes, got {kgdet.NUM_STAGES}"
    thresholds = reppoints.IOU_THRESHOLDS
    if len(thresholds) != 2 or not 0 < thresholds[0] <= thresholds[1] <= 1:
        expected = "two rising numbers above 0 and up to 1"
        yield f"MODEL.REPPOINTS.IOU_THRESHOLDS: expected {expected}, got {thresholds}"
    if reppoints.KEYPOINTS == "none":
        yield from _expect(cfg, "MODEL.KEYPOINT_ON", False, " with MODEL.REPPOINTS.KEYPOINTS 'none'")
    else:
        yield from _keypoint_problems(cfg)
    reason = " with RepPoints, whose first stage has no scores to choose by"
    yield from _expect(cfg, "MODEL.KGDET.SPARSE_CELLS", 0, reason)
    yield from _expect(cfg, "MODEL.KGDET.SPARSE_TRAINING", 0, reason)
    yield from _expect(cfg, "MODEL.KGDET.AGGREGATION", "encoding", " with RepPoints")
    yield from _expect(cfg, "MODEL.KGDET.REFINER.ENABLED", False, " with RepPoints, which has none")
    for name, released in (("STAGE_NORM", ""), ("INIT", "normal")):
        yield from _expect(cfg, f"MODEL.KGDET.{name}", released, " with RepPoints, which has no other")
    yield from _expect(cfg, "MODEL.KGDET.FLIP_FUSION.ENABLED", False, " with RepPoints, which has none")


def _retinanet_problems(cfg: CfgNode) -> Iterator[str]:
    yield from _box_detector_problems(cfg, "RETINANET")
    if not cfg.MODEL.BACKBONE.NAME.endswith("lean_fpn_backbone"):
        return  # Detectron2's own system, which may be of any dataset
    yield from _schema_problems(cfg, "RETINANET", "NUM_CLASSES")
    levels, made = cfg.MODEL.RETINANET.IN_FEATURES, cfg.MODEL.FPN.OUT_FEATURES
    if levels != made:
        yield f"MODEL.RETINANET.IN_FEATURES: expected MODEL.FPN.OUT_FEATURES = {made}, got {levels}"


def _fcos_problems(cfg: CfgNode) -> Iterator[str]:
    yield from _box_detector_problems(cfg, "FCOS")
    yield from _schema_problems(cfg, "FCOS", "NUM_CLASSES")


def _rcnn_problems(cfg: CfgNode) -> Iterator[str]:
    heads, architecture = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.META_ARCHITECTURE
    if cfg.MODEL.ROI_KEYPOINT_HEAD.NAME == "GarmentKeypointHead":
        yield from _schema_problems(cfg, "ROI_HEADS", "NUM_CLASSES")
        yield from _schema_problems(cfg, "ROI_KEYPOINT_HEAD", "NUM_KEYPOINTS")
    matching = architecture == "MatchRCNN"
    if matching != (heads == "MatchRCNNHeads"):
        yield (
            "MODEL.ROI_HEADS.NAME: expected 'MatchRCNNHeads' with META_ARCHITECTURE 'MatchRCNN' and with no "
            f"other, got {heads!r} with {architecture!r}"
        )
    if matching and cfg.SOLVER.IMS_PER_BATCH % 2:
        yield f"SOLVER.IMS_PER_BATCH: expected pairs of images, got {cfg.SOLVER.IMS_PER_BATCH}"


_SYSTEMS: dict[str, Callable[[CfgNode], Iterator[str]]] = {
    "KGDet": _kgdet_problems,
    "RepPoints": _reppoints_problems,
    "RetinaNet": _retinanet_problems,
    "FashionRetinaNet": _retinanet_problems,
    "FCOS": _fcos_problems,
    "GeneralizedRCNN": _rcnn_problems,
    "MatchRCNN": _rcnn_problems,
}
