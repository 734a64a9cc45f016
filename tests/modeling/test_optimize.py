"""Models optimised for inference against the same models as trained, and what is refused."""

import platform
import shutil
import subprocess
import sys

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from kgdet_d2.config import load_config
from kgdet_d2.modeling import GTBoxMatchRCNN, TimmBackbone, optimize, optimize_for_inference
from tests.helpers.images import image_input

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)
FROZEN = ["MODEL.RESNETS.NORM", "FrozenBN"]
# Config and overrides; how many BatchNorms have no convolution of their own before them: those of RetinaNet's
# towers, of which each level has its own, and that of an embedding.
MODELS = {
    "kgdet": ("kgdet_tiny", [], 0),
    "kgdet, frozen": ("kgdet_tiny", FROZEN, 0),
    "kgdet, flip fusion": ("kgdet_tiny", ["MODEL.KGDET.FLIP_FUSION.ENABLED", True], 0),
    "reppoints": ("reppoints_tiny", [], 0),
    "reppoints_kp": ("reppoints_kp_tiny", [], 0),
    "retinanet": ("retinanet_tiny", [], 6),
    "fcos": ("fcos_tiny", ["MODEL.FCOS.NORM", "FrozenBN"], 0),
    "mask_rcnn": ("match_rcnn_tiny", [], 0),
    "match_rcnn": ("match_rcnn_tiny_matching", ["MODEL.WEIGHTS", ""], 1),
}
IMAGES = [(96, 64, [[5, 5, 60, 60]]), (64, 100, [[0, 0, 99, 60], [20, 10, 60, 40]])]


def make_config(config, opts=(), **inference):
    switches = [part for key, value in inference.items() for part in (f"MODEL.INFERENCE.{key}", value)]
    base = ["MODEL.DEVICE", "cpu", "TEST.DETECTIONS_PER_IMAGE", 20]
    return load_config(f"configs/sample/{config}.yaml", [*base, *opts, *switches])


def make_model(cfg):
    """In evaluation mode, BatchNorms with statistics and weights of all kinds, detections of any score."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    vary_batch_norms(model)
    if hasattr(model, "postprocessor"):
        model.postprocessor.score_threshold = 0.0
    elif hasattr(model, "test_score_thresh"):
        model.test_score_thresh = 0.0
    else:
        model.roi_heads.box_predictor.test_score_thresh = 0.0
    return model


def vary_batch_norms(model):
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            for values, low, high in (
                (module.running_mean, -1, 1),
                (module.running_var, 0.5, 2),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if values is not None:
                    values.data.uniform_(low, high)


def detect(model):
    torch.manual_seed(0)
    inputs = [image_input(*image) for image in IMAGES]
    detections = []
    with torch.no_grad():
        for output in model(inputs):
            fields = output["instances"].get_fields().items()
            detections.append({name: getattr(value, "tensor", value) for name, value in fields})
    return detections


def batch_norms(model):
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


def assert_same_detections(found, expected, **tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["scores"]) > 0
        for name, values in theirs.items():
            if name == "pred_masks":  # true or false by a threshold
                assert (ours[name] != values).float().mean() < 1e-4
                continue
            torch.testing.assert_close(ours[name], values, **tolerance)


@pytest.mark.parametrize(("config", "opts", "left"), MODELS.values(), ids=MODELS)
def test_folded_BatchNorms_change_nothing(config, opts, left):
    cfg = make_config(config, opts, FUSE_BN=True, CHANNELS_LAST=True)
    model = make_model(cfg)
    expected = detect(model)
    assert len(batch_norms(model)) > left
    model = optimize_for_inference(model, cfg)
    assert len(batch_norms(model)) == left
    assert model.backbone.bottom_up.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert_same_detections(detect(model), expected, rtol=1e-4, atol=1e-3)


def test_maps_with_folded_BatchNorms():
    cfg = make_config("kgdet_tiny", FUSE_BN=True)
    model = make_model(cfg)
    image = torch.rand(2, 3, 64, 96)
    expected = model.backbone(image)["p4"]
    found = optimize_for_inference(model, cfg).backbone(image)["p4"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mobilenetv2_100", 0),
        ("tf_efficientnet_lite0", 0),
        ("resnet18", 0),
        # Those at the head of its 58 layers and 3 transitions, and the last: their input goes to others, too.
        ("densenet121", 62),
        # Its attention asks for the sizes of its input.
        ("mobilevit_xxs", 32),
    ],
)
def test_BatchNorms_of_timm_s_networks(name, left, caplog):
    """Some have their activation in them, which must stay."""
    torch.manual_seed(0)
    backbone, image = TimmBackbone(name).eval(), torch.rand(2, 3, 64, 96)
    vary_batch_norms(backbone)
    with torch.no_grad():
        expected = backbone(image)
        optimize.fuse_batch_norms(backbone)
        found = backbone(image)
    assert len(batch_norms(backbone)) == left
    assert ("FUSE_BN has no effect on this backbone" in caplog.text) == (name == "mobilevit_xxs")
    for stage, values in expected.items():
        torch.testing.assert_close(found[stage], values, rtol=1e-4, atol=1e-4 * values.abs().max().item())


def test_a_BatchNorm_without_statistics_stays():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()).eval()
    optimize.fuse_batch_norms(layers)
    assert len(batch_norms(layers)) == 1


@pytest.mark.parametrize("name", ["kgdet, flip fusion", "reppoints_kp", "retinanet", "fcos", "match_rcnn"])
def test_half_precision_of_the_layers_alone(name):
    """Maps are bfloat16, detections float32 and about the same; one model of every kind of output layer."""
    config, opts, _ = MODELS[name]
    cfg = make_config(config, opts, FUSE_BN=True, CHANNELS_LAST=True, PRECISION="bfloat16")
    model = make_model(cfg)
    expected = detect(model)
    model, maps = optimize_for_inference(model, cfg), []
    model.backbone.register_forward_hook(lambda module, inputs, output: maps.extend(output.values()))
    for ours, theirs in zip(detect(model), expected, strict=True):
        assert {name: value.dtype for name, value in ours.items()} == {
            name: value.dtype for name, value in theirs.items()
        }
        assert ours["scores"][0].item() == pytest.approx(theirs["scores"][0].item(), rel=0.1)
        assert ours["scores"].unique().numel() > 0.5 * len(ours["scores"])
    assert {level.dtype for level in maps} == {torch.bfloat16}


def test_embeddings_of_given_boxes():
    """Another module's forward pass goes through the same layers, past the model's own."""
    cfg = make_config(*MODELS["match_rcnn"][:2], FUSE_BN=True, PRECISION="bfloat16")
    model = make_model(cfg)
    expected = detect(GTBoxMatchRCNN(model))
    found = detect(GTBoxMatchRCNN(optimize_for_inference(model, cfg)))
    assert_same_detections(found, expected, rtol=1e-3, atol=1e-3)


def test_what_is_compiled(monkeypatch):
    expected = {
        "kgdet": ["backbone", "head.cls_tower", "head.keypoint_tower"],
        "reppoints_kp": ["backbone", "head.cls_tower", "head.keypoint_tower"],
        "retinanet": ["backbone", "head"],
        "fcos": ["backbone", "head"],
        "match_rcnn": ["backbone", "proposal_generator.rpn_head"],
    }
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward, **options: compiled.append(forward.__self__))
    for name, parts in expected.items():
        cfg = make_config(*MODELS[name][:2], COMPILE=True)
        model = optimize_for_inference(make_model(cfg), cfg)
        assert compiled == [model.get_submodule(part) for part in parts]
        compiled.clear()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["kgdet", "retinanet", "match_rcnn"])
def test_compiled_once_for_photos_of_all_sizes(name):
    cfg = make_config(*MODELS[name][:2], FUSE_BN=True, CHANNELS_LAST=True, COMPILE=True)
    model = make_model(cfg)
    expected = detect(model)
    torch.compiler.reset()
    model = optimize_for_inference(model, cfg)
    assert_same_detections(detect(model), expected, rtol=1e-3, atol=1e-2)
    with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):
        model([image_input(128, 96), image_input(160, 256), image_input(128, 128)])


LARGE_TENSOR = """
import sys, torch

def resident_megabytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

if sys.argv[1] == "keep":
    from kgdet_d2.modeling.optimize import disable_malloc_trim
    disable_malloc_trim()
before = resident_megabytes()
torch.ones(64, 2**20)
print(resident_megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc")
def test_freed_memory_is_kept():
    """What is left of a tensor of 256 MB, in a process of its own."""
    left = {
        how: float(
            subprocess.run([sys.executable, "-c", LARGE_TENSOR, how], capture_output=True, check=True).stdout
        )
        for how in ("keep", "return")
    }
    assert left["keep"] > 250 and left["return"] < 50


def test_memory_kept_without_glibc_is_refused(monkeypatch):
    monkeypatch.setattr(optimize.ctypes, "CDLL", lambda name: object())
    cfg = make_config("kgdet_tiny", KEEP_MEMORY=True)
    with pytest.raises(
        ValueError, match="KEEP_MEMORY: expected False where the C library is not glibc, got True"
    ):
        optimize_for_inference(make_model(cfg), cfg)


def test_nothing_asked_for_nothing_done():
    cfg = make_config("kgdet_tiny")
    model = make_model(cfg)
    expected, before = detect(model), {name: value.clone() for name, value in model.state_dict().items()}
    model = optimize_for_inference(model, cfg)
    assert_same_detections(detect(model), expected, rtol=0, atol=0)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_training_is_refused():
    cfg = make_config("kgdet_tiny", FUSE_BN=True)
    with pytest.raises(ValueError, match="expected a model in evaluation mode, got one in training mode"):
        optimize_for_inference(make_model(cfg).train(), cfg)
    model = optimize_for_inference(make_model(cfg), cfg).train()
    losses = model([image_input(*IMAGES[0])])
    with pytest.raises(RuntimeError, match="does not require grad"):
        sum(losses.values()).backward()


def test_precisions_that_the_device_lacks_are_refused(monkeypatch):
    cfg = make_config("kgdet_tiny", PRECISION="float16")
    with pytest.raises(ValueError, match="PRECISION: expected 'float32' or 'bfloat16' on CPU, got 'float16'"):
        optimize_for_inference(make_model(cfg), cfg)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    with pytest.raises(ValueError, match="expected 'float32' or 'float16' on an old GPU, got 'bfloat16'"):
        optimize.check_precision("bfloat16", torch.device("cuda"))
    optimize.check_precision("float16", torch.device("cuda"))
