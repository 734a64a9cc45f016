from pathlib import Path

import pytest
import torch

from kgdet_d2.config import check_weights, load_config
from kgdet_d2.modeling.meta_arch import KGDet

R50 = "configs/kgdet_R50.yaml"
EXPERIMENTS = sorted(path for path in Path("configs").rglob("*.yaml") if not path.name.startswith("Base-"))
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
    assert len(settings) <= 15 or "sample" in path.parts


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


def test_R101_is_the_released_system_but_for_its_backbone():
    small, large = (load_config(path, []) for path in (R50, "configs/kgdet_R101.yaml"))
    large = large.clone()
    large.defrost()
    large.merge_from_list(["MODEL.RESNETS.DEPTH", 50, "MODEL.WEIGHTS", small.MODEL.WEIGHTS])
    large.OUTPUT_DIR = small.OUTPUT_DIR
    assert large == small


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
                *("MODEL.KGDET.NUM_KEYPOINTS", "8"),
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
        (["MODEL.KGDET.NUM_STAGES"], "kgdet_R50"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_contradictions_are_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        load_config(R50, opts)


def test_all_contradictions_are_told_at_once():
    with pytest.raises(ValueError, match=r"NUM_POSITIVES.*KEYPOINT_ON"):
        load_config(R50, ["MODEL.KGDET.NUM_POSITIVES", "0", "MODEL.KEYPOINT_ON", "False"])


def test_missing_config_file():
    with pytest.raises(FileNotFoundError, match=r"config file 'nowhere.yaml' does not exist"):
        load_config("nowhere.yaml", [])


def test_missing_weights():
    cfg = load_config(R50, ["MODEL.WEIGHTS", "nowhere/model.pth"])
    with pytest.raises(FileNotFoundError, match=r"MODEL.WEIGHTS: 'nowhere/model.pth' does not exist"):
        check_weights(cfg, required=False)
    cfg = load_config(R50, ["MODEL.WEIGHTS", ""])
    check_weights(cfg, required=False)
    with pytest.raises(ValueError, match=r"MODEL.WEIGHTS: expected the path of a checkpoint"):
        check_weights(cfg, required=True)
    check_weights(load_config(R50, []), required=True)  # an URL is Detectron2's to fetch
