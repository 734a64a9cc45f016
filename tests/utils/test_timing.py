"""Timing of several models in turns."""

import time

import pytest
import torch

from kgdet_d2.utils.timing import quartiles, time_in_turns


class Sleeper(torch.nn.Module):
    """A stand-in for a detector that takes a known time and records what it is given."""

    def __init__(self, name, seconds, calls):
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, calls

    def forward(self, batch):
        assert torch.is_inference_mode_enabled()
        self.calls.append((self.name, batch))
        time.sleep(self.seconds)


def test_models_take_turns_and_the_first_batch_is_not_counted():
    calls = []
    models = {"fast": Sleeper("fast", 0.0, calls), "slow": Sleeper("slow", 0.03, calls)}
    batches = ({"fast": [row], "slow": [-row]} for row in range(3))
    times = time_in_turns(models, batches)
    expected = [("fast", [0]), ("slow", [0]), ("fast", [1]), ("slow", [-1]), ("fast", [2]), ("slow", [-2])]
    assert calls == expected
    assert {name: len(values) for name, values in times.items()} == {"fast": 2, "slow": 2}
    assert all(30 <= value < 3000 for value in times["slow"])
    assert 0 < min(times["fast"]) < 30


def test_no_batches_take_no_time():
    assert time_in_turns({"model": Sleeper("model", 0.0, [])}, []) == {"model": []}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], (7, 7, 7)), ([4.0, 0.0, 1.0, 3.0, 2.0], (2, 1, 3)), ([0.0, 1.0], (0.5, 0.25, 0.75))],
)
def test_quartiles(values, expected):
    assert quartiles(values) == dict(zip(("median", "lower", "upper"), expected, strict=True))
