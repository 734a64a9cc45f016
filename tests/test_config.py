from pathlib import Path

import pytest

from kgdet_d2.config import check_weights, load_config

R50 = "configs/kgdet_R50.yaml"


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("kgdet*.yaml")), ids=str)
def test_every_config_loads_and_an_experiment_is_short(path):
    load_config(str(path), [])
    settings = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(settings) <= 15 or "sample" in path.parts


def test_paper_and_release_differ_where_they_do():
    released, paper = (load_config(path, []) for path in (R50, "configs/kgdet_R50_P5-P7.yaml"))
    assert (released.MODEL.FPN.OUT_FEATURES, paper.MODEL.FPN.OUT_FEATURES) == (["p5"], ["p5", "p6", "p7"])
    assert (released.MODEL.KGDET.NUM_POSITIVES, paper.MODEL.KGDET.NUM_POSITIVES) == (25, 9)
    assert paper.MODEL.KGDET.LOSS.KEYPOINT_WEIGHT == 0.1


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.KGDET.COLUMN", "[9]"], "COLUMN"),
        (["MODEL.KGDET.COLUMNS", "[9, 16]"], r"COLUMNS: expected some of \[9, 25, 49.*got \[9, 16\]"),
        (["MODEL.KGDET.COLUMNS", "[]"], "COLUMNS"),
        (["MODEL.KGDET.NUM_STAGES", "2"], r"STAGE_WEIGHTS: expected .*NUM_STAGES = 2 numbers, got \[0.5"),
        (
            ["MODEL.KGDET.NUM_STAGES", "0", "MODEL.KGDET.LOSS.STAGE_WEIGHTS", "[]"],
            "NUM_STAGES: expected at least",
        ),
        (["MODEL.KGDET.NUM_POSITIVES", "0"], "NUM_POSITIVES: expected at least 1, got 0"),
        (["MODEL.KGDET.POINTS_GRADIENT", "1.5"], "POINTS_GRADIENT: expected 0..1, got 1.5"),
        (["MODEL.KGDET.SCORE_THRESH_TEST", "-1.0"], "SCORE_THRESH_TEST: expected 0..1, got -1"),
        (["MODEL.KGDET.CONV_DIM", "40"], "CONV_DIM: expected a multiple of GroupNorm's 32 groups, got 40"),
        (
            ["MODEL.KGDET.LOSS.KEYPOINT_WEIGHTING", "mean"],
            "expected 'per_garment' or 'per_landmark', got 'mean'",
        ),
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
