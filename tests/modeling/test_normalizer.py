"""Two processes learn what one does that has the whole batch, in float64, on batches of every kind.

BatchNorm in training takes the statistics of a process's own images, and differs by nature. So the networks
here have GroupNorm and frozen BatchNorms. What is drawn at random (anchors, proposals, locations, wrong
classes) is all taken, or fixed.
"""

import copy
from functools import partial

import pytest
import torch
from detectron2.utils.events import EventStorage

from kgdet_d2.modeling.match_rcnn import MatchingHead
from kgdet_d2.modeling.normalizer import normalizers, share_of_mean, sum_over_processes
from tests.helpers.data_parallel import (
    SYSTEMS,
    TOLERANCE,
    assert_two_processes_learn_what_one_does,
    batches,
    build,
    distance,
    fix,
    learn,
    learn_in_two_processes,
)
from tests.helpers.processes import run_as_processes


@pytest.fixture
def fixed(monkeypatch):
    """Fix what is drawn at random, and let Detectron2's suppression take float64."""
    fix(monkeypatch.setattr)


@pytest.fixture
def storage():
    """One, which threads share."""
    with EventStorage() as storage:
        yield storage


def learn_as_processes(monkeypatch, model, parts):
    """The average of the gradients of threads, one for each part of the batch."""
    models = [copy.deepcopy(model) for _ in parts]
    calls = [partial(learn, *given) for given in zip(models, parts, strict=True)]
    return torch.stack(run_as_processes(monkeypatch, calls)).mean(dim=0)


@pytest.mark.usefixtures("fixed", "storage")
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_learn_what_one_does(system, monkeypatch):
    model, parts = build(system), batches(system, "none in one")
    found = learn_as_processes(monkeypatch, model, parts)
    assert distance(found, learn(model, [*parts[0], *parts[1]])) < TOLERANCE


@pytest.mark.usefixtures("fixed", "storage")
@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in ("selection", "quality")])
def test_local_normalizers_weigh_garments_by_their_process(system, monkeypatch):
    model, parts = build(system, "MODEL.LOSS_NORMALIZER", "local"), batches(system, "more in one")
    expected = torch.stack([learn(copy.deepcopy(model), part) for part in parts]).mean(dim=0)  # each alone
    found = learn_as_processes(monkeypatch, model, parts)
    assert distance(found, expected) < TOLERANCE
    assert distance(found, learn(model, [*parts[0], *parts[1]])) > 0.01


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="launch takes one GPU per process where there is any")
@pytest.mark.usefixtures("fixed", "storage")
def test_two_real_processes(tmp_path):
    learn_in_two_processes(tmp_path)
    for system in SYSTEMS:
        assert_two_processes_learn_what_one_does(system, tmp_path)


def test_pairs_of_all_processes_weigh_the_same(monkeypatch):
    """The embeddings' BatchNorm takes a process's statistics: it is fixed here."""
    torch.manual_seed(0)
    pooled = [torch.randn(count, 4, dtype=torch.float64) for count in (5, 2, 3)]
    items = [torch.arange(len(rows)) % 2 for rows in pooled]
    shops = [[True, False, False, True, False], [False, True], [True, True, True]]  # 6, 1 and no pairs
    head = MatchingHead(
        in_features=["p2"],
        pooler=lambda features, boxes: features[0],
        in_channels=4,
        conv_dims=[],
        embedding_dim=3,
        loss_weight=0.5,
    ).double()
    head.norm.eval()

    def loss(number):
        features, from_shop = {"p2": pooled[number][:, :, None, None]}, torch.tensor(shops[number])
        return head.losses(features, [], items[number], from_shop)["loss_match"].item()

    found = run_as_processes(monkeypatch, [partial(loss, number) for number in range(3)])
    assert sum(found) / 3 == pytest.approx((6 * loss(0) + loss(1)) / 7, rel=1e-12) and found[2] == 0


@pytest.mark.parametrize("scope", ["global", "local"])
def test_alone_nothing_changes(scope):
    device, counts = torch.device("cpu"), torch.tensor([3, 0])
    assert normalizers([0, 1, 7], scope, device) == [1, 1, 7] and share_of_mean(0, scope, device) == 1
    assert sum_over_processes(counts, scope) is counts


def test_counts_of_three_processes(monkeypatch):
    """Of each process's counts; none at all is divided as one is."""
    device = torch.device("cpu")
    counts = [[0, 4], [0, 0], [0, 5]]
    found = run_as_processes(monkeypatch, [partial(normalizers, c, "global", device) for c in counts])
    assert found == [[1 / 3, 3]] * 3
    shares = run_as_processes(monkeypatch, [partial(share_of_mean, c[1], "global", device) for c in counts])
    assert shares == [4 / 3, 0, 5 / 3]
