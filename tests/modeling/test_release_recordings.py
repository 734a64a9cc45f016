"""The compact recordings are samples of the full ones, and the weights are those that both were made with."""

import importlib.util

import numpy as np
import pytest

from kgdet_d2.checkpoint.mmdet import mmdet_key_map
from tests.helpers.make_release_recordings import RULES, compact
from tests.helpers.release_heads import make_reppoints_kp_head
from tests.helpers.release_recordings import COMPACT, FULL, load, needs_full, noise, weight


@needs_full
@pytest.mark.parametrize("name", RULES)
def test_compact_recordings_are_samples_of_the_full_ones(name):
    made, kept = compact(name), load(name, "compact")
    assert made.facts == kept.facts
    assert made.arrays.keys() == kept.arrays.keys()
    for key, values in made.arrays.items():
        np.testing.assert_array_equal(values, kept[key])


def test_compact_recordings_stay_small():
    assert {path.stem for path in COMPACT.glob("*.npz")} == set(RULES)
    assert sum(path.stat().st_size for path in COMPACT.iterdir()) < 2_000_000


@needs_full
@pytest.mark.parametrize(("depth", "columns"), [(50, [9, 25, 49]), (50, [9]), (101, [9, 25, 49])])
def test_weights_are_the_recordings_to_the_bit(depth, columns):
    spec = importlib.util.spec_from_file_location("fill", FULL / "fill.py")
    recorded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorded)
    _, _, reppoints = make_reppoints_kp_head()
    for name in (*mmdet_key_map(depth=depth, columns=columns, num_stages=3), *reppoints.values()):
        shapes = {"conv": (3, 5, 3, 3), "downsample.0": (3, 5, 1, 1), "num_batches_tracked": ()}
        fitting = (shape for part, shape in shapes.items() if part in name and "bias" not in name)
        shape = next(fitting, (7,) if "_out.weight" not in name else (4, 6, 1, 1))
        for candidate in {shape, (7,)}:
            ours, theirs = weight(name, candidate), recorded.value(name, candidate)
            assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), name
    assert (noise("a.b", (2, 3), salt=8) == recorded.signed("a.b", (2, 3), salt=8)).all()


def test_weights_depend_on_the_name_and_the_place_alone():
    """First numbers of the hash, written down so that a change shows without the full recordings."""
    assert (noise("head", (2, 3)).ravel() == noise("head", (6,))).all()
    assert noise("head", (3,)).tolist() == [-0.4764860182694022, -0.3858797201136377, -0.8278053074643728]
    assert not (noise("head", (100,)) == noise("tail", (100,))).any()
    assert abs(noise("head", (10_000,)).mean()) < 0.02
