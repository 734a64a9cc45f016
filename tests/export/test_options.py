"""What is refused before any work, by name."""

import pytest

from kgdet_d2.config import load_config
from kgdet_d2.export import options as module
from kgdet_d2.export.options import ExportOptions


def check(*opts, config="kgdet_tiny", path="model.pt2", **options):
    cfg = load_config(f"configs/sample/{config}.yaml", list(opts))
    ExportOptions(**{"format": "pt2", **options}).check(cfg, path)


@pytest.mark.parametrize(
    "config", ["kgdet_tiny", "kgdet_plus_tiny", "reppoints_kp_tiny", "retinanet_tiny", "fcos_tiny"]
)
def test_supported_systems_are_not(config):
    check(config=config)


@pytest.mark.parametrize(
    ("opts", "named"),
    [
        (["MODEL.KGDET.FLIP_FUSION.ENABLED", "True"], "MODEL.KGDET.FLIP_FUSION.ENABLED: expected False"),
        (["MODEL.KGDET.SPARSE_CELLS", "20"], "MODEL.KGDET.SPARSE_CELLS: expected 0 .* got 20"),
        (["MODEL.INFERENCE.PRECISION", "bfloat16"], "MODEL.INFERENCE.PRECISION: expected 'float32'"),
        (["MODEL.INFERENCE.COMPILE", "True"], "MODEL.INFERENCE.COMPILE"),
        (["INPUT.FORMAT", "YUV-BT.601"], "INPUT.FORMAT: expected one of RGB, BGR"),
    ],
)
def test_keys_that_do_not_export(opts, named):
    with pytest.raises(ValueError, match=named):
        check(*opts)


def test_a_system_that_does_not_export():
    with pytest.raises(
        ValueError, match=r"MODEL.META_ARCHITECTURE: expected one of KGDet, .* got 'GeneralizedRCNN'"
    ):
        check(config="match_rcnn_tiny")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"format": "tflite"}, "--format: expected one of onnx, pt2"),
        ({"aggregation": "gather"}, "--aggregation: expected one of deform_conv, grid_sample"),
        ({"path": "model.onnx"}, "--output: expected a file that ends in .pt2, got model.onnx"),
        ({"batch": 0}, "--batch: expected dynamic or a number from 1 on, got 0"),
        ({"config": "kgdet_plus_tiny", "nms": False}, "--no-nms: expected MODEL.KGDET.REFINER.ENABLED False"),
    ],
)
def test_options_that_do_not_go(options, named):
    with pytest.raises(ValueError, match=named):
        check(**options)


def test_a_size_that_the_backbone_does_not_divide():
    ExportOptions(size=(64, 96)).check_divisor(32)
    with pytest.raises(ValueError, match="--size: expected multiples of 32 pixels, got 64x100"):
        ExportOptions(size=(64, 100)).check_divisor(32)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check()  # .pt2 takes none
    with pytest.raises(ImportError, match=r"onnx is missing: pip install 'kgdet_d2\[onnx\]'"):
        check(format="onnx", path="model.onnx")
