"""Shipped configs are the papers', contradictions are refused, and numbers follow from the schema."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import kgdet_d2.config
import kgdet_d2.config_checks
from kgdet_d2.config import CHOICES, RANGES, add_kgdet_config, check_weights, load_config
from kgdet_d2.config_checks import get_value
from kgdet_d2.modeling.meta_arch import KGDet
from kgdet_d2.schema import DEEPFASHION2, FLD, register_schema

R50 = "configs/kgdet_R50.yaml"
EXPERIMENTS = sorted(path for path in Path("configs").rglob("*.yaml") if not path.name.startswith("Base-"))
SPARSE = ["MODEL.KGDET.SPARSE_CELLS", "100"]
CROP = ["INPUT.CROP.ENABLED", "True"]
# Rows of the paper's tables: columns, stages, depth, levels, flip, millions of trainable parameters. These
# are Table 1's with three columns and stages, and else worked out layer by layer from the released system's.
PAPER = {
    "table4_0": ([9], 2, 50, "P5-P7", False, 37.514120),
    "table4_1": ([25], 2, 50, "P5-P7", False, 39.648968),
    "table4_2": ([49], 2, 50, "P5-P7", False, 42.851240),
    "table4_3": ([9, 25, 49], 2, 50, "P5-P7", False, 47.695504),
    "table4_4": ([9, 25, 49], 3, 50, "P5-P7", False, 59.134423),
    "table4_4_unsupervised": ([9, 25, 49], 3, 50, "P5-P7", False, 59.134423),
    "table4_5": ([9, 25, 49], 3, 101, "P5-P7", False, 78.126551),
    "table4_6": ([9, 25, 49], 3, 50, "P5-P7", True, 59.134423),
    "table4_7": ([9, 25, 49], 3, 50, "P4-P7", True, 59.134423),
    "table2_encoding": ([9], 3, 50, "P5-P7", False, 38.858827),
    # In each stage 256 x 294 + 294 of the classifier instead of 588 x 18 + 18 of the encoding.
    "table2_selection": ([9], 3, 50, "P5-P7", False, 38.858827 + 3 * (0.075558 - 0.010602)),
}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_every_config_loads_and_an_experiment_is_short(path):
    load_config(str(path), [])
    settings = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(settings) <= 15 or {"sample", "beyond"} & set(path.parts)  # other models, not other settings


def test_paper_and_release_differ_where_they_do():
    released, paper = (load_config(path, []) for path in (R50, "configs/kgdet_R50_P5-P7.yaml"))
    assert (released.MODEL.FPN.OUT_FEATURES, paper.MODEL.FPN.OUT_FEATURES) == (["p5"], ["p5", "p6", "p7"])
    assert (released.MODEL.KGDET.NUM_POSITIVES, paper.MODEL.KGDET.NUM_POSITIVES) == (25, 9)
    assert paper.MODEL.KGDET.LOSS.KEYPOINT_WEIGHT == 0.1


def test_every_ablation_is_a_row_of_the_paper():
    assert {path.stem for path in Path("configs/ablations").iterdir()} == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_ablation_is_what_the_paper_s_table_says(name):
    columns, stages, depth, levels, flip, millions = PAPER[name]
    cfg = load_config(f"configs/ablations/{name}.yaml", ["MODEL.DEVICE", "meta", "MODEL.FPN.FULL", True])
    kgdet = cfg.MODEL.KGDET
    assert cfg.MODEL.FPN.OUT_FEATURES == [f"p{level}" for level in range(int(levels[1]), 8)]
    assert (kgdet.COLUMNS, kgdet.NUM_STAGES, cfg.MODEL.RESNETS.DEPTH) == (columns, stages, depth)
    assert (kgdet.FLIP_FUSION.ENABLED, kgdet.FLIP_FUSION.IN_TRAINING) == (flip, flip)
    assert kgdet.FLIP_FUSION.MODE == "image"
    assert kgdet.NUM_POSITIVES == 9
    assert kgdet.AGGREGATION == ("selection" if "selection" in name else "encoding")
    assert kgdet.LOSS.STAGE_WEIGHTS == [1.0] * stages
    assert kgdet.LOSS.KEYPOINT_WEIGHTING == "per_landmark"
    assert kgdet.LOSS.KEYPOINT_WEIGHT == (0.0 if "unsupervised" in name else 0.1)
    assert cfg.OUTPUT_DIR.endswith(name)
    with torch.device("meta"):
        model = KGDet(cfg)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == round(millions * 1e6)


def test_FLD_is_the_paper_s_system_but_for_classes_landmarks_and_schedule():
    """Table 3. Twelve epochs of 83,033 photos; layers smaller by 10 classes and 286 landmarks."""
    paper = load_config("configs/kgdet_R50_P5-P7.yaml", [])
    cfg = load_config("configs/fld/kgdet_R50.yaml", ["MODEL.DEVICE", "meta", "MODEL.FPN.FULL", True])
    epoch = 83033 // cfg.SOLVER.IMS_PER_BATCH
    assert (cfg.SOLVER.MAX_ITER, *cfg.SOLVER.STEPS) == (12 * epoch, 8 * epoch, 11 * epoch)
    assert len(FLD.class_names) == cfg.MODEL.KGDET.NUM_CLASSES
    assert FLD.num_keypoints == cfg.MODEL.KGDET.NUM_KEYPOINTS
    with torch.device("meta"):
        model = KGDet(cfg)
    # Weights and a bias of 1x1 convolutions: 256 channels in the first stage, 768 in the others; 166 numbers
    # of informative points out of two of each landmark.
    less = (10 + 2 * 286) * (256 + 1 + 2 * (768 + 1)) + 3 * 2 * 286 * 166
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 59_134_423 - less

    for part in (cfg, paper):
        for key in ("MAX_ITER", "STEPS", "CHECKPOINT_PERIOD"):
            del part.SOLVER[key]
    assert (cfg.INPUT, cfg.SOLVER) == (paper.INPUT, paper.SOLVER)
    assert (cfg.MODEL.FPN.OUT_FEATURES, cfg.MODEL.KGDET.LOSS) == (
        paper.MODEL.FPN.OUT_FEATURES,
        paper.MODEL.KGDET.LOSS,
    )


def test_R101_is_the_released_system_but_for_its_backbone():
    small, large = (load_config(path, []) for path in (R50, "configs/kgdet_R101.yaml"))
    large = large.clone()
    large.defrost()
    large.merge_from_list(["MODEL.RESNETS.DEPTH", 50, "MODEL.WEIGHTS", small.MODEL.WEIGHTS])
    large.OUTPUT_DIR = small.OUTPUT_DIR
    assert large == small


REFINER = ["MODEL.KGDET.REFINER.ENABLED", "True", "MODEL.FPN.FINE_LEVEL", "p3"]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.KGDET.COLUMN", "[9]"], "COLUMN"),
        (["MODEL.KGDET.COLUMNS", "[9, 16]"], r"COLUMNS: expected some of \[9, 25, 49.*got \[9, 16\]"),
        (["MODEL.KGDET.COLUMNS", "[]"], "COLUMNS"),
        (["MODEL.KGDET.AGGREGATION", "sum"], "AGGREGATION: expected 'encoding' or 'selection', got 'sum'"),
        (["MODEL.KGDET.AGGREGATION", "selection"], r"COLUMNS: expected with .* one number.*\[9, 25, 49\]"),
        (
            [
                *("MODEL.KGDET.AGGREGATION", "selection", "MODEL.KGDET.COLUMNS", "[9]"),
                *("MODEL.KGDET.SCHEMA", "fld"),
            ],
            r"COLUMNS: expected with .* at most MODEL.KGDET.NUM_KEYPOINTS = 8, got \[9\]",
        ),
        (["MODEL.KGDET.NUM_STAGES", "2"], r"STAGE_WEIGHTS: expected .*NUM_STAGES = 2 numbers, got \[0.5"),
        (
            ["MODEL.KGDET.NUM_STAGES", "0", "MODEL.KGDET.LOSS.STAGE_WEIGHTS", "[]"],
            "NUM_STAGES: expected at least",
        ),
        (["MODEL.KGDET.NUM_POSITIVES", "0"], "NUM_POSITIVES: expected at least 1, got 0"),
        (["MODEL.KGDET.POINTS_GRADIENT", "1.5"], "POINTS_GRADIENT: expected 0..1, got 1.5"),
        (["MODEL.KGDET.SCORE_THRESH_TEST", "-1.0"], "SCORE_THRESH_TEST: expected 0..1, got -1"),
        (["MODEL.KGDET.SPARSE_CELLS", "-1"], "SPARSE_CELLS: expected at least 0, got -1"),
        ([*SPARSE, "MODEL.KGDET.NUM_STAGES", "1"], "SPARSE_CELLS: expected 0 with one stage, .* got 100"),
        (
            [*SPARSE, "MODEL.KGDET.FLIP_FUSION.ENABLED", "True"],
            "SPARSE_CELLS: expected 0 with FLIP_FUSION, .* got 100",
        ),
        (
            ["MODEL.KGDET.CONV_DIM", "40"],
            "CONV_DIM: expected a multiple of GroupNorm's 32 groups, got 40",
        ),
        (
            ["MODEL.KGDET.LOSS.KEYPOINT_WEIGHTING", "mean"],
            "expected 'per_garment' or 'per_landmark', got 'mean'",
        ),
        (["MODEL.KGDET.LOSS.FOCAL_GAMMA", "0.5"], "FOCAL_GAMMA: expected 0 or at least 1"),
        (["MODEL.KEYPOINT_ON", "False"], "KEYPOINT_ON: expected True"),
        (["MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", "1"], "MIN_KEYPOINTS_PER_IMAGE: expected 0"),
        (
            ["TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.2]"],
            "KEYPOINT_OKS_SIGMAS: expected none .* 294 numbers, got 2",
        ),
        (["SOLVER.MAX_ITER", "1000"], r"SOLVER.STEPS: expected steps below SOLVER.MAX_ITER = 1000"),
        (["SOLVER.EMA.DECAY", "1.5"], r"SOLVER.EMA.DECAY: expected 0..1, got 1.5"),
        (["SOLVER.BACKBONE_LR_FACTOR", "-1.0"], r"BACKBONE_LR_FACTOR: expected at least 0, got -1.0"),
        (
            ["SOLVER.EMA.ENABLED", "True", "TEST.PRECISE_BN.ENABLED", "True"],
            r"TEST.PRECISE_BN.ENABLED: expected False with SOLVER.EMA",
        ),
        (["MODEL.KGDET.NUM_STAGES"], "kgdet_R50"),
        (
            ["MODEL.INFERENCE.PRECISION", "half"],
            "INFERENCE.PRECISION: expected 'float32' or 'bfloat16' or 'float16', got 'half'",
        ),
        (["INPUT.SCALE_JITTER", "(2.0, 0.1)"], r"SCALE_JITTER: expected .* rising .* got \(2.0, 0.1\)"),
        (["INPUT.SCALE_JITTER", "(0.5,)"], r"SCALE_JITTER: expected \(\) or two"),
        (["INPUT.COLOR.CONTRAST", "1.5"], r"COLOR.CONTRAST: expected 0..1, got 1.5"),
        (
            ["INPUT.COLOR.SATURATION", "0.2", "INPUT.FORMAT", "BGR"],
            r"INPUT.FORMAT: expected 'RGB', .*COLOR .*'BGR'",
        ),
        (["INPUT.RANDOM_FLIP", "both"], "RANDOM_FLIP: expected 'horizontal' or .* got 'both'"),
        ([*CROP, "INPUT.CROP.TYPE", "random"], "CROP.TYPE: expected 'relative_range' or .* got 'random'"),
        ([*CROP, "INPUT.CROP.SIZE", "[0.5, 1.5]"], r"CROP.SIZE: expected two shares .*relative_range.*1.5\]"),
        ([*CROP, "INPUT.CROP.TYPE", "absolute"], r"CROP.SIZE: expected two whole numbers .*\[0.9, 0.9\]"),
        (
            [*CROP, "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", "[600, 400]"],
            r"CROP.SIZE: expected .*\(min, max\).*\[600, 400\]",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradictions_are_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(R50, opts)


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("reppoints", ["MODEL.REPPOINTS.KEYPOINTS", "both"], "KEYPOINTS: expected 'none' or .* got 'both'"),
        ("reppoints", ["MODEL.KEYPOINT_ON", "True"], "KEYPOINT_ON: expected False .* got True"),
        ("reppoints_kp", ["MODEL.KEYPOINT_ON", "False"], "KEYPOINT_ON: expected True, .* got False"),
        ("reppoints_kp", ["TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"], "KEYPOINT_OKS_SIGMAS: .* 294 numbers, got 1"),
        ("reppoints", ["MODEL.REPPOINTS.IOU_THRESHOLDS", "[0.5, 0.4]"], r"IOU_THRES.* rising .*0.5, 0.4"),
        ("reppoints", ["MODEL.REPPOINTS.IOU_THRESHOLDS", "[0.0, 0.5]"], "IOU_THRES.* above 0"),
        ("reppoints", ["MODEL.REPPOINTS.IOU_THRESHOLDS", "[0.5]"], "IOU_THRES.* two"),
        (
            "reppoints",
            ["MODEL.KGDET.NUM_STAGES", "1", "MODEL.KGDET.LOSS.STAGE_WEIGHTS", "[1.0]"],
            "NUM_STAGES: expected at least 2, .* got 1",
        ),
        ("reppoints", ["MODEL.KGDET.LOSS.STAGE_WEIGHTS", "[1.0]"], "STAGE_WEIGHTS: expected .* = 2 numbers"),
        ("reppoints", ["MODEL.KGDET.AGGREGATION", "selection"], "AGGREGATION: expected 'encoding'"),
        ("reppoints", ["MODEL.KGDET.FLIP_FUSION.ENABLED", "True"], "FLIP_FUSION.ENABLED: expected False"),
        ("reppoints", SPARSE, "SPARSE_CELLS: expected 0 with RepPoints, .* got 100"),
        ("reppoints", ["MODEL.KGDET.COLUMNS", "[10]"], r"COLUMNS: expected some of .* got \[10\]"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradictions_of_RepPoints_are_refused(name, opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(f"configs/{name}_R50.yaml", opts)


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("retinanet", ["MODEL.KEYPOINT_ON", "True"], "KEYPOINT_ON: expected False, .* boxes alone, got True"),
        ("fcos", ["MODEL.KEYPOINT_ON", "True"], "KEYPOINT_ON: expected False, .* boxes alone, got True"),
        ("retinanet", ["MODEL.RETINANET.NUM_CONVS", "0"], "RETINANET.NUM_CONVS: expected at least 1, got 0"),
        ("fcos", ["MODEL.FCOS.NUM_CONVS", "0"], "FCOS.NUM_CONVS: expected at least 1, got 0"),
        ("fcos", ["MODEL.FCOS.PRIOR_PROB", "1.0"], "FCOS.PRIOR_PROB: expected .* between 0 and 1, got 1.0"),
        ("fcos", ["MODEL.FCOS.NMS_THRESH_TEST", "60.0"], "FCOS.NMS_THRESH_TEST: expected 0..1, got 60"),
        ("fcos", ["MODEL.FCOS.FOCAL_LOSS_GAMMA", "0.5"], "FCOS.FOCAL_LOSS_GAMMA: expected 0 or at least 1"),
        ("fcos", ["MODEL.FCOS.CENTER_SAMPLING_RADIUS", "0.0"], "RADIUS: expected a number above 0, got 0.0"),
        ("fcos", ["MODEL.FPN.OUT_CHANNELS", "40"], "OUT_CHANNELS: expected a multiple of .* got 40"),
        (
            "retinanet",
            ["MODEL.FPN.OUT_FEATURES", "['p3', 'p4']"],
            r"IN_FEATURES: expected MODEL.FPN.OUT_FEATURES = \['p3', 'p4'\], got \['p3', 'p4', 'p5', 'p6'",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradictions_of_Detectron2_s_dense_detectors_are_refused(name, opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(f"configs/{name}_R50.yaml", opts)


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("name", ["retinanet", "fcos", "reppoints"])
def test_a_system_is_trained_as_the_released_KGDet_is(name, depth):
    """Input, backbone, schedule and data alike; of the neck all levels, and no landmarks."""
    kgdet, other = (load_config(f"configs/{each}_R{depth}.yaml", []) for each in ("kgdet", name))
    for part in ("INPUT", "SOLVER", "DATASETS", "TEST"):
        assert other[part] == kgdet[part]
    for part in ("WEIGHTS", "BACKBONE", "RESNETS", "PIXEL_MEAN", "PIXEL_STD"):
        assert other.MODEL[part] == kgdet.MODEL[part]
    assert other.MODEL.FPN.OUT_FEATURES == ["p3", "p4", "p5", "p6", "p7"]
    assert not other.MODEL.KEYPOINT_ON


@pytest.mark.parametrize("name", ["retinanet", "fcos", "reppoints", "reppoints_kp"])
def test_on_FLD_a_system_is_the_same_but_for_classes_landmarks_and_schedule(name):
    """Table 3. The schedule is KGDet's there."""
    schedule = load_config("configs/fld/kgdet_R50.yaml", [])
    fld, other = (load_config(f"configs/{folder}{name}_R50.yaml", []).clone() for folder in ("fld/", ""))
    fld.defrost()
    for part in ("SOLVER", "DATASETS", "TEST"):
        assert fld[part] == schedule[part]
        fld[part] = other[part]
    node = name.upper() if name in ("retinanet", "fcos") else "KGDET"
    assert fld.MODEL[node].NUM_CLASSES == len(FLD.class_names)
    if name == "reppoints_kp":
        assert fld.MODEL.KGDET.NUM_KEYPOINTS == FLD.num_keypoints
    assert (fld.MODEL.KGDET.SCHEMA, other.MODEL.KGDET.SCHEMA) == ("fld", "deepfashion2")
    for key in ("SCHEMA", "NUM_CLASSES", "NUM_KEYPOINTS"):
        fld.MODEL.KGDET[key] = other.MODEL.KGDET[key]
    for node in ("RETINANET", "FCOS"):
        fld.MODEL[node].NUM_CLASSES = other.MODEL[node].NUM_CLASSES
    fld.OUTPUT_DIR = other.OUTPUT_DIR
    assert fld == other


def test_RetinaNet_has_its_paper_s_anchors():
    """Lin et al., section 4: sides of 32 to 512, each at 2^0, 2^(1/3) and 2^(2/3) of it, in three shapes."""
    for config, levels in (("retinanet_R50", 5), ("sample/retinanet_tiny", 3)):
        generator = load_config(f"configs/{config}.yaml", []).MODEL.ANCHOR_GENERATOR
        expected = [[2 ** (5 + level + third / 3) for third in range(3)] for level in range(levels)]
        for found, sizes in zip(generator.SIZES, expected, strict=True):
            assert found == pytest.approx(sizes, rel=2e-4)
        assert generator.ASPECT_RATIOS == [[0.5, 1.0, 2.0]]


@pytest.mark.parametrize("depth", [50, 101])
def test_RepPoints_Kp_is_RepPoints_with_landmarks(depth):
    reppoints, with_keypoints = (
        load_config(f"configs/{name}_R{depth}.yaml", []).clone() for name in ("reppoints", "reppoints_kp")
    )
    assert (reppoints.MODEL.REPPOINTS.KEYPOINTS, reppoints.MODEL.KEYPOINT_ON) == ("none", False)
    assert (with_keypoints.MODEL.REPPOINTS.KEYPOINTS, with_keypoints.MODEL.KEYPOINT_ON) == ("parallel", True)
    with_keypoints.defrost()
    with_keypoints.merge_from_list(["MODEL.REPPOINTS.KEYPOINTS", "none", "MODEL.KEYPOINT_ON", False])
    with_keypoints.OUTPUT_DIR = reppoints.OUTPUT_DIR
    assert with_keypoints == reppoints


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("match_rcnn_R50", ["MODEL.META_ARCHITECTURE", "MatchRCNN"], "NAME: .* got 'FashionROIHeads'"),
        (
            "match_rcnn_R50_matching",
            ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"],
            "got 'MatchRCNNHeads' with 'GeneralizedRCNN'",
        ),
        (
            "match_rcnn_R50_matching",
            ["SOLVER.IMS_PER_BATCH", "15"],
            "IMS_PER_BATCH: expected pairs of images, got 15",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradictions_of_Match_RCNN_are_refused(name, opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(f"configs/{name}.yaml", opts)


def test_Match_RCNN_has_the_paper_s_heads():
    """Eight convolutions of 512 to 294 maps of 56 x 56; four convolutions to 1024, an embedding of 256."""
    model = build_model(load_config("configs/match_rcnn_R50_matching.yaml", ["MODEL.DEVICE", "meta"]))
    heads = model.roi_heads
    assert (heads.keypoint_pooler.output_size, heads.mask_pooler.output_size) == ((14, 14), (14, 14))
    maps = heads.keypoint_head.layers(torch.zeros(2, 256, 14, 14, device="meta"))
    assert maps.shape == (2, 294, 56, 56)
    counts = {
        "keypoint_head": (256 + 7 * 512) * 9 * 512 + 8 * 512 + 512 * 16 * 294 + 294,
        "matching_head": (3 * 256 + 1024) * (9 * 256 + 1) + 1025 * 256 + 2 * 256 + 257 * 2,
    }
    for name, count in counts.items():
        assert sum(p.numel() for p in getattr(heads, name).parameters()) == count


SYSTEMS = {
    "kgdet_R50": {"KGDET.NUM_CLASSES": 13, "KGDET.NUM_KEYPOINTS": 294},
    "reppoints_R50": {"KGDET.NUM_CLASSES": 13, "KGDET.NUM_KEYPOINTS": 294},
    "reppoints_kp_R50": {"KGDET.NUM_CLASSES": 13, "KGDET.NUM_KEYPOINTS": 294},
    "fcos_R50": {"FCOS.NUM_CLASSES": 13},
    "retinanet_R50": {"RETINANET.NUM_CLASSES": 13},
    "match_rcnn_R50": {"ROI_HEADS.NUM_CLASSES": 13, "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 294},
    "match_rcnn_R50_matching": {"ROI_HEADS.NUM_CLASSES": 13, "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 294},
    "fld/kgdet_R50": {"KGDET.NUM_CLASSES": 3, "KGDET.NUM_KEYPOINTS": 8},
    "fld/match_rcnn_R50": {"ROI_HEADS.NUM_CLASSES": 3, "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 8},
    "fld/retinanet_R50": {"RETINANET.NUM_CLASSES": 3},
    "fld/fcos_R50": {"FCOS.NUM_CLASSES": 3},
}


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, numbers in SYSTEMS.items() for key in numbers]
)
def test_numbers_are_the_schema_s_and_others_are_refused(name, key):
    number = SYSTEMS[name][key]
    schema = "fld" if name.startswith("fld/") else "deepfashion2"
    node, leaf = key.split(".")
    assert load_config(f"configs/{name}.yaml", []).MODEL[node][leaf] == number
    for wrong in (number + 1, -1):
        message = (
            rf"MODEL\.{node}\.{leaf}: expected {number}, as MODEL.KGDET.SCHEMA '{schema}' has it, got {wrong}"
        )
        with pytest.raises(ValueError, match=message):
            load_config(f"configs/{name}.yaml", [f"MODEL.{key}", str(wrong)])


def test_a_config_of_another_number_of_landmarks_needs_its_schema():
    with pytest.raises(
        ValueError, match=r"KGDET.NUM_CLASSES: expected 13, .* 'deepfashion2' .*got 3; .* got 8"
    ):
        load_config(R50, ["MODEL.KGDET.NUM_CLASSES", "3", "MODEL.KGDET.NUM_KEYPOINTS", "8"])
    with pytest.raises(
        ValueError, match=r"MODEL.KGDET.SCHEMA: .* \['deepfashion2', 'fld'\], got 'fashionpedia'"
    ):
        load_config(R50, ["MODEL.KGDET.SCHEMA", "fashionpedia"])


def test_a_dumped_config_is_complete_and_read_as_it_is(tmp_path):
    cfg = load_config("configs/fld/kgdet_R50.yaml", [])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load_config(str(tmp_path / "config.yaml"), [])
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert "NUM_KEYPOINTS: 8" in cfg.dump()


def test_a_schema_of_one_s_own(monkeypatch):
    monkeypatch.setattr("kgdet_d2.schema._SCHEMAS", {"deepfashion2": DEEPFASHION2})
    register_schema(replace(FLD, name="mine"))
    kgdet = load_config(R50, ["MODEL.KGDET.SCHEMA", "mine"]).MODEL.KGDET
    assert (kgdet.NUM_CLASSES, kgdet.NUM_KEYPOINTS) == (3, 8)


@pytest.mark.parametrize(("name", "classes"), [("kgdet_R50", 13), ("fld/kgdet_R50", 3), ("fld/fcos_R50", 3)])
def test_a_model_can_be_built_from_a_config_that_Detectron2_alone_has_read(name, classes):
    cfg = get_cfg()
    add_kgdet_config(cfg)
    cfg.merge_from_file(f"configs/{name}.yaml")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
        expected = build_model(load_config(f"configs/{name}.yaml", ["MODEL.DEVICE", "meta"])).state_dict()
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert classes in {len(value) for value in state.values() if value.dim() == 4}


def words():
    small = {"REPPOINTS": "reppoints"}
    for key, allowed in CHOICES.items():
        node = key.split(".")[1]
        yield from ((f"configs/sample/{small.get(node, 'kgdet')}_tiny.yaml", key, word) for word in allowed)


NEEDED = {
    "p2": ["MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']"],
    "selection": ["MODEL.KGDET.COLUMNS", "[9]"],
    "parallel": ["MODEL.KEYPOINT_ON", "True"],
    "serial": ["MODEL.KEYPOINT_ON", "True"],
    "feature": ["MODEL.KGDET.FLIP_FUSION.ENABLED", "True"],
    "released": ["MODEL.KGDET.FLIP_FUSION.ENABLED", "True"],
}


@pytest.mark.parametrize(("path", "key", "word"), words())
def test_every_allowed_word_builds_a_model(path, key, word):
    cfg = load_config(path, [key, word, *NEEDED.get(word, []), "MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        build_model(cfg)


def test_every_key_of_the_tables_exists():
    cfg = get_cfg()
    add_kgdet_config(cfg)
    for key in CHOICES | RANGES:
        get_value(cfg, key)


def test_config_takes_nothing_from_a_network():
    """Importing kgdet_d2.config registers networks, but keys and checks use none of their names."""
    for module in (kgdet_d2.config, kgdet_d2.config_checks):
        tree = ast.parse(Path(module.__file__).read_text())
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name.startswith(("kgdet_d2.modeling", "kgdet_d2.data")) for name in names)
        # A plain import registers; a name that is used would be an attribute of it.
        attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not any(name.startswith("kgdet_d2.") for name in attributes)


def test_all_contradictions_are_told_at_once():
    with pytest.raises(ValueError, match=r"NUM_POSITIVES.*KEYPOINT_ON"):
        load_config(R50, ["MODEL.KGDET.NUM_POSITIVES", "0", "MODEL.KEYPOINT_ON", "False"])


@pytest.mark.parametrize(
    "opts",
    [
        ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "[384, 600]"],
        ["INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", "[384, 600]"],
        ["INPUT.COLOR.BRIGHTNESS", "0.4", "INPUT.COLOR.SATURATION", "1.0"],
    ],
    ids=str,
)
def test_augmentations_that_fit(opts):
    load_config(R50, [*CROP, *opts])


def test_a_key_without_effect_is_told(caplog):
    load_config(R50, ["INPUT.SCALE_JITTER", "(0.1, 2.0)"])
    assert "INPUT.MIN_SIZE_TRAIN has no effect" in caplog.text


@pytest.mark.parametrize("opts", [CROP, ["INPUT.SCALE_JITTER", "(0.1, 2.0)"]])
def test_cropped_masks_need_shapely(monkeypatch, opts):
    monkeypatch.setattr("kgdet_d2.config_checks.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"MASK_ON: .*pip install shapely"):
        load_config(R50, ["MODEL.MASK_ON", "True", *opts])


def test_missing_config_file():
    with pytest.raises(FileNotFoundError, match=r"config file 'nowhere.yaml' does not exist"):
        load_config("nowhere.yaml", [])


def test_missing_weights():
    cfg = load_config(R50, ["MODEL.WEIGHTS", "nowhere/model.pth"])
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS: 'nowhere/model.pth' does not exist"):
        check_weights(cfg, required=False)
    cfg = load_config(
        "configs/beyond/kgdet_plus_lite0.yaml", ["MODEL.WEIGHTS", "gone/tf_efficientnet_lite0.pth"]
    )
    with pytest.raises(
        FileNotFoundError, match=r"does not exist; .*kgdet fetch-backbone tf_efficientnet_lite0"
    ):
        check_weights(cfg, required=False)
    cfg = load_config(R50, ["MODEL.WEIGHTS", ""])
    check_weights(cfg, required=False)
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS: expected the path of a checkpoint"):
        check_weights(cfg, required=True)
    check_weights(load_config(R50, []), required=True)  # an URL is Detectron2's to fetch


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.KGDET.REFINER.ENABLED", "True"], "MODEL.FPN.FINE_LEVEL: expected 'p2' or 'p3'"),
        ([*REFINER, "MODEL.KGDET.REFINER.WINDOW", "4"], "MODEL.KGDET.REFINER.WINDOW: expected an odd number"),
        ([*REFINER, "MODEL.KGDET.REFINER.SPACINGS", "[]"], r"REFINER.SPACINGS: expected .*, got \[\]"),
        (
            [*REFINER, "MODEL.KGDET.REFINER.SPACINGS", "[0.1, 0.0]"],
            "REFINER.SPACINGS: expected numbers above 0",
        ),
        ([*REFINER, "MODEL.KGDET.REFINER.BOX_WEIGHT", "-1.0"], "REFINER.BOX_WEIGHT: expected at least 0"),
        (["MODEL.FPN.FINE_LEVEL", "p2"], "MODEL.RESNETS.OUT_FEATURES: expected res2"),
        (["MODEL.FPN.FINE_LEVEL", "p4"], "MODEL.FPN.FINE_LEVEL: expected '' or 'p2' or 'p3'"),
        (["MODEL.KGDET.STAGE_NORM", "GN"], "MODEL.KGDET.STAGE_NORM: expected"),
        (
            ["MODEL.KGDET.CLASS_AGNOSTIC_NMS_THRESH_TEST", "2.0"],
            "CLASS_AGNOSTIC_NMS_THRESH_TEST: expected 0..1",
        ),
    ],
)
def test_contradictions_of_what_goes_beyond_the_paper_are_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(R50, opts)


@pytest.mark.parametrize("name", ["reppoints", "retinanet", "fcos"])
def test_other_systems_have_no_refiner(name):
    with pytest.raises(ValueError, match=r"MODEL\.FPN\.FINE_LEVEL: expected ''"):
        load_config(f"configs/{name}_R50.yaml", ["MODEL.FPN.FINE_LEVEL", "p3"])
    if name == "reppoints":
        for opts in (["REFINER.ENABLED", "True"], ["STAGE_NORM", "BN"], ["INIT", "kaiming"]):
            with pytest.raises(ValueError, match=rf"MODEL\.KGDET\.{opts[0]}: expected .* with RepPoints"):
                load_config("configs/reppoints_R50.yaml", [f"MODEL.KGDET.{opts[0]}", opts[1]])
