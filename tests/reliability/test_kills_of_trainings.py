"""Trainings that are killed at any moment, and gone on with, end as one that was not."""

import pytest

from tests.helpers.commands import Command, timed
from tests.helpers.trainings import arguments, assert_same

SYSTEM = "kgdet_plus_tiny_scratch"  # which has an average of the weights, too


@pytest.mark.reliability
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_of_trainings(workers, datasets_root, tmp_path, campaign):
    def start(folder, *opts):
        words = ["train", *arguments(SYSTEM, folder, *opts, workers=workers)]
        return Command(tmp_path / f"{folder.name}.log", words, datasets=datasets_root)

    whole, duration = timed(start(tmp_path / "whole"))
    assert whole.status == 0, whole.errors[-1000:]

    def attempt(rng):
        folder = tmp_path / f"killed{rng.integers(1_000_000)}"
        killed = start(folder).kill_after(rng.uniform(0, duration))
        outcome = "before the first checkpoint" if not (folder / "last_checkpoint").is_file() else "after one"
        resumed = start(folder, "--resume").wait()
        assert resumed.status == 0, resumed.errors[-1000:]
        assert_same(tmp_path / "whole", folder)
        assert not list(folder.glob("*.tmp")), "half a checkpoint is left"
        return outcome if killed else "had ended"

    campaign.run(f"training killed, workers {workers}", 20, 10 + workers, attempt)
