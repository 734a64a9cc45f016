"""The check that a config's values fit together, each system's on its own."""

import logging
from collections.abc import Iterable
from importlib.util import find_spec

from detectron2.config import CfgNode

from kgdet_d2.modeling.losses import KEYPOINT_WEIGHTINGS
from kgdet_d2.modeling.optimize import PRECISIONS
from kgdet_d2.schema import schema_of

logger = logging.getLogger(__name__)
AGGREGATIONS = ("encoding", "selection")
KEYPOINTS = ("none", "parallel", "serial")
_FLIPS = ("horizontal", "vertical", "none")
_CROP_TYPES = ("relative_range", "relative", "absolute", "absolute_range")


def check_config(cfg: CfgNode) -> None:
    """Refuse values that contradict one another.

    Raises:
        ValueError: lists every contradiction found, by key, with what was expected and what was found.
    """
    problems = [*_solver_problems(cfg), *_input_problems(cfg), *_inference_problems(cfg)]
    if cfg.MODEL.META_ARCHITECTURE == "KGDet":
        problems += [*_head_problems(cfg), *_aggregation_problems(cfg)]
        problems += [*_loss_problems(cfg), *_landmark_problems(cfg), *_flip_fusion_problems(cfg)]
    if cfg.MODEL.META_ARCHITECTURE == "RepPoints":
        problems += [*_head_problems(cfg), *_aggregation_problems(cfg)]
        problems += [*_loss_problems(cfg), *_reppoints_problems(cfg)]
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        problems += _retinanet_problems(cfg)
    if cfg.MODEL.META_ARCHITECTURE == "FCOS":
        problems += _fcos_problems(cfg)
    if cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "MatchRCNN"):
        problems += _match_rcnn_problems(cfg)
    if problems:
        raise ValueError("config: " + "; ".join(problems))
    if cfg.INPUT.SCALE_JITTER:
        logger.warning("INPUT.MIN_SIZE_TRAIN has no effect: INPUT.SCALE_JITTER takes its place")


def _solver_problems(cfg: CfgNode):
    late = [step for step in cfg.SOLVER.STEPS if step >= cfg.SOLVER.MAX_ITER]
    if late:
        yield f"SOLVER.STEPS: expected steps below SOLVER.MAX_ITER = {cfg.SOLVER.MAX_ITER}, got {late}"
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "ADAMW"):
        yield f"SOLVER.OPTIMIZER: expected 'SGD' or 'ADAMW', got {cfg.SOLVER.OPTIMIZER!r}"


def _input_problems(cfg: CfgNode):
    jitter, color, crop = cfg.INPUT.SCALE_JITTER, cfg.INPUT.COLOR, cfg.INPUT.CROP
    if jitter and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
        yield f"INPUT.SCALE_JITTER: expected () or two rising factors above 0, got {jitter}"
    for key, change in color.items():
        if not 0 <= change <= 1:
            yield f"INPUT.COLOR.{key}: expected 0..1, got {change}"
    if any(color.values()) and cfg.INPUT.FORMAT != "RGB":
        yield f"INPUT.FORMAT: expected 'RGB', which INPUT.COLOR needs, got {cfg.INPUT.FORMAT!r}"
    if cfg.INPUT.RANDOM_FLIP not in _FLIPS:
        yield f"INPUT.RANDOM_FLIP: expected {_any_of(_FLIPS)}, got {cfg.INPUT.RANDOM_FLIP!r}"
    if crop.ENABLED:
        yield from _crop_problems(crop)
    if cfg.MODEL.MASK_ON and (crop.ENABLED or jitter) and find_spec("shapely") is None:
        yield "MODEL.MASK_ON: polygons are cropped by shapely, which is missing: pip install shapely"


def _crop_problems(crop: CfgNode):
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


def _inference_problems(cfg: CfgNode):
    precision = cfg.MODEL.INFERENCE.PRECISION
    if precision not in PRECISIONS:
        yield f"MODEL.INFERENCE.PRECISION: expected {_any_of(PRECISIONS)}, got {precision!r}"


def _head_problems(cfg: CfgNode):
    kgdet = cfg.MODEL.KGDET
    if kgdet.NUM_STAGES < 1:
        yield f"MODEL.KGDET.NUM_STAGES: expected at least 1, got {kgdet.NUM_STAGES}"
    if kgdet.NUM_POSITIVES < 1:
        yield f"MODEL.KGDET.NUM_POSITIVES: expected at least 1, got {kgdet.NUM_POSITIVES}"
    if not 0 < kgdet.PRIOR_PROB < 1:
        yield f"MODEL.KGDET.PRIOR_PROB: expected a number between 0 and 1, got {kgdet.PRIOR_PROB}"
    for key in ("POINTS_GRADIENT", "MOMENT_GRADIENT", "SCORE_THRESH_TEST", "NMS_THRESH_TEST"):
        if not 0 <= kgdet[key] <= 1:
            yield f"MODEL.KGDET.{key}: expected 0..1, got {kgdet[key]}"
    yield from _sparse_problems(cfg)
    yield from _group_problems("MODEL.KGDET.CONV_DIM", kgdet.CONV_DIM, kgdet.NORM)
    yield from _group_problems("MODEL.FPN.OUT_CHANNELS", cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)


def _sparse_problems(cfg: CfgNode):
    kgdet = cfg.MODEL.KGDET
    if kgdet.SPARSE_CELLS < 0:
        yield f"MODEL.KGDET.SPARSE_CELLS: expected at least 0, got {kgdet.SPARSE_CELLS}"
    obstacles = {
        "RepPoints, whose first stage has no scores to choose by": cfg.MODEL.META_ARCHITECTURE == "RepPoints",
        "one stage, there being no later ones": kgdet.NUM_STAGES == 1,
        "FLIP_FUSION, whose two passes would choose different cells": kgdet.FLIP_FUSION.ENABLED,
    }
    for obstacle, is_there in obstacles.items():
        if kgdet.SPARSE_CELLS and is_there:
            yield f"MODEL.KGDET.SPARSE_CELLS: expected 0 with {obstacle}, got {kgdet.SPARSE_CELLS}"


def _group_problems(key: str, channels: int, *norms: str):
    if "GN" in norms and channels % 32:
        yield f"{key}: expected a multiple of GroupNorm's 32 groups, got {channels}"


def _aggregation_problems(cfg: CfgNode):
    aggregation, columns = cfg.MODEL.KGDET.AGGREGATION, cfg.MODEL.KGDET.COLUMNS
    odd_squares = [side**2 for side in range(3, 16, 2)]
    if not columns or not set(columns) <= set(odd_squares):
        yield f"MODEL.KGDET.COLUMNS: expected some of {odd_squares}, got {columns}"
    if aggregation not in AGGREGATIONS:
        yield f"MODEL.KGDET.AGGREGATION: expected {_any_of(AGGREGATIONS)}, got {aggregation!r}"
    keypoints = cfg.MODEL.KGDET.NUM_KEYPOINTS
    if aggregation == "selection" and (len(columns) != 1 or columns[0] > keypoints):
        yield (
            "MODEL.KGDET.COLUMNS: expected with AGGREGATION 'selection' one number, at most "
            f"MODEL.KGDET.NUM_KEYPOINTS = {keypoints}, got {columns}"
        )


def _loss_problems(cfg: CfgNode):
    loss, stages = cfg.MODEL.KGDET.LOSS, cfg.MODEL.KGDET.NUM_STAGES
    if len(loss.STAGE_WEIGHTS) != stages:
        yield (
            f"MODEL.KGDET.LOSS.STAGE_WEIGHTS: expected MODEL.KGDET.NUM_STAGES = {stages} numbers, "
            f"got {loss.STAGE_WEIGHTS}"
        )
    yield from _gamma_problems("MODEL.KGDET.LOSS.FOCAL_GAMMA", loss.FOCAL_GAMMA)
    if loss.KEYPOINT_WEIGHTING not in KEYPOINT_WEIGHTINGS:
        yield (
            f"MODEL.KGDET.LOSS.KEYPOINT_WEIGHTING: expected {_any_of(KEYPOINT_WEIGHTINGS)}, "
            f"got {loss.KEYPOINT_WEIGHTING!r}"
        )


def _gamma_problems(key: str, gamma: float):
    if gamma != 0 and gamma < 1:
        yield (
            f"{key}: expected 0 or at least 1, for between them the gradient is infinite where a score "
            f"reaches 1, got {gamma}"
        )


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))


def _landmark_problems(cfg: CfgNode):
    if not cfg.MODEL.KEYPOINT_ON:
        yield "MODEL.KEYPOINT_ON: expected True, since the model learns from landmarks, got False"
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    if least:
        yield (
            "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE: expected 0, since photos whose "
            f"garments have no landmark still teach boxes, got {least}"
        )
    sigmas, keypoints = cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.KGDET.NUM_KEYPOINTS
    if sigmas and len(sigmas) != keypoints:
        yield (
            f"TEST.KEYPOINT_OKS_SIGMAS: expected none (the dataset's own) or MODEL.KGDET.NUM_KEYPOINTS = "
            f"{keypoints} numbers, got {len(sigmas)}"
        )


def _flip_fusion_problems(cfg: CfgNode):
    flip = cfg.MODEL.KGDET.FLIP_FUSION
    for key, allowed in (("MODE", ("image", "feature")), ("PERMUTATION", ("corrected", "released"))):
        if flip[key] not in allowed:
            yield f"MODEL.KGDET.FLIP_FUSION.{key}: expected one of {allowed}, got {flip[key]!r}"
    if flip.IN_TRAINING and not flip.ENABLED:
        yield "MODEL.KGDET.FLIP_FUSION.IN_TRAINING: expected False where ENABLED is False, got True"


def _reppoints_problems(cfg: CfgNode):
    kgdet, reppoints = cfg.MODEL.KGDET, cfg.MODEL.REPPOINTS
    if kgdet.NUM_STAGES < 2:
        yield f"MODEL.KGDET.NUM_STAGES: expected at least 2, the first has no classes, got {kgdet.NUM_STAGES}"
    thresholds = reppoints.IOU_THRESHOLDS
    if len(thresholds) != 2 or not 0 < thresholds[0] <= thresholds[1] <= 1:
        yield (
            "MODEL.REPPOINTS.IOU_THRESHOLDS: expected two rising numbers above 0 and up to 1, "
            f"got {thresholds}"
        )
    if reppoints.KEYPOINTS not in KEYPOINTS:
        yield f"MODEL.REPPOINTS.KEYPOINTS: expected {_any_of(KEYPOINTS)}, got {reppoints.KEYPOINTS!r}"
    if reppoints.KEYPOINTS != "none":
        yield from _landmark_problems(cfg)
    elif cfg.MODEL.KEYPOINT_ON:
        yield "MODEL.KEYPOINT_ON: expected False with MODEL.REPPOINTS.KEYPOINTS 'none', got True"
    if kgdet.AGGREGATION != "encoding":
        yield f"MODEL.KGDET.AGGREGATION: expected 'encoding' with RepPoints, got {kgdet.AGGREGATION!r}"
    if kgdet.FLIP_FUSION.ENABLED:
        yield "MODEL.KGDET.FLIP_FUSION.ENABLED: expected False with RepPoints, which has none, got True"


def _retinanet_problems(cfg: CfgNode):
    yield from _box_detector_problems(cfg, "RETINANET")
    levels, made = cfg.MODEL.RETINANET.IN_FEATURES, cfg.MODEL.FPN.OUT_FEATURES
    if cfg.MODEL.BACKBONE.NAME.endswith("lean_fpn_backbone") and levels != made:
        yield f"MODEL.RETINANET.IN_FEATURES: expected MODEL.FPN.OUT_FEATURES = {made}, got {levels}"


def _fcos_problems(cfg: CfgNode):
    yield from _box_detector_problems(cfg, "FCOS")
    radius = cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS
    if radius <= 0:
        yield f"MODEL.FCOS.CENTER_SAMPLING_RADIUS: expected a number above 0, got {radius}"


def _box_detector_problems(cfg: CfgNode, name: str):
    """Of Detectron2's dense detectors; ``name`` is that of their keys' node."""
    own, fpn = cfg.MODEL[name], cfg.MODEL.FPN
    if cfg.MODEL.KEYPOINT_ON:
        yield "MODEL.KEYPOINT_ON: expected False, since the model has boxes alone, got True"
    for key in ("NUM_CLASSES", "NUM_CONVS"):
        if own[key] < 1:
            yield f"MODEL.{name}.{key}: expected at least 1, got {own[key]}"
    if not 0 < own.PRIOR_PROB < 1:
        yield f"MODEL.{name}.PRIOR_PROB: expected a number between 0 and 1, got {own.PRIOR_PROB}"
    for key in ("SCORE_THRESH_TEST", "NMS_THRESH_TEST"):
        if not 0 <= own[key] <= 1:
            yield f"MODEL.{name}.{key}: expected 0..1, got {own[key]}"
    yield from _gamma_problems(f"MODEL.{name}.FOCAL_LOSS_GAMMA", own.FOCAL_LOSS_GAMMA)
    yield from _group_problems("MODEL.FPN.OUT_CHANNELS", fpn.OUT_CHANNELS, fpn.NORM, own.NORM)


def _match_rcnn_problems(cfg: CfgNode):
    heads, landmark_head = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_KEYPOINT_HEAD
    if landmark_head.NAME == "GarmentKeypointHead":
        try:
            schema = schema_of(landmark_head.NUM_KEYPOINTS)
        except ValueError as error:
            yield f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS: {error}"
        else:
            if heads.NUM_CLASSES != schema.num_classes:
                yield (
                    f"MODEL.ROI_HEADS.NUM_CLASSES: expected {schema.num_classes}, the classes of the "
                    f"{schema.num_keypoints} landmarks, got {heads.NUM_CLASSES}"
                )
    matching = cfg.MODEL.META_ARCHITECTURE == "MatchRCNN"
    if matching != (heads.NAME == "MatchRCNNHeads"):
        yield (
            "MODEL.ROI_HEADS.NAME: expected 'MatchRCNNHeads' with META_ARCHITECTURE 'MatchRCNN' and with no "
            f"other, got {heads.NAME!r} with {cfg.MODEL.META_ARCHITECTURE!r}"
        )
    if matching and cfg.SOLVER.IMS_PER_BATCH % 2:
        yield f"SOLVER.IMS_PER_BATCH: expected pairs of photos, got {cfg.SOLVER.IMS_PER_BATCH}"
