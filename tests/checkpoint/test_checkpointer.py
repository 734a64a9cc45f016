"""Checkpoints that say what model they are of, and weights that do not fit."""

import dataclasses
import json
import logging
import os

import pytest
import torch
import yaml

from kgdet_d2 import schema as schemas
from kgdet_d2.checkpoint.checkpointer import FashionCheckpointer, config_of, describe, load_model
from kgdet_d2.checkpoint.convert import RELEASE_CONFIG, to_release
from kgdet_d2.config import load_config
from kgdet_d2.modeling.meta_arch import KGDet
from kgdet_d2.schema import DEEPFASHION2, FLD, KeypointSchema, get_schema, register_schema

CONFIG = "configs/sample/kgdet_tiny.yaml"
CPU = ["MODEL.DEVICE", "cpu"]
SCARF = KeypointSchema(
    name="scarves",
    class_names=("scarf",),
    keypoint_names=(("left_end", "right_end"),),
    slots=((0, 1),),
    sigmas=(0.1, 0.1),
    skeleton=(((0, 1),),),
)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(schemas, "_SCHEMAS", dict(schemas._SCHEMAS))


def save(folder, *opts):
    """Write model.pth of random weights; return its path, config and model."""
    cfg = load_config(CONFIG, [*CPU, *opts])
    model = KGDet(cfg)
    FashionCheckpointer(model, str(folder), cfg=cfg).save("model")
    return folder / "model.pth", cfg, model


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    counters = ("num_batches_tracked", "pixel_mean", "pixel_std")  # which files may lack
    every = KGDet(load_config(CONFIG, CPU)).state_dict()
    return {name: value for name, value in every.items() if not name.endswith(counters)}


def written(folder, content):
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


def settings(cfg):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    return yaml.safe_load(cfg.dump())


def test_a_checkpoint_says_what_model_it_is_of(tmp_path):
    path, cfg, model = save(tmp_path, "MODEL.KGDET.COLUMNS", "[9, 9]", "SOLVER.BASE_LR", "0.5")
    found = config_of(path, [])
    assert settings(found) == settings(cfg) and found.MODEL.WEIGHTS == str(path)
    assert config_of(path, ["SOLVER.BASE_LR", "0.25"]).SOLVER.BASE_LR == 0.25
    loaded = load_model(found)
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_it_brings_landmarks_that_are_not_known(tmp_path):
    register_schema(SCARF)
    path, _, _ = save(tmp_path, "MODEL.KGDET.SCHEMA", "scarves")
    del schemas._SCHEMAS["scarves"]
    cfg = config_of(path, [])
    assert (cfg.MODEL.KGDET.NUM_CLASSES, cfg.MODEL.KGDET.NUM_KEYPOINTS) == (1, 2)
    assert get_schema("scarves") == SCARF


def test_other_landmarks_of_the_same_name_get_another_name(tmp_path):
    register_schema(SCARF)
    path, _, _ = save(tmp_path, "MODEL.KGDET.SCHEMA", "scarves")
    others = schemas._SCHEMAS["scarves"] = dataclasses.replace(SCARF, sigmas=(0.2, 0.2))
    name = config_of(path, []).MODEL.KGDET.SCHEMA
    assert name.startswith("scarves-") and config_of(path, []).MODEL.KGDET.SCHEMA == name
    assert get_schema(name) == dataclasses.replace(SCARF, name=name)
    assert get_schema("scarves") == others


@pytest.mark.parametrize(
    "description",
    [
        "text",
        {"config": "MODEL: {}"},
        {"config": "NO_SUCH_KEY: 1", "schema": json.dumps(FLD.to_dict())},
        {"config": "", "schema": "{"},
        {"config": "", "schema": json.dumps({"name": "x"})},
    ],
)
def test_a_description_that_cannot_be_read(tmp_path, state, description):
    path = written(tmp_path, {"model": state, "kgdet_d2": description})
    with pytest.raises(ValueError, match=r"weights\.pth: what it says of its model cannot be read"):
        config_of(path, [])


def test_weights_that_do_not_say_what_they_are(tmp_path, state):
    with pytest.raises(ValueError, match=r"weights\.pth: it does not say.*--config-file"):
        config_of(written(tmp_path, {"model": state}), [])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        config_of(tmp_path / "nowhere.pth", [])


def load(path, **options):
    model = KGDet(load_config(CONFIG, CPU))
    FashionCheckpointer(model).load(str(path), **options)
    return model


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}])
def test_weights_alone(tmp_path, state, wrap):
    loaded = load(written(tmp_path, wrap(state))).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("options", [{}, {"checkpointables": []}], ids=["whole", "start"])
def test_names_that_match_nothing(tmp_path, state, options):
    path = written(tmp_path, {f"net.{name}": value for name, value in state.items()})
    message = (
        rf"weights\.pth: expected the weights of this model, found 0 of {len(state)} .* not in the file: "
    )
    with pytest.raises(ValueError, match=message) as raised:
        load(path, **options)
    assert "backbone.bottom_up" in str(raised.value) and "not of the model: net." in str(raised.value)
    assert "--config-file" in str(raised.value) and len(str(raised.value)) < 900


def test_a_whole_model_must_be_whole(tmp_path, state):
    first, second, *_ = state
    lacking = {name: value for name, value in state.items() if name != first}
    with pytest.raises(ValueError, match=rf"{len(state) - 1} of {len(state)} .*; 1 not in the file: {first}"):
        load(written(tmp_path, lacking))
    other = state | {second: torch.zeros(3, 7)}
    expected = rf"1 of another shape: {second} \(expected \({len(state[second])}.*, got \(3, 7\)\)"
    with pytest.raises(ValueError, match=expected):
        load(written(tmp_path, other))


def test_a_start_takes_what_fits_and_logs_the_rest_in_a_line(tmp_path, state, caplog):
    backbone = {name: value for name, value in state.items() if name.startswith("backbone.")}
    path = written(tmp_path, {"model": backbone | {"head.extra": torch.zeros(2)}})
    with caplog.at_level(logging.INFO):
        model = load(path, checkpointables=[])
    name = next(iter(backbone))
    assert torch.equal(model.state_dict()[name], backbone[name])
    (line,) = [record.message for record in caplog.records if "took" in record.message]
    assert (
        f"took {len(backbone)} of {len(state)} weights" in line and "1 not of the model: head.extra" in line
    )
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_weights_under_state_dict(tmp_path, state):
    path = written(tmp_path, {"state_dict": state, "epoch": 3})
    for read in (load, lambda path: config_of(path, [])):
        with pytest.raises(
            ValueError, match=r"weights\.pth: the weights are under 'state_dict'.*kgdet convert"
        ):
            read(path)


def test_a_pickle_is_not_executed(tmp_path):
    path = written(tmp_path, {"model": logging.getLogger("root")})
    with pytest.raises(ValueError, match=r"weights\.pth: .*which is not executed"):
        load(path)


def test_the_release_s_file_as_it_is(tmp_path):
    """With its own columns; the weights of its neck that reach no output are left out."""
    opts = ["MODEL.FPN.FULL", "True", "MODEL.KGDET.COLUMNS", "[9]"]
    model = KGDet(load_config(RELEASE_CONFIG, [*CPU, *opts]))
    path = written(tmp_path, to_release({"model": model.state_dict()}, RELEASE_CONFIG, {})[0])
    cfg = config_of(path, CPU)
    assert list(cfg.MODEL.KGDET.COLUMNS) == [9]
    for name, value in load_model(cfg).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def test_landmarks_as_text(schema):
    assert KeypointSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    assert json.loads(describe(load_config(CONFIG, []))["schema"])["name"] == "deepfashion2"
    lacking = schema.to_dict()
    del lacking["sigmas"]
    with pytest.raises(ValueError, match=r"keypoint schema: expected the attributes .*sigmas.*, got"):
        KeypointSchema.from_dict(lacking)


# --- files that are whole or not there ---


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path, cfg, model = save(tmp_path)
    before = path.read_bytes()
    checkpointer = FashionCheckpointer(model, str(tmp_path), cfg=cfg)

    def full(content, stream):
        stream.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save(path.stem)
    assert path.read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".tmp")]


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_the_newest_whole_checkpoint_is_taken(tmp_path, damage, caplog):
    cfg = load_config(CONFIG, CPU)
    checkpointer = FashionCheckpointer(KGDet(cfg), str(tmp_path), cfg=cfg)
    for number, name in enumerate(["model_0000001", "model_0000003", "model_0000005"]):
        checkpointer.save(name)
        os.utime(tmp_path / f"{name}.pth", (number, number))
    last = tmp_path / "model_0000005.pth"
    assert checkpointer.get_checkpoint_file() == str(last)
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[:-100], "flipped": content}.get(damage, b""))
    if damage == "missing":
        last.unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000003.pth")
    assert "model_0000005.pth: the last checkpoint is cut off or missing" in caplog.text
    for file in tmp_path.glob("*.pth"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model_0000005\.pth: the last checkpoint .* and so are all"):
        checkpointer.get_checkpoint_file()
