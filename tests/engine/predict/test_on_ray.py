"""``kgdet predict --engine ray``: the same files as without, whatever becomes of the actors."""

import os
import pickle
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from kgdet_d2.engine.predict import on_ray
from kgdet_d2.engine.predict.job import Settings
from kgdet_d2.engine.predict.parts import Part, PartPredictor
from kgdet_d2.engine.predict.sources import find_sources
from kgdet_d2.predictor import FashionPredictor
from kgdet_d2.schema import get_schema
from tests.helpers.predict_runs import ALL, contents, predict, start


def test_an_actor_does_what_this_process_does(photos, weights, monkeypatch):
    """It gets nothing but the weights' bytes, the settings and the part."""
    predictor = FashionPredictor.from_checkpoint(weights, "cpu", 0.0)
    part = Part(3, find_sources([str(photos / "a")], None))
    [expected] = [list(files) for _, files in PartPredictor(predictor, ALL, 2, 1)([part])]
    settings = Settings(predictor.cfg, 0.0, tuple(ALL), 2, 3)
    monkeypatch.setattr(on_ray, "_import_ray", lambda: SimpleNamespace(get=Path.read_bytes))
    schema = pickle.loads(pickle.dumps(get_schema("deepfashion2")))
    actor = on_ray._Actor(Path(weights), schema, pickle.loads(pickle.dumps(settings)), workers=1)
    row = actor({"part": pickle.dumps(part)})
    assert row["first"] == 3 and pickle.loads(row["files"]) == expected
    assert "figures/000003.jpg" in dict(expected) and "parts/00000003/photos.parquet" in dict(expected)


def test_ray_is_missing(photos, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert predict(tmp_path / "found", weights, photos, "--engine", "ray") == 1
    assert "error: ray is missing: pip install 'kgdet_d2[ray]'" in capsys.readouterr().err


def test_no_cluster_at_the_address(photos, weights, tmp_path, capsys):
    pytest.importorskip("ray")
    assert predict(tmp_path, weights, photos, "--engine", "ray", "--address", "127.0.0.1:1") == 1
    assert "error: --address: no Ray cluster at 127.0.0.1:1: " in capsys.readouterr().err


def test_weights_that_do_not_fit_are_told_before_ray_starts(photos, tmp_path, monkeypatch, capsys):
    torch.save({"model": {"nothing.weight": torch.zeros(3)}}, tmp_path / "weights.pth")
    monkeypatch.setattr(on_ray, "_import_ray", None)
    config = ["--engine", "ray", "--config-file", "sample/kgdet_tiny.yaml"]
    assert predict(tmp_path / "found", str(tmp_path / "weights.pth"), photos, *config) == 1
    assert "expected the weights of this model" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


@contextmanager
def one_thread():
    """As Ray gives an actor one; the last bits of results may depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def actors_of(pid):
    """The processes of Ray's actors that hold the model, below a process."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        names[int(folder.name)] = command.decode(errors="replace")
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(child for child in below if "_Actor" in names.get(child, ""))


needs_ray = pytest.mark.skipif(
    not Path("/proc").is_dir() or find_spec("ray") is None, reason="needs ray, and /proc to find its actors"
)


@pytest.fixture(scope="module")
def many(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "photos"
    for name in "cdef":
        shutil.copytree(photos, folder / name)
    return folder


@pytest.fixture(scope="module")
def whole_of_many(many, weights):
    with one_thread():
        assert predict(many.parent / "whole", weights, many, "--formats", *ALL) == 1
    return many.parent / "whole"


def start_on_two_actors(tmp_path, weights, photos):
    """Start the command, and wait until two parts are done; its log is log.txt."""
    options = ["--engine", "ray", "--num-actors", "2", "--formats", *ALL]
    command = start(tmp_path / "log.txt", tmp_path / "found", weights, photos, *options)
    while command.poll() is None and len(list(tmp_path.glob("found/parts/*[0-9]"))) < 2:
        time.sleep(0.1)
    return command


@pytest.mark.slow
@needs_ray
def test_whole_and_equal_though_an_actor_was_killed(many, weights, tmp_path, whole_of_many):
    """Photos are at URIs there; only the errors of those that cannot be read differ in their paths."""
    command = start_on_two_actors(tmp_path, weights, f"file://{many}")
    actors = actors_of(command.pid)
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    assert command.wait() == 1, (tmp_path / "log.txt").read_text()
    found, whole = contents(tmp_path / "found"), contents(whole_of_many)
    tables = [pq.read_table(folder / "photos.parquet") for folder in (tmp_path / "found", whole_of_many)]
    assert tables[0].drop_columns("error").equals(tables[1].drop_columns("error"))
    assert [row.as_py() is None for row in tables[0]["error"]] == 4 * [*[True] * 7, False]
    for name in ("photos.parquet", "run.json"):
        found.pop(name), whole.pop(name)
    assert found == whole


@pytest.mark.slow
@needs_ray
def test_what_ray_began_goes_on_without_it(many, weights, tmp_path, whole_of_many):
    command = start_on_two_actors(tmp_path, weights, many)
    command.kill()
    command.wait()
    with one_thread():
        assert predict(tmp_path / "found", weights, many, "--formats", *ALL, resume=True) == 1
    assert contents(tmp_path / "found") == contents(whole_of_many)
