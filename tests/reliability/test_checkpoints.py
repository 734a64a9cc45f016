"""Damaged and hostile weights: refused by one line or loaded; nothing in them is executed."""

import builtins
import io
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from kgdet_d2.checkpoint.files import read_checkpoint, write_weights
from tests.helpers.commands import assert_refused, run
from tests.helpers.mutations import mutate_bytes
from tests.helpers.untrained import CONFIG, save_untrained

EACH = 100
# A network that is read and run in a moment.
SMALL = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"]
SMALL += ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.KGDET.CONV_DIM", "16", "TEST.DETECTIONS_PER_IMAGE", "3"]


class Hostile:
    """Makes a file when its pickle is executed, in one of several ways."""

    def __init__(self, path, way):
        self.path, self.way = str(path), way

    def __reduce__(self):
        return {
            "open": (open, (self.path, "w")),
            "exec": (builtins.exec, (f"open({self.path!r}, 'w')",)),
            "eval": (builtins.eval, (f"open({self.path!r}, 'w')",)),
            "system": (os.system, (f"touch {self.path}",)),
            "mkdir": (os.mkdir, (self.path,)),
            "tofile": (np.ndarray.tofile, (np.zeros(1), self.path)),
            "save": (torch.save, ({}, self.path)),
        }[self.way]


WAYS = ("open", "exec", "eval", "system", "mkdir", "tofile", "save")


def mutate_weights(content, rng):
    """Change a weight, its name or what is beside the weights; content is changed in place."""
    weights = content["model"]
    name = str(rng.choice(list(weights)))
    kind = str(
        rng.choice(["drop", "rename", "shape", "nan", "huge", "type", "none", "empty", "beside", "far"])
    )
    weight = torch.as_tensor(weights[name])
    changed = {
        "shape": weight[None],
        "nan": torch.full_like(weight.float(), [torch.nan, torch.inf][int(rng.integers(2))]),
        "huge": weight * 1e30,
        "type": weight.to(torch.float16),
        "none": None,
        "empty": torch.zeros(0),
        "far": torch.zeros(3, 3, 3, 3, 3),
    }
    if kind == "drop":
        del weights[name]
    elif kind == "rename":
        weights[f"module.{name}"] = weights.pop(name)
    elif kind == "beside":
        content["kgdet_d2"] = [{}, None, "text", {"config": "MODEL: [", "schema": "{}"}][int(rng.integers(4))]
    else:
        weights[name] = changed[kind]


def written(suffix, content):
    """The bytes of a file of weights, of values that the form may not have been meant for."""
    if suffix == ".pkl":
        arrays = {name: np.asarray(weight) for name, weight in content["model"].items()}
        return pickle.dumps({"model": arrays, "__author__": "test"})
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.reliability
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_checkpoints(suffix, tmp_path, campaign):
    (tmp_path / "model").mkdir()
    stored = save_untrained(tmp_path / "model", opts=SMALL)
    content = {key: value for key, value in read_checkpoint(stored).items() if key in ("model", "kgdet_d2")}
    path, canary, photo = tmp_path / f"damaged{suffix}", tmp_path / "canary", tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo)
    if suffix == ".safetensors":
        write_weights(path, content)
        original = path.read_bytes()
    else:
        original = written(suffix, content)
    names, number = set(os.listdir(tmp_path)) | {path.name, "model"}, iter(range(10**6))

    def predict():
        output = tmp_path / "outputs" / str(next(number))
        config = ["--config-file", CONFIG, "--opts", *SMALL] if suffix == ".pkl" else []
        ended = run("predict", photo, "--weights", path, "--output", output, "--device", "cpu", *config)
        assert not canary.exists(), "what a file of weights holds was executed"
        assert set(os.listdir(tmp_path)) <= names | {"outputs"}
        if ended.status:
            assert_refused(ended, path.name)
            assert not output.exists(), "something was written all the same"
            return "refused"
        return "loaded"

    def attempt(rng):
        kind = rng.random()
        if kind < 0.4:
            path.write_bytes(mutate_bytes(original, rng))
        elif kind < 0.6:
            hostile = Hostile(canary, WAYS[int(rng.integers(len(WAYS)))])
            form = {"model": {"w": hostile}} if rng.random() < 0.5 else hostile
            with open(path, "wb") as file:
                pickle.dump(form, file, int(rng.integers(6))) if rng.random() < 0.5 else torch.save(
                    form, file
                )
        else:
            fresh = {**content, "model": dict(content["model"])}
            mutate_weights(fresh, rng)
            if suffix == ".safetensors":
                fresh["model"] = {name: w for name, w in fresh["model"].items() if w is not None}
                write_weights(path, fresh)
            else:
                path.write_bytes(written(suffix, fresh))
        return predict()

    path.write_bytes(original)
    assert predict() == "loaded"
    campaign.run(f"damaged and hostile weights, {suffix}", EACH, 80 + len(suffix), attempt)
