"""``kgdet convert`` on files as mmdetection, torchvision and Detectron2 write them."""

import functools
import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from PIL import Image

from kgdet_d2 import cli
from kgdet_d2.checkpoint import convert as command
from kgdet_d2.checkpoint.convert import model_shapes
from kgdet_d2.checkpoint.mmdet import mmdet_key_map, torchvision_key_map
from kgdet_d2.config import load_config
from kgdet_d2.config_files import find_config
from kgdet_d2.data.register import register_all
from kgdet_d2.engine import main
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo
from tests.helpers.release_recordings import weight

# The released model, but narrower.
NARROW = f"""
_BASE_: "{find_config("kgdet_R50.yaml")}"
MODEL:
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 8}}
  FPN: {{OUT_CHANNELS: 64}}
  KGDET: {{CONV_DIM: 32}}
"""
META = {"mmdet_version": "1.0rc0", "CLASSES": ("a", "b"), "epoch": 12, "config": "model = dict()"}
RELEASED = {  # columns, depth: what the narrow config needs
    ((9, 25, 49), 50): {},
    ((9, 25, 49), 101): {"MODEL.RESNETS.DEPTH": 101},
    ((9,), 50): {"MODEL.KGDET.COLUMNS": [9]},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "narrow.yaml"
    path.write_text(NARROW)
    return str(path)


def random_weights(names, shapes):
    """A state dict with the names on the left, as the recordings have their weights."""
    shape_of = {name: shapes[ours] if ours else () for name, ours in names.items()}
    return OrderedDict((name, torch.from_numpy(weight(name, shape))) for name, shape in shape_of.items())


@functools.cache
def made(config, columns, depth):
    names = mmdet_key_map(depth=depth, columns=list(columns), num_stages=3)
    opts = {"MODEL.KGDET.COLUMNS": list(columns), "MODEL.RESNETS.DEPTH": depth}
    return random_weights(names, model_shapes(config, opts))


def released(config, columns=(9, 25, 49), depth=50, counter=0):
    """A released state dict; a new one at each call."""
    state = made(config, columns, depth).copy()
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(counter)
    return state


def make_model(config, opts):
    changes = [item for pair in opts.items() for item in pair]
    return build_model(load_config(config, ["MODEL.DEVICE", "cpu", *changes]))


def convert(config, *arguments):
    command.run(command.make_parser().parse_args(["--config-file", config, *map(str, arguments)]))


@pytest.mark.parametrize(("columns", "depth"), RELEASED)
def test_there_and_back(columns, depth, config, tmp_path, capsys):
    state = released(config, columns, depth, counter=7)
    torch.save({"meta": META, "state_dict": state}, tmp_path / "theirs.pth")
    convert(config, tmp_path / "theirs.pth", tmp_path / "ours.pth")
    needs = RELEASED[columns, depth]
    printed = " ".join(f'{key} "{value}"' for key, value in needs.items()) or "none"
    assert f"needs for this model: {printed}\n" in capsys.readouterr().out

    converted = torch.load(tmp_path / "ours.pth", weights_only=True)
    digest = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    origin = converted["origin"]
    assert (origin["file"], origin["sha256"], origin["meta"]) == ("theirs.pth", digest, META)
    assert set(origin["dropped"].values()) == {7} and len(origin["dropped"]) == 11
    model = make_model(config, needs | {"MODEL.FPN.FULL": True})
    model.load_state_dict(converted["model"])

    convert(config, "--reverse", tmp_path / "ours.pth", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back["state_dict"]) == list(state)
    for name, value in back["state_dict"].items():
        assert value.dtype == state[name].dtype and torch.equal(value, state[name]), name
    assert META.items() <= back["meta"].items()


def test_the_lean_model_loads_all_it_has(config, tmp_path):
    torch.save({"state_dict": released(config)}, tmp_path / "theirs.pth")
    convert(config, tmp_path / "theirs.pth", tmp_path / "ours.pth")
    model = make_model(config, {})
    incompatible = load(model, tmp_path / "ours.pth")
    assert not incompatible.missing_keys
    assert all(key.startswith("backbone.") for key in incompatible.unexpected_keys)
    full = make_model(config, {"MODEL.FPN.FULL": True})
    load(full, tmp_path / "ours.pth")
    model.eval(), full.eval()
    inputs = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    ours, theirs = (m.head([m.backbone(m.preprocess_image(inputs).tensor)["p5"]]) for m in (model, full))
    torch.testing.assert_close(ours[-1].logits, theirs[-1].logits)


def load(model, path):
    """Detectron2's loading; returns what it reports."""
    checkpointer = DetectionCheckpointer(model)
    reports = []
    report = checkpointer._log_incompatible_keys
    checkpointer._log_incompatible_keys = lambda keys: (reports.append(keys), report(keys))
    checkpointer.load(str(path))
    return reports[0]


def lose_one(state):
    del state["neck.lateral_convs.1.gn.bias"]
    return r"weights do not fit; 1 missing: neck\.lateral_convs\.1\.gn\.bias"


def add_two(state):
    state["bbox_head.extra"] = state["mask_head.extra"] = torch.zeros(3)
    return r"weights do not fit; 2 unknown: bbox_head\.extra, mask_head\.extra"


def reshape_one(state):
    state["bbox_head.kp_rep_block_3.cls_out.bias"] = torch.zeros(14)
    name = r"bbox_head\.kp_rep_block_3\.cls_out\.bias"
    return rf"weights do not fit; 1 of another shape: {name} \(expected \(13,\), got \(14,\)\)"


def all_three(state):
    add_two(state), lose_one(state), reshape_one(state)
    return r"weights do not fit; 2 unknown: .*; 1 missing: .*; 1 of another shape: "


def no_head(state):
    for name in [name for name in state if name.startswith("bbox_head")]:
        del state[name]
    return "expected weights of a KGDet with two stages or more, got backbone"


def other_resnet(state):
    del state["backbone.layer3.5.conv1.weight"]
    return r"expected a ResNet with \[6, 23\] blocks in its third group, got 5"


@pytest.mark.parametrize("change", [lose_one, add_two, reshape_one, all_three, no_head, other_resnet])
def test_weights_that_do_not_fit_are_listed(change, config, tmp_path):
    state = released(config)
    message = change(state)
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=rf"theirs\.pth: {message}"):
        convert(config, tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()


def test_the_lean_neck_does_not_go_back(config, tmp_path):
    """mmdetection's model has the parts that ours leaves out."""
    torch.save({"model": make_model(config, {}).state_dict()}, tmp_path / "ours.pth")
    with pytest.raises(ValueError, match=r"18 missing: .*backbone\.laterals\.p3\.weight"):
        convert(config, "--reverse", tmp_path / "ours.pth", tmp_path / "back.pth")


class Trap:
    """Writes a file when its pickle is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_never_executed(zipped, config, tmp_path):
    trap = tmp_path / "sprung"
    torch.save(
        {"state_dict": released(config), "meta": Trap(trap)},
        tmp_path / "theirs.pth",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=r"got an object of .*, which is not executed"):
        convert(config, tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert not trap.exists() and not (tmp_path / "ours.pth").exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2], protocol=2)])
def test_other_files_are_refused(content, config, tmp_path):
    (tmp_path / "theirs.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"theirs\.pth: expected "):
        convert(config, tmp_path / "theirs.pth", tmp_path / "ours.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(config, tmp_path / "nowhere.pth", tmp_path / "ours.pth")


def test_the_command_tells_in_a_line_what_does_not_fit(config, tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "theirs.pth")
    paths = [str(tmp_path / "theirs.pth"), str(tmp_path / "ours.pth")]
    assert cli.main(["convert", "--config-file", config, *paths]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {paths[0]}: expected weights of a KGDet")


def torchvision_state(config, depth, counted=True):
    names = torchvision_key_map(depth=depth, counted=counted)
    shapes = model_shapes(config, {"MODEL.RESNETS.DEPTH": depth})
    state = random_weights({name: ours for name, ours in names.items() if ours}, shapes)
    for name in names:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
    return state | {"fc.weight": torch.zeros(1000, 256), "fc.bias": torch.zeros(1000)}, names


def check_backbone(model, state, names):
    """Every weight of the ResNet is the one of torchvision's file."""
    found, checked = model.state_dict(), 0
    for name, ours in names.items():
        if ours and not name.endswith("num_batches_tracked"):
            assert torch.equal(found[ours], state[name]), name
            checked += 1
    assert checked == sum(name.startswith("backbone.bottom_up.") for name in found) - sum(
        name.endswith("num_batches_tracked") for name in found
    )


@pytest.mark.parametrize(("depth", "counted"), [(50, True), (50, False), (101, True)])
def test_torchvision_file(depth, counted, config, tmp_path):
    state, names = torchvision_state(config, depth, counted)
    torch.save(state, tmp_path / "resnet.pth")
    convert(config, tmp_path / "resnet.pth", tmp_path / "ours.pth")
    model = make_model(config, {"MODEL.RESNETS.DEPTH": depth})
    incompatible = load(model, tmp_path / "ours.pth")
    assert not incompatible.unexpected_keys
    check_backbone(model, state, names)


def test_torchvision_weights_as_detectron2_keeps_them(config, tmp_path):
    """R-50.pkl: names of Detectron2's ResNet, numpy arrays, matched to the model by their ends."""
    state, names = torchvision_state(config, 50, counted=False)
    renamed = {
        ours.removeprefix("backbone.bottom_up."): state[name].numpy() for name, ours in names.items() if ours
    }
    content = {"model": renamed, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    model = make_model(config, {})
    load(model, tmp_path / "R-50.pkl")
    check_backbone(model, state, names)


@pytest.fixture
def photo_to_evaluate(tmp_path, monkeypatch):
    """``synthfashion_val`` with one photo of noise."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))
    register_all(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    folder = tmp_path / "synthfashion" / "validation" / "image"
    folder.mkdir(parents=True)
    Image.fromarray(noise).save(folder / "000001.png")
    box, keypoints = np.array([5, 5, 60, 90], np.float32), np.full((8, 3), 2, np.float32)
    skirt = Garment(8, box, keypoints)
    photos = [Photo("000001.png", 1, 64, 96, [skirt])]
    annotations = AnnotationTable.from_photos(photos, DEEPFASHION2)
    annotations.save(tmp_path / "synthfashion" / "annotations" / "validation.npz")


def test_evaluation_of_converted_weights(config, photo_to_evaluate, tmp_path):
    """The whole way, as a user goes it."""
    torch.save({"state_dict": released(config, (9,)), "meta": META}, tmp_path / "theirs.pth")
    convert(config, tmp_path / "theirs.pth", tmp_path / "ours.pth")
    arguments = ["--config-file", config, "--num-gpus", "0", "--eval-only"]
    arguments += ["MODEL.WEIGHTS", str(tmp_path / "ours.pth"), "MODEL.KGDET.COLUMNS", "[9]"]
    arguments += ["DATASETS.TRAIN", "()", "DATASETS.TEST", "('synthfashion_val',)"]
    arguments += ["INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path)]
    results = main(default_argument_parser().parse_args(arguments))
    assert 0 <= results["bbox"]["AP"] <= 100 and 0 <= results["keypoints"]["AP"] <= 100
