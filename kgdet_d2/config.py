"""Config keys that KGDet adds to Detectron2's, and the check that they fit together."""

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from kgdet_d2.modeling.head import AGGREGATIONS
from kgdet_d2.modeling.losses import KEYPOINT_WEIGHTINGS
from kgdet_d2.modeling.reppoints_head import KEYPOINTS

logger = logging.getLogger(__name__)
_FLIPS = ("horizontal", "vertical", "none")
_CROP_TYPES = ("relative_range", "relative", "absolute", "absolute_range")


def add_kgdet_config(cfg: CfgNode) -> None:
    """Add KGDet's keys with their defaults: DeepFashion2 as the released model was trained."""
    _add_backbone_keys(cfg)
    _add_head_keys(cfg)
    _add_loss_keys(cfg)
    _add_flip_fusion_keys(cfg)
    _add_input_keys(cfg)
    _add_reppoints_keys(cfg)
    # "SGD" (the paper's) or "ADAMW", with SOLVER's learning rates, weight decays and schedule.
    cfg.SOLVER.OPTIMIZER = "SGD"


def _add_backbone_keys(cfg: CfgNode) -> None:
    # Keep the running statistics of every BatchNorm in the ResNet as they are; weights and biases learn.
    # (MODEL.RESNETS.NORM "FrozenBN" would fix both.) For backbones named build_*_lean_fpn_backbone.
    cfg.MODEL.BACKBONE.FIXED_BN_STATS = False
    # Pyramid levels that the detector sees: consecutive ones of p3..p7, strides 8..128 pixels.
    # The released model uses p5 alone, the paper's text p5-p7.
    cfg.MODEL.FPN.OUT_FEATURES = ["p5"]
    # Build and compute all of p3..p7 whatever is asked for, as the release does. Outputs are the same;
    # the parameters that reach none of them (6,884,352 with p5 alone) count but never learn.
    cfg.MODEL.FPN.FULL = False


def _add_head_keys(cfg: CfgNode) -> None:
    cfg.MODEL.KGDET = CfgNode()
    kgdet = cfg.MODEL.KGDET
    # C, garment classes (without background), and K, landmark slots of all classes together.
    kgdet.NUM_CLASSES = 13
    kgdet.NUM_KEYPOINTS = 294
    # T, stages of the cascade, the first one included.
    kgdet.NUM_STAGES = 3
    # Informative points of a stage: "encoding", a 1x1 convolution of all its landmarks, or "selection", the n
    # landmarks with the highest visibility scores (COLUMNS is [n] then).
    kgdet.AGGREGATION = "encoding"
    # Informative points of each column of the aggregation: squares of odd numbers, K' = their sum (83).
    kgdet.COLUMNS = [9, 25, 49]
    # Channels of the towers, the first stage and each column; 3x3 convolutions in each tower; their
    # normalisation by Detectron2's names ("" for none).
    kgdet.CONV_DIM = 256
    kgdet.NUM_CONVS = 3
    kgdet.NORM = "GN"
    # Score of every class, and visibility of every landmark, at every cell before training, 0..1.
    kgdet.PRIOR_PROB = 0.01
    # Share of the gradient that flows from an aggregation back into the points it samples at, and from the
    # boxes into the two scales of the moment transform (lambda_x, lambda_y).
    kgdet.POINTS_GRADIENT = 0.1
    kgdet.MOMENT_GRADIENT = 0.01
    # k, cells nearest to a garment's centre that answer for it: 25 in the release, 9 in the paper.
    kgdet.NUM_POSITIVES = 25
    # Inference: detections score above it; cells looked at per level; IoU above which, within a class, the
    # lower score goes. TEST.DETECTIONS_PER_IMAGE limits what is left.
    kgdet.SCORE_THRESH_TEST = 0.05
    kgdet.TOPK_CANDIDATES_TEST = 1000
    kgdet.NMS_THRESH_TEST = 0.5


def _add_loss_keys(cfg: CfgNode) -> None:
    cfg.MODEL.KGDET.LOSS = CfgNode()
    loss = cfg.MODEL.KGDET.LOSS
    # Factor of each stage's losses, T numbers. The release's; the paper weighs the stages equally.
    loss.STAGE_WEIGHTS = [0.5, 0.5, 1.0]
    # Factors in eq. 1: of classification, of boxes (lambda_2), of landmarks (lambda_1).
    loss.CLS_WEIGHT = 1.0
    loss.BOX_WEIGHT = 1.0
    loss.KEYPOINT_WEIGHT = 1.0
    # "per_garment": the landmarks of a garment weigh as much as one box, 4 / (2 N) each with N of them
    # labelled (release, KEYPOINT_WEIGHT 1). "per_landmark": their plain sum (paper, KEYPOINT_WEIGHT 0.1).
    loss.KEYPOINT_WEIGHTING = "per_garment"
    # Factor of the visibility of landmarks; it counts with AGGREGATION "selection".
    loss.VISIBILITY_WEIGHT = 1.0
    # Focal loss of classification and of visibility.
    loss.FOCAL_ALPHA = 0.25
    loss.FOCAL_GAMMA = 2.0
    # Where smooth L1 turns linear, in units of 4 strides.
    loss.SMOOTH_L1_BETA = 1 / 9


def _add_flip_fusion_keys(cfg: CfgNode) -> None:
    cfg.MODEL.KGDET.FLIP_FUSION = CfgNode()
    flip = cfg.MODEL.KGDET.FLIP_FUSION
    # Average what the network says of an image and of its mirror ("flip" in Table 4): at inference, and
    # in training too. The second pass costs as much as the first.
    flip.ENABLED = False
    flip.IN_TRAINING = False
    # What is mirrored: "image" (paper; the whole network runs twice) or "feature" maps (release; the head).
    flip.MODE = "image"
    # Left and right landmarks: "corrected", the schema's, or "released", with the release's wrong pairs in
    # short sleeve outwear. NUM_KEYPOINTS tells the schema: 294 DeepFashion2's, 8 FLD's.
    flip.PERMUTATION = "corrected"


def _add_input_keys(cfg: CfgNode) -> None:
    # Training only. Large-scale jitter by a factor from (min, max), for instance (0.1, 2.0): the photo is
    # fitted into a square of factor x MAX_SIZE_TRAIN pixels, and of what is larger than MAX_SIZE_TRAIN a
    # random part is cropped. It takes the place of MIN_SIZE_TRAIN. () is off.
    cfg.INPUT.SCALE_JITTER = ()
    # Training only, with FORMAT "RGB". Largest change x, 0..1, of each: its factor is drawn from 1 - x to
    # 1 + x. 0 is off.
    cfg.INPUT.COLOR = CfgNode()
    cfg.INPUT.COLOR.BRIGHTNESS = 0.0
    cfg.INPUT.COLOR.CONTRAST = 0.0
    cfg.INPUT.COLOR.SATURATION = 0.0


def _add_reppoints_keys(cfg: CfgNode) -> None:
    # META_ARCHITECTURE "RepPoints" takes all else from MODEL.KGDET, but for AGGREGATION and FLIP_FUSION.
    cfg.MODEL.REPPOINTS = CfgNode()
    # Landmarks: "none"; "parallel", by a branch beside the points' (RepPoints-Kp); or "serial", with points
    # that are encoded from the landmarks as KGDet's are.
    cfg.MODEL.REPPOINTS.KEYPOINTS = "none"
    # From the second stage on, a cell whose box has an IoU with every garment below the first is background;
    # from the second one on it is the garment's; between them it is ignored.
    cfg.MODEL.REPPOINTS.IOU_THRESHOLDS = [0.4, 0.5]


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """The checked and frozen config of a yaml file and KEY VALUE overrides.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a key that does not exist, or values that contradict one another.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"config file {config_file!r} does not exist")
    cfg = get_cfg()
    add_kgdet_config(cfg)
    try:
        cfg.merge_from_file(config_file)
        cfg.merge_from_list(opts)
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"config {config_file!r} with {opts}: {error}") from error
    check_config(cfg)
    cfg.freeze()
    return cfg


def check_weights(cfg: CfgNode, *, required: bool) -> None:
    """Refuse a MODEL.WEIGHTS that names a local file which is not there, or none where one is ``required``.

    Raises:
        ValueError: no weights are named. FileNotFoundError: the named file does not exist.
    """
    weights = cfg.MODEL.WEIGHTS
    if not weights and required:
        raise ValueError("MODEL.WEIGHTS: expected the path of a checkpoint, got none")
    if weights and "://" not in weights and not Path(weights).is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS: {weights!r} does not exist")


def check_config(cfg: CfgNode) -> None:
    """Refuse values that contradict one another.

    Raises:
        ValueError: lists every contradiction found, by key, with what was expected and what was found.
    """
    problems = [*_solver_problems(cfg), *_input_problems(cfg)]
    if cfg.MODEL.META_ARCHITECTURE == "KGDet":
        problems += [*_head_problems(cfg), *_aggregation_problems(cfg)]
        problems += [*_loss_problems(cfg), *_landmark_problems(cfg), *_flip_fusion_problems(cfg)]
    if cfg.MODEL.META_ARCHITECTURE == "RepPoints":
        problems += [*_head_problems(cfg), *_aggregation_problems(cfg)]
        problems += [*_loss_problems(cfg), *_reppoints_problems(cfg)]
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
    for key, norm, channels in (
        ("MODEL.KGDET.CONV_DIM", kgdet.NORM, kgdet.CONV_DIM),
        ("MODEL.FPN.OUT_CHANNELS", cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.OUT_CHANNELS),
    ):
        if norm == "GN" and channels % 32:
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
    if loss.FOCAL_GAMMA != 0 and loss.FOCAL_GAMMA < 1:
        yield (
            "MODEL.KGDET.LOSS.FOCAL_GAMMA: expected 0 or at least 1, for between them the gradient is "
            f"infinite where a score reaches 1, got {loss.FOCAL_GAMMA}"
        )
    if loss.KEYPOINT_WEIGHTING not in KEYPOINT_WEIGHTINGS:
        yield (
            f"MODEL.KGDET.LOSS.KEYPOINT_WEIGHTING: expected {_any_of(KEYPOINT_WEIGHTINGS)}, "
            f"got {loss.KEYPOINT_WEIGHTING!r}"
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
