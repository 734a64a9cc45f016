"""A model's folder in the Hub's form: written, read again, and refused where it holds something else."""

import sys

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from kgdet_d2 import FashionPredictor
from kgdet_d2.hub import find_pretrained
from kgdet_d2.schema import load_schema
from tests.helpers.untrained import save_untrained


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def predictor(weights):
    return FashionPredictor.from_checkpoint(weights, "cpu", score_threshold=0.0)


@pytest.fixture(scope="module")
def folder(predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "garments"
    predictor.save_pretrained(folder, {"synthfashion_val": {"box AP": 12.5, "landmark AP": 1.25}})
    return folder


def test_there_and_back(predictor, folder):
    photo = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    read = FashionPredictor.from_pretrained(folder, "cpu", score_threshold=0.0)
    found, expected = read(photo), predictor(photo)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert len(found) > 0


def test_what_is_in_it(predictor, folder, weights):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.yaml",
        "model.safetensors",
        "schema.yaml",
    ]
    assert load_schema(folder / "schema.yaml").difference(predictor.schema) == ""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["MODEL"]["META_ARCHITECTURE"] == "KGDet" and config["MODEL"]["WEIGHTS"] == ""
    card = ModelCard.load(folder / "README.md")
    results = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert results == {("synthfashion_val", "box AP"): 12.5, ("synthfashion_val", "landmark AP"): 1.25}
    for path in folder.iterdir():  # nobody's business
        assert str(weights.parent).encode() not in path.read_bytes()


def test_a_pickle_is_none(tmp_path):
    torch.save({"model": {}}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors, got pytorch_model\.bin"):
        FashionPredictor.from_pretrained(tmp_path)


def test_what_was_fetched_before_is_found_offline(folder, tmp_path, monkeypatch):
    """As huggingface_hub keeps it."""
    commit = "0" * 40
    model = tmp_path / "models--someone--garments"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots").mkdir()
    (model / "snapshots" / commit).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_pretrained("someone/garments").samefile(folder / "model.safetensors")
    for name in ("someone/gloves", "no//name"):
        with pytest.raises(OSError, match=f"{name}: there is no such folder, and the Hub does not have it"):
            find_pretrained(name)


def test_weights_that_are_not_as_they_were_trained(weights, tmp_path):
    fused = FashionPredictor.from_checkpoint(weights, "cpu", opts=["MODEL.INFERENCE.FUSE_BN", "True"])
    with pytest.raises(ValueError, match=r"MODEL\.INFERENCE: expected FUSE_BN and COMPILE False"):
        fused.save_pretrained(tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_without_the_package(predictor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'kgdet_d2\[hub\]'"):
        predictor.save_pretrained(tmp_path / "hub")
    with pytest.raises(ImportError, match=r"no such folder, and .* pip install 'kgdet_d2\[hub\]'"):
        FashionPredictor.from_pretrained("someone/garments")
