"""Two processes of gloo learn what one does that has the whole batch, to 1e-12 in float64."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from tests.helpers.data_parallel import (
    SYSTEMS,
    assert_two_processes_learn_what_one_does,
    fix,
    learn_in_two_processes,
)


@pytest.mark.reliability
@pytest.mark.skipif(torch.cuda.is_available(), reason="launch takes one GPU per process where there is any")
def test_two_processes(tmp_path, monkeypatch, campaign):
    fix(monkeypatch.setattr)
    learn_in_two_processes(tmp_path)

    def same(system):
        with EventStorage():
            assert_two_processes_learn_what_one_does(system, tmp_path)
        return "gradients equal"

    campaign.each("two processes", {system: lambda system=system: same(system) for system in SYSTEMS})
