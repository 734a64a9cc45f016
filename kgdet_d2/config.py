"""Config keys that KGDet and its peers add to Detectron2's, their allowed values, and load_config."""

from collections.abc import Callable
from math import inf
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from kgdet_d2.config_checks import check_config
from kgdet_d2.config_files import find_config
from kgdet_d2.schema import register_under_a_name
from kgdet_d2.utils.catalog import AUTO, schema_of_config
from kgdet_d2.utils.modules import import_modules

# Allowed words of a key.
CHOICES = {
    "SOLVER.OPTIMIZER": ("SGD", "ADAMW"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "MODEL.LOSS_NORMALIZER": ("global", "local"),
    "MODEL.INFERENCE.PRECISION": ("float32", "bfloat16", "float16"),
    "MODEL.KGDET.AGGREGATION": ("encoding", "selection"),
    "MODEL.FPN.FINE_LEVEL": ("", "p2", "p3"),
    "MODEL.KGDET.STAGE_NORM": ("", "BN", "SyncBN"),
    "MODEL.KGDET.INIT": ("normal", "kaiming"),
    "MODEL.KGDET.LOSS.CLS_LOSS": ("focal", "quality"),
    "MODEL.KGDET.LOSS.BOX_LOSS": ("smooth_l1", "giou"),
    "MODEL.KGDET.LOSS.KEYPOINT_WEIGHTING": ("per_garment", "per_landmark"),
    "MODEL.KGDET.FLIP_FUSION.MODE": ("image", "feature"),
    "MODEL.KGDET.FLIP_FUSION.PERMUTATION": ("corrected", "released"),
    "MODEL.REPPOINTS.KEYPOINTS": ("none", "parallel", "serial"),
}
# Lowest and highest number of a key; of PRIOR_PROB and CENTER_SAMPLING_RADIUS these two are excluded.
RANGES = {
    "SOLVER.BACKBONE_LR_FACTOR": (0, inf),
    "SOLVER.EMA.DECAY": (0, 1),
    "DATALOADER.MAX_BAD_SHARE": (0, 1),
    "INPUT.COLOR.BRIGHTNESS": (0, 1),
    "INPUT.COLOR.CONTRAST": (0, 1),
    "INPUT.COLOR.SATURATION": (0, 1),
    "MODEL.KGDET.NUM_STAGES": (1, inf),
    "MODEL.KGDET.NUM_POSITIVES": (1, inf),
    "MODEL.KGDET.PRIOR_PROB": (0, 1),
    "MODEL.KGDET.POINTS_GRADIENT": (0, 1),
    "MODEL.KGDET.MOMENT_GRADIENT": (0, 1),
    "MODEL.KGDET.SCORE_THRESH_TEST": (0, 1),
    "MODEL.KGDET.NMS_THRESH_TEST": (0, 1),
    "MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST": (0, 1),
    "MODEL.KGDET.SPARSE_CELLS": (0, inf),
    "MODEL.KGDET.SPARSE_TRAINING": (0, inf),
    "MODEL.KGDET.REFINER.NUM_POSITIVES": (1, inf),
    "MODEL.KGDET.REFINER.KEYPOINT_WEIGHT": (0, inf),
    "MODEL.KGDET.REFINER.HEAT_WEIGHT": (0, inf),
    "MODEL.KGDET.REFINER.QUALITY_WEIGHT": (0, inf),
    "MODEL.KGDET.REFINER.VERIFICATION_WEIGHT": (0, inf),
    "MODEL.KGDET.REFINER.BOX_WEIGHT": (0, inf),
    "MODEL.RETINANET.NUM_CONVS": (1, inf),
    "MODEL.RETINANET.PRIOR_PROB": (0, 1),
    "MODEL.RETINANET.SCORE_THRESH_TEST": (0, 1),
    "MODEL.RETINANET.NMS_THRESH_TEST": (0, 1),
    "MODEL.FCOS.NUM_CONVS": (1, inf),
    "MODEL.FCOS.PRIOR_PROB": (0, 1),
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": (0, inf),
    "MODEL.FCOS.SCORE_THRESH_TEST": (0, 1),
    "MODEL.FCOS.NMS_THRESH_TEST": (0, 1),
}
# Keys of MODEL whose 0 stands for the data's number.
NUMBERS_OF_DATA = (
    "KGDET.NUM_CLASSES",
    "KGDET.NUM_KEYPOINTS",
    "FCOS.NUM_CLASSES",
    "RETINANET.NUM_CLASSES",
    "ROI_HEADS.NUM_CLASSES",
    "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
)


def add_kgdet_config(cfg: CfgNode) -> None:
    """Add KGDet's keys with their defaults: DeepFashion2 as the released model was trained."""
    _add_backbone_keys(cfg)
    _add_head_keys(cfg)
    _add_refiner_keys(cfg)
    _add_loss_keys(cfg)
    _add_normalizer_key(cfg)
    _add_flip_fusion_keys(cfg)
    _add_input_keys(cfg)
    _add_reppoints_keys(cfg)
    _add_match_rcnn_keys(cfg)
    _add_fcos_keys(cfg)
    _add_inference_keys(cfg)
    _add_solver_keys(cfg)


def _add_backbone_keys(cfg: CfgNode) -> None:
    # The network of BACKBONE.NAME "build_timm_lean_fpn_backbone", by its name in timm. docs/BACKBONES.md has
    # a table; "kgdet fetch-backbone" fetches weights and prints the keys that they need.
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "mobilenetv2_100"
    # Keep the running statistics of every BatchNorm in the network as they are; weights and biases are
    # learnt. (MODEL.RESNETS.NORM "FrozenBN" would fix both.) For backbones named build_*_lean_fpn_backbone.
    cfg.MODEL.BACKBONE.FIXED_BN_STATS = False
    # Pyramid levels that the head takes: consecutive ones of p2..p7, strides 4..128 pixels.
    # The released model uses p5 alone, the paper's text p5-p7.
    cfg.MODEL.FPN.OUT_FEATURES = ["p5"]
    # Build and compute all of p3..p7 whatever OUT_FEATURES are, as the release does. Outputs are the same;
    # the parameters that reach none of them (6,884,352 with p5 alone) count but are never updated.
    cfg.MODEL.FPN.FULL = False
    # What p6 is made of: "res5"; or "p5", with a ReLU between p6 and p7 (FCOS).
    cfg.MODEL.FPN.EXTRAS_FROM = "res5"
    # A narrow map of the stride of "p2" (4 pixels; RESNETS.OUT_FEATURES needs res2 then) or "p3" (8), for
    # MODEL.KGDET.REFINER, and its channels. "" for none.
    cfg.MODEL.FPN.FINE_LEVEL = ""
    cfg.MODEL.FPN.FINE_CHANNELS = 64


def _add_head_keys(cfg: CfgNode) -> None:
    cfg.MODEL.KGDET = CfgNode()
    kgdet = cfg.MODEL.KGDET
    # The classes and landmarks of every system. "auto": those of the first of DATASETS.TRAIN; load_config
    # replaces it by the name of their schema: "deepfashion2", "fld" or one's own. All of DATASETS must have
    # them.
    kgdet.SCHEMA = AUTO
    # C, garment classes (without background), and K, landmark slots of all classes together. 0: the schema's,
    # as in the numbers of classes and landmarks of all systems; any other number than that is refused.
    kgdet.NUM_CLASSES = 0
    kgdet.NUM_KEYPOINTS = 0
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
    # Beyond the paper: normalisation of the stages' features, "" for none (the release), "BN" or "SyncBN";
    # and how the layers that compute features start, "normal" (the release: 0.01) or "kaiming".
    kgdet.STAGE_NORM = ""
    kgdet.INIT = "normal"
    # Score of every class, and visibility of every landmark, at every location before training, 0..1.
    kgdet.PRIOR_PROB = 0.01
    # Share of the gradient that flows from an aggregation back into the points it samples at, and from the
    # boxes into the two scales of the moment transform (lambda_x, lambda_y).
    kgdet.POINTS_GRADIENT = 0.1
    kgdet.MOMENT_GRADIENT = 0.01
    # k, locations nearest to a garment's centre that are its positives: 25 in the release, 9 in the paper.
    kgdet.NUM_POSITIVES = 25
    # Inference: detections score above it; candidates per level, best scores first; IoU above which, within a
    # class, the lower score is suppressed. TEST.DETECTIONS_PER_IMAGE limits what is left.
    kgdet.SCORE_THRESH_TEST = 0.05
    kgdet.TOPK_CANDIDATES_TEST = 1000
    kgdet.NMS_THRESH_TEST = 0.5
    # Inference, beyond the paper: the same over all classes, so that a garment has one name. 1: no such
    # limit. AP counts a garment's second names, too, and is lower without them.
    kgdet.CLASS_AGNOSTIC_NMS_THRESH_TEST = 1.0
    # Inference: stages after the first are computed at so many locations of an image, those that the first
    # one scores best, and there alone are detections. 0: at all locations.
    kgdet.SPARSE_CELLS = 0
    # Training, beyond the paper: stages after the first are computed at the positives and at so many of the
    # other locations of an image, those that the first one scores best. 0: at all locations.
    kgdet.SPARSE_TRAINING = 0


def _add_refiner_keys(cfg: CfgNode) -> None:
    # Beyond the paper: keypoints of the detections are located again on MODEL.FPN.FINE_LEVEL, in windows
    # around where the cascade has put them.
    cfg.MODEL.KGDET.REFINER = CfgNode()
    refiner = cfg.MODEL.KGDET.REFINER
    refiner.ENABLED = False
    # Landmarks of one name share their heat map, whatever their class. False: a heat map for each of the K.
    refiner.SHARED = True
    # Width of the layers that a garment's landmarks exchange what they found by, and of their features.
    refiner.CHANNELS = 64
    # Positions on a window's side, odd; and in each round how far they are apart, in square roots of the
    # box's area.
    refiner.WINDOW = 9
    refiner.SPACINGS = [0.06, 0.03]
    # Training: locations of each garment, drawn from its positives, whose keypoints are refined.
    refiner.NUM_POSITIVES = 3
    # Factors of the losses in each round: of the distance from the truth, in square roots of the garment's
    # area, of the heat in the window (cross-entropy), and of the landmarks' predicted similarity (OKS), by
    # which they are scored and ranked; 0: they have the detection's score.
    refiner.KEYPOINT_WEIGHT = 5.0
    refiner.HEAT_WEIGHT = 0.1
    refiner.QUALITY_WEIGHT = 0.1
    # Factor of verification: from a garment's keypoints, refined as of a class, whether it is of that class;
    # this then counts as much as the class's score. 0 for none.
    refiner.VERIFICATION_WEIGHT = 0.0
    # Factor of the loss (GIoU) of boxes that are refined by their keypoints' extents. 0: they stay as they
    # are.
    refiner.BOX_WEIGHT = 0.0


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
    # Beyond the paper. Classification: "focal", or "quality", whose target is the IoU of the location's own
    # box (then FOCAL_GAMMA is its exponent). Boxes: "smooth_l1" or "giou".
    loss.CLS_LOSS = "focal"
    loss.BOX_LOSS = "smooth_l1"
    # Focal loss of classification and of visibility.
    loss.FOCAL_ALPHA = 0.25
    loss.FOCAL_GAMMA = 2.0
    # Where smooth L1 turns linear, in units of 4 strides.
    loss.SMOOTH_L1_BETA = 1 / 9


def _add_normalizer_key(cfg: CfgNode) -> None:
    # What the losses of every system are divided by in data-parallel training: the number of positives in the
    # "global" batch, so that several processes learn what one would; or each process's own, "local", as the
    # release does. With one process there is no difference.
    cfg.MODEL.LOSS_NORMALIZER = "global"


def _add_flip_fusion_keys(cfg: CfgNode) -> None:
    cfg.MODEL.KGDET.FLIP_FUSION = CfgNode()
    flip = cfg.MODEL.KGDET.FLIP_FUSION
    # Average what the network predicts for an image and for its mirror image ("flip" in Table 4): at
    # inference, and in training too. The second pass costs as much as the first.
    flip.ENABLED = False
    flip.IN_TRAINING = False
    # Input of the second pass: the mirrored "image" (paper; the whole network runs twice) or mirrored
    # "feature" maps (release; the head runs twice).
    flip.MODE = "image"
    # Left and right landmarks: "corrected", the schema's, or "released", with the release's wrong pairs in
    # short sleeve outwear (DeepFashion2 only).
    flip.PERMUTATION = "corrected"


def _add_input_keys(cfg: CfgNode) -> None:
    # Modules of one's own that register datasets, by name; they are imported before a dataset is asked for.
    cfg.DATASETS.IMPORT = []
    # Share of the training photos that may be unreadable, 0..1: others take their places. Beyond it training
    # stops.
    cfg.DATALOADER.MAX_BAD_SHARE = 0.01
    # Lay what is transparent in a photo on white, as cut-out garments of shops are meant. False: take the
    # colours that the file has under it, as Detectron2 does.
    cfg.INPUT.ALPHA_ON_WHITE = False
    # Training only. Large-scale jitter by a factor from (min, max), for instance (0.1, 2.0): the image is
    # fitted into a square of factor x MAX_SIZE_TRAIN pixels, and from an image larger than MAX_SIZE_TRAIN a
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
    # From the second stage on, a location whose box has an IoU below the first number with every garment is
    # background; with an IoU of at least the second number it is the garment's; between them it is ignored.
    cfg.MODEL.REPPOINTS.IOU_THRESHOLDS = [0.4, 0.5]


def _add_match_rcnn_keys(cfg: CfgNode) -> None:
    # The matching network of META_ARCHITECTURE "MatchRCNN", which has ROI_HEADS.NAME "MatchRCNNHeads".
    cfg.MODEL.MATCHING = CfgNode()
    matching = cfg.MODEL.MATCHING
    # Train with all losses jointly (the paper). Otherwise the matching network alone is trained, and the
    # detector stays as it is in WEIGHTS.
    matching.TRAIN_DETECTOR = False
    # Side of the pooled features in cells; output channels of each convolution; D, numbers of an embedding.
    matching.POOLER_RESOLUTION = 14
    matching.CONV_DIMS = [256, 256, 256, 1024]
    matching.EMBEDDING_DIM = 256
    # Factor of the loss, lambda_5 in the paper, which gives no value.
    matching.LOSS_WEIGHT = 1.0


def _add_fcos_keys(cfg: CfgNode) -> None:
    # META_ARCHITECTURE "FCOS". A key with a namesake in Detectron2's MODEL.RETINANET means the same.
    cfg.MODEL.FCOS = CfgNode()
    fcos = cfg.MODEL.FCOS
    # 0: as many as the data has.
    fcos.NUM_CLASSES = 0
    # Convolutions in each of the two towers, and their normalisation.
    fcos.NUM_CONVS = 4
    fcos.NORM = "GN"
    fcos.PRIOR_PROB = 0.01
    # A location in a garment is its positive if it lies less than so many strides, in x and in y, from its
    # centre.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    # A detection's score is the square root of its class's times its centerness.
    fcos.SCORE_THRESH_TEST = 0.2
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6


def _add_inference_keys(cfg: CfgNode) -> None:
    # How kgdet_d2.modeling.optimize_for_inference changes a trained model of any architecture. Without effect
    # in training.
    cfg.MODEL.INFERENCE = CfgNode()
    inference = cfg.MODEL.INFERENCE
    # Fold BatchNorm, frozen or not, into the convolutions before it.
    inference.FUSE_BN = False
    # Memory format of the convolutions' weights and maps.
    inference.CHANNELS_LAST = False
    # The layers' precision: "float32", "bfloat16" or, on CUDA alone, "float16" (autocast). Points, boxes and
    # scores are float32.
    inference.PRECISION = "float32"
    # torch.compile of backbone and towers, on CUDA with CUDA graphs. The first image then takes a minute.
    inference.COMPILE = False
    # On CPU, with glibc: memory that tensors free stays with the process, for all that runs in it.
    inference.KEEP_MEMORY = False


def _add_solver_keys(cfg: CfgNode) -> None:
    # "SGD" (the paper's) or "ADAMW", with SOLVER's learning rates, weight decays and schedule.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Factor of the learning rates of the backbone's network below the pyramid (backbone.bottom_up).
    cfg.SOLVER.BACKBONE_LR_FACTOR = 1.0
    # Exponential moving average of weights and buffers. It is evaluated in place of the weights that learn,
    # and it is the model of checkpoints. DECAY is the average's share in its next value, 0..1; at first it is
    # smaller: (1 + t) / (10 + t) after t iterations.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999


def load_config(config_file: str, opts: list[str]) -> CfgNode:
    """Read a yaml file and KEY VALUE overrides into a checked and frozen config.

    The modules of ``DATASETS.IMPORT`` are imported, which may register datasets. The "auto" of
    ``MODEL.KGDET.SCHEMA`` and numbers of classes and landmarks that are 0 become those of the data.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a key, schema, dataset or module that does not exist, or values that contradict one
            another.
    """
    config_file = str(find_config(config_file))
    return _made_config(lambda cfg: cfg.merge_from_file(config_file), opts, f"config {config_file!r}")


def config_from_text(text: str, opts: list[str]) -> CfgNode:
    """Make a config of what ``CfgNode.dump`` returned and KEY VALUE overrides, as :func:`load_config` does.

    Of modules only those that the overrides name are imported: the text may come from anywhere.

    Raises:
        ValueError: as there.
    """

    def merge(cfg: CfgNode) -> None:
        cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
        cfg.DATASETS.IMPORT = []

    return _made_config(merge, opts, "config")


def _made_config(merge: Callable[[CfgNode], None], opts: list[str], what: str) -> CfgNode:
    """Merge values and overrides into the defaults, and check the config."""
    cfg = get_cfg()
    add_kgdet_config(cfg)
    try:
        merge(cfg)
        cfg.merge_from_list(opts)
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"{what} with {opts}: {error}") from error
    import_modules(cfg.DATASETS.IMPORT, "DATASETS.IMPORT")
    _follow_data(cfg)
    check_config(cfg, CHOICES, RANGES)
    cfg.freeze()
    return cfg


def _is_ours(cfg: CfgNode) -> bool:
    """Return whether a part of the system is this package's."""
    return (
        cfg.MODEL.META_ARCHITECTURE in ("KGDet", "RepPoints", "FCOS", "FashionRetinaNet", "MatchRCNN")
        or cfg.MODEL.BACKBONE.NAME.endswith("lean_fpn_backbone")
        or cfg.MODEL.ROI_KEYPOINT_HEAD.NAME == "GarmentKeypointHead"
    )


def _follow_data(cfg: CfgNode) -> None:
    """Replace "auto" and the zeros of ``NUMBERS_OF_DATA`` by the data's schema and its numbers.

    Not in the config of a system of Detectron2's own, whose data may have no landmarks.
    """
    if not _is_ours(cfg):
        return
    try:
        schema = schema_of_config(cfg)
    except ValueError as error:
        key = "DATASETS" if cfg.MODEL.KGDET.SCHEMA == AUTO else "MODEL.KGDET.SCHEMA"
        raise ValueError(f"config: {key}: {error}") from error
    cfg.MODEL.KGDET.SCHEMA = register_under_a_name(schema)
    for key in NUMBERS_OF_DATA:
        node, name = key.split(".")
        number = schema.num_classes if name == "NUM_CLASSES" else schema.num_keypoints
        cfg.MODEL[node][name] = cfg.MODEL[node][name] or number


def check_weights(cfg: CfgNode, *, required: bool) -> None:
    """Refuse a MODEL.WEIGHTS that names a missing local file, or none where weights are ``required``.

    Raises:
        ValueError: no weights are named.
        FileNotFoundError: the named file does not exist.
    """
    weights = cfg.MODEL.WEIGHTS
    if not weights and required:
        raise ValueError("MODEL.WEIGHTS: expected the path of a checkpoint, got none")
    if weights and "://" not in weights and not Path(weights).is_file():
        is_backbone = Path(weights).stem == cfg.MODEL.TIMM.NAME
        hint = f"; fetch it with: kgdet fetch-backbone {cfg.MODEL.TIMM.NAME}" if is_backbone else ""
        raise FileNotFoundError(f"MODEL.WEIGHTS: {weights!r} does not exist{hint}")
