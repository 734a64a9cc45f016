"""kgdet_d2.complexity and ``kgdet analyze`` against published numbers, fvcore's counts and plain sums."""

import json
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from fvcore.nn import FlopCountAnalysis
from torch import nn

from kgdet_d2.cli import main
from kgdet_d2.complexity import Complexity, count_by_module, paper_differences, total
from kgdet_d2.config import load_config
from kgdet_d2.modeling.heads.outputs import StageOutput

ROOT = Path(__file__).resolve().parents[1]
R50 = str(ROOT / "configs/kgdet_R50.yaml")
TINY = str(ROOT / "configs/sample/kgdet_tiny.yaml")
TINY_KP = str(ROOT / "configs/sample/reppoints_kp_tiny.yaml")
FCOS = str(ROOT / "configs/sample/fcos_tiny.yaml")
FULL = ["MODEL.FPN.FULL", "True"]
RETINANET = model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
RCNN = str(ROOT / "configs/sample/match_rcnn_tiny.yaml")


def levels(first):
    return ["MODEL.FPN.OUT_FEATURES", str([f"p{level}" for level in range(first, 8)])]


def columns(*points, stages=3):
    weights = str([1.0] * stages)
    return [
        *("MODEL.KGDET.COLUMNS", str(list(points)), "MODEL.KGDET.NUM_STAGES", str(stages)),
        *("MODEL.KGDET.LOSS.STAGE_WEIGHTS", weights),
    ]


def giga(count):
    return f"{count / 1e9:.2f}"


@pytest.mark.parametrize(
    ("opts", "trainable", "paper", "convolution", "true"),
    [
        ([], 59_134_423, "107.50", "106.82", "128.58"),
        (["MODEL.RESNETS.DEPTH", "101"], 78_126_551, "183.57", "182.58", "204.34"),
        (levels(5), 59_134_423, "109.51", "108.83", "137.77"),
        (levels(4), 59_134_423, "133.89", "133.19", "249.16"),
        (columns(9), 38_858_827, "106.62", None, "108.31"),
        (columns(25), 43_109_675, "106.68", None, "112.56"),
        (columns(49), 49_485_947, "106.76", None, "118.93"),
        (columns(9, stages=2), 37_514_120, "106.45", None, None),
        (columns(25, stages=2), 39_648_968, "106.49", None, None),
        (columns(49, stages=2), 42_851_240, "106.55", None, None),
        (columns(9, 25, 49, stages=2), 47_695_504, "106.94", None, "117.14"),
    ],
    ids=["R50", "R101", "P5-P7", "P4-P7", "9", "25", "49", "9x2", "25x2", "49x2", "three x2"],
)
def test_released_system(opts, trainable, paper, convolution, true):
    """R50 and R101 are the paper's Table 1; the others were counted on the release. None: no figure."""
    counts = total(count_by_module(load_config(R50, [*FULL, *opts])))
    assert counts.trainable == trainable
    assert counts.parameters == trainable + 225_344  # frozen: stem and res2
    assert giga(counts.paper_flops) == paper
    assert convolution in (None, giga(counts.convolution))
    assert true in (None, giga(counts.multiply_adds))


@pytest.mark.parametrize(
    ("name", "trainable", "paper", "convolution", "true"),
    [
        ("retinanet_R50", 36_353_433, "209.67", "208.90", "208.90"),
        pytest.param("retinanet_R101", 55_345_561, "285.74", "284.66", "284.66", marks=pytest.mark.slow),
        ("reppoints_R50", 36_606_515, "189.79", "189.07", "214.23"),
        pytest.param("reppoints_R101", 55_598_643, "265.86", "264.83", "289.99", marks=pytest.mark.slow),
        ("reppoints_kp_R50", 38_088_651, "208.84", "208.07", "245.81"),
        pytest.param("reppoints_kp_R101", 57_080_779, "284.91", "283.83", "321.57", marks=pytest.mark.slow),
    ],
)
def test_RepPoints_and_RetinaNet_of_table_1(name, trainable, paper, convolution, true):
    """All of the neck reaches the head, so that nothing has to be added to it."""
    cfg = load_config(str(ROOT / f"configs/{name}.yaml"), [])
    counts = total(count_by_module(cfg))
    assert paper_differences(cfg) == {}
    assert counts.trainable == trainable
    assert giga(counts.paper_flops) == paper
    assert giga(counts.convolution) == convolution
    assert giga(counts.multiply_adds) == true


def test_KGDet_differs_from_table_1_by_its_neck():
    built, full = (total(count_by_module(load_config(R50, opts))) for opts in ([], FULL))
    assert paper_differences(load_config(R50, [])) == {"the neck's parts that reach no output": full - built}


@pytest.mark.parametrize(
    ("depth", "trainable", "paper", "batch_norms"),
    [
        (50, 31_867_415, "197.21", 50_176),
        pytest.param(101, 50_807_319, "273.28", 102_400, marks=pytest.mark.slow),
    ],
)
def test_FCOS_of_table_1_difference_by_difference(depth, trainable, paper, batch_norms):
    cfg = load_config(str(ROOT / f"configs/fcos_R{depth}.yaml"), [])
    differences = paper_differences(cfg)
    counts = total(count_by_module(cfg) | differences)
    assert (counts.trainable, giga(counts.paper_flops)) == (trainable, paper)
    stride = differences.pop("ResNet's stride in its 1x1 convolutions")
    assert differences == {
        "BatchNorm whose weights do not learn": Complexity(trainable=-batch_norms),
        "a factor for each level's boxes": Complexity(parameters=5, trainable=5),
    }
    # In the first block of res3, res4 and res5 the 1x1 convolution from 2c to c channels runs at half the
    # size, and with it its BatchNorm and ReLU.
    cells = [(100 * 160, 128), (50 * 80, 256), (25 * 40, 512)]
    assert stride == Complexity(
        convolution=-sum(3 * here * 2 * c * c for here, c in cells),
        elementwise=-sum(3 * here * 3 * c for here, c in cells),
    )


def test_parts():
    parts = count_by_module(load_config(R50, []))
    stages = [f"head.stages.{index}" for index in range(3)]
    assert list(parts) == ["backbone", "neck", "head.cls_tower", "head.keypoint_tower", *stages, "other"]
    assert parts["backbone"].parameters == 23_508_032
    assert giga(parts["backbone"].convolution) == "83.41"
    assert giga(parts["neck"].convolution) == "1.11"
    assert parts["other"] == Complexity(parameters=2, trainable=2)  # the moment transform's scales
    # 25 x 40 cells, 9 + 25 + 49 taps, 256 -> 256 channels, for classes and for landmarks.
    assert parts["head.stages.1"].deformable == 25 * 40 * (9 + 25 + 49) * 256 * 256 * 2
    head = sum((counts for name, counts in parts.items() if name not in ("backbone", "neck")), Complexity())
    assert (head.parameters, giga(head.convolution), giga(head.deformable)) == (27_852_247, "6.09", "21.76")
    whole = total(parts)
    assert (whole.parameters, giga(whole.multiply_adds)) == (52_475_415, "112.37")
    neck = count_by_module(load_config(R50, FULL))["neck"]
    assert (neck.parameters, giga(neck.convolution)) == (7_999_488, "17.32")


class Predictions(nn.Module):
    """All that a head predicts, as tensors: fvcore's trace leaves out what reaches no output."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        features = self.model.backbone(image)
        out = self.model.head([features[name] for name in self.model.head_in_features])
        if isinstance(out[0], StageOutput):
            fields = [field for stage in out for field in (stage.logits, stage.keypoints, stage.boxes)]
            out = [field for field in fields if field is not None]
        return [level for field in out for level in field]


@pytest.mark.parametrize(
    "config", [TINY, TINY_KP, RETINANET, FCOS], ids=["KGDet", "RepPoints-Kp", "RetinaNet", "FCOS"]
)
def test_agrees_with_fvcore(config):
    """fvcore traces the network as it runs on the CPU, where all are products of some kind."""
    cfg = load_config(config, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    with torch.no_grad():
        analysis = FlopCountAnalysis(Predictions(model), torch.zeros(1, 3, 64, 96))
        expected = analysis.unsupported_ops_warnings(False).tracer_warnings("none").by_operator()
    counts = total(count_by_module(cfg, 96, 64))
    assert counts.convolution > 0 and counts.multiply_adds == expected["conv"] + expected["matmul"]
    assert counts.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


class TinyBackbone(Backbone):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, kernel_size=3, stride=2, padding=1, groups=3)
        self.norm = FrozenBatchNorm2d(6)
        self.pool = nn.MaxPool2d(2)

    def forward(self, image):
        return {"map": self.pool(self.norm(self.conv(image)).relu())}

    def output_shape(self):
        return {"map": ShapeSpec(channels=6, stride=4)}


class TinyHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(6, 4, kernel_size=2, stride=2, bias=False)])
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(7))

    def forward(self, features):
        return self.linear(self.norm(self.enlarge[0](features[0])).flatten(2).transpose(1, 2))


@META_ARCH_REGISTRY.register()
class TinyDetector(DenseDetector):
    @configurable
    def __init__(self):
        super().__init__(TinyBackbone(), TinyHead(), pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)

    @classmethod
    def from_config(cls, cfg):
        return {}


def test_every_operator_by_hand():
    parts = count_by_module(load_config(TINY, ["MODEL.META_ARCHITECTURE", "TinyDetector"]), 24, 16)
    out = 12 * 8 * 6  # elements behind the first convolution: bias, BatchNorm twice, ReLU, pooling
    learned = 6 * 9 + 6
    cells = 6 * 4
    assert parts == {
        "backbone": Complexity(learned + 2 * 6, learned, convolution=out * 9, elementwise=5 * out),
        "head.enlarge.0": Complexity(96, 96, convolution=cells * 6 * 4 * 4),
        "head.norm": Complexity(8, 8),
        "head.linear": Complexity(25, 25, convolution=4 * cells * 4 * 5),
        "other": Complexity(7, 7),
    }


def test_size_is_padded_as_the_backbone_asks():
    cfg = load_config(TINY, [])
    assert count_by_module(cfg, 33, 1) == count_by_module(cfg, 64, 32)
    with pytest.raises(ValueError, match="size: expected a positive width and height, got 0 x 800"):
        count_by_module(cfg, 0, 800)


def test_what_is_neither_dense_nor_an_RCNN_is_refused():
    cfg = load_config(RCNN, ["MODEL.META_ARCHITECTURE", "ProposalNetwork"])
    with pytest.raises(ValueError, match=r"META_ARCHITECTURE: expected a dense detector.*'ProposalNetwork'"):
        count_by_module(cfg)


def test_tool_prints_both_conventions(tmp_path, capsys):
    path = tmp_path / "counts.json"
    main(["analyze", "--config-file", R50, "--json", str(path), "MODEL.KGDET.NUM_POSITIVES", "9"])
    printed = capsys.readouterr().out
    assert "as built: 52.25 M / 91.29 G" in printed
    assert "as Table 1 counts: 59.13 M / 107.50 G" in printed
    rows = {line.split("  ")[0]: line.split() for line in printed.splitlines()}
    assert rows["as built"][-2:] == ["112.37", "91.29"]
    assert rows["the neck's parts that reach no output"][-2:] == ["16.21", "16.21"]
    assert rows["as Table 1 counts"][-2:] == ["128.58", "107.50"]
    report = json.loads(path.read_text())
    assert (report["width"], report["height"]) == (1280, 800)
    assert report["overrides"] == ["MODEL.KGDET.NUM_POSITIVES", "9"]
    assert report["sums"]["as Table 1 counts"]["trainable"] == 59_134_423
    for key, value in report["sums"]["as built"].items():
        assert value == sum(part[key] for part in report["parts"].values())
        value += sum(difference[key] for difference in report["differences"].values())
        assert value == report["sums"]["as Table 1 counts"][key]


def test_tool_prints_one_sum_where_nothing_is_left_out(capsys):
    main(["analyze", "--config-file", TINY, "--size", "64", "32", *FULL])
    printed = capsys.readouterr().out
    assert f"{TINY} at 64 x 32 pixels" in printed
    assert "as built: " in printed
    assert "as Table 1 counts" not in printed


def test_tool_tells_for_how_many_boxes(capsys):
    main(["analyze", "--config-file", RCNN, "--size", "64", "32", "TEST.DETECTIONS_PER_IMAGE", "20"])
    printed = capsys.readouterr().out
    assert "box head: 100 proposals (MODEL.RPN.POST_NMS_TOPK_TEST)" in printed
    assert "other heads: 20 detections (TEST.DETECTIONS_PER_IMAGE)" in printed
    main(["analyze", "--config-file", TINY, "--size", "64", "32"])
    assert "proposals" not in capsys.readouterr().out
