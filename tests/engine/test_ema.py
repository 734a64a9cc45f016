"""The average of the weights: its arithmetic, its place in checkpoints, and training that goes on with it."""

import copy

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from torch import nn

from kgdet_d2.config import load_config
from kgdet_d2.engine import Trainer
from kgdet_d2.engine.ema import EMAHook, warmed_up
from tests.helpers.images import image_input
from tests.helpers.systems import make_model

CONFIG = "configs/sample/kgdet_tiny.yaml"
EMA = ["SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.2"]


def same(first, second):
    """Return whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


# --- the average ---


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def perturb(model):
    """Change weights and BatchNorm's statistics as an iteration does."""
    model(torch.randn(5, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)


def test_weights_and_running_statistics_are_averaged():
    """With 0.3 for the largest decay: a copy, 2/11, 3/12, 0.3, 0.3; computed one number at a time."""
    model = net()
    hook = EMAHook(model, decay=0.3)
    expected = {}
    for decay in (0, 2 / 11, 3 / 12, 0.3, 0.3):
        perturb(model)
        hook.after_step()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                old = expected.get(name, torch.zeros_like(value, dtype=torch.float64))
                expected[name] = decay * old + (1 - decay) * value.double()
    averaged = hook.averaged_model.state_dict()
    assert {"0.weight", "1.bias", "1.running_mean", "1.running_var"} <= expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value.float(), rtol=1e-5, atol=1e-6)
        assert not averaged[name].equal(model.state_dict()[name])


def test_indices_and_counters_are_copied():
    """Their average would be rounded down: 5 of 0.9 x 5 + 0.1 x 5 may become 4."""
    model = net()
    model.register_buffer("slots", torch.arange(300))
    hook = EMAHook(model, decay=0.9)
    for _ in range(20):
        perturb(model)
        hook.after_step()
    averaged = hook.averaged_model
    assert torch.equal(averaged.slots, torch.arange(300))
    assert averaged[1].num_batches_tracked == model[1].num_batches_tracked == 20


def test_what_does_not_change_stays_the_same_bit_for_bit():
    model = net()
    model[0].requires_grad_(False)
    hook = EMAHook(model, decay=0.999)
    for _ in range(20):
        model[1](torch.randn(5, 4))
        hook.after_step()
    assert all(map(torch.equal, model[0].parameters(), hook.averaged_model[0].parameters()))
    assert not model[1].running_mean.equal(hook.averaged_model[1].running_mean)


def test_the_average_has_no_training_mode():
    assert not hook_after_three_iterations(net()).averaged_model.training


@pytest.mark.parametrize(
    ("updates", "decay"), [(0, 0.1), (1, 2 / 11), (890, 0.99), (8990, 0.999), (10**6, 0.999)]
)
def test_decay_is_smaller_at_first(updates, decay):
    assert warmed_up(0.999, updates) == pytest.approx(decay)
    assert warmed_up(0.05, updates) == 0.05


def test_most_of_a_short_training_s_average_is_of_its_last_tenth():
    weight, share = 1.0, []
    for update in reversed(range(1, 600)):
        share.append(weight * (1 - warmed_up(0.999, update)))
        weight *= warmed_up(0.999, update)
    assert sum(share[:60]) > 0.6 and sum(share[300:]) + weight < 0.005


def hook_after_three_iterations(model):
    hook = EMAHook(model, decay=0.9)
    for _ in range(3):
        perturb(model)
        hook.after_step()
    return hook


# --- in training ---


class Loader:
    """Batches that depend on the iteration alone."""

    def __init__(self, first):
        self.first = first

    def __iter__(self):
        for iteration in range(self.first, 100):
            torch.manual_seed(iteration)
            yield [image_input(96, 64, [[5, 5, 60, 90]]), image_input(64, 96, [[10, 0, 90, 60]])]


@pytest.fixture
def make_trainer(monkeypatch, restored_loggers):
    """Make a trainer that has no datasets; it begins, or resumes, in a folder."""

    def make(folder, *opts, first=0, resume=False):
        monkeypatch.setattr(Trainer, "build_train_loader", classmethod(lambda cls, cfg: Loader(first)))
        quick = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]
        quick += ["DATASETS.TEST", "()", "OUTPUT_DIR", str(folder)]
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        trainer = Trainer(load_config(CONFIG, [*quick, *opts]))
        trainer.resume_or_load(resume)
        return trainer

    return make


def learning(trainer):
    return trainer.model.state_dict()


def averaged(trainer):
    return trainer.checkpointer.model.state_dict()


def test_resumed_training_is_the_same_bit_for_bit(make_trainer, tmp_path):
    straight = make_trainer(tmp_path / "straight", *EMA)
    straight.train()
    broken_off = make_trainer(tmp_path / "resumed", *EMA)
    broken_off.max_iter = 2
    broken_off.train()
    resumed = make_trainer(tmp_path / "resumed", *EMA, first=2, resume=True)
    assert resumed.start_iter == 2
    assert same(learning(resumed), learning(broken_off)) and same(averaged(resumed), averaged(broken_off))
    resumed.train()
    assert same(learning(resumed), learning(straight))
    assert same(averaged(resumed), averaged(straight))
    assert not same(learning(straight), averaged(straight))
    states = [trainer.optimizer.state_dict()["state"] for trainer in (resumed, straight)]
    assert all(same(first, second) for first, second in zip(*map(dict.values, states), strict=True))


def test_a_checkpoint_s_model_is_the_average_for_all_that_read_it(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, *EMA)
    trainer.train()
    file = str(tmp_path / "model_final.pth")
    checkpoint = torch.load(file, weights_only=True)
    assert same(checkpoint["model"], averaged(trainer))
    assert same(checkpoint["trainer"]["hooks"]["EMAHook"]["model"], learning(trainer))
    model = make_model("kgdet_tiny")
    DetectionCheckpointer(model).load(file)
    assert same(model.state_dict(), averaged(trainer))
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", file])
    assert same(DefaultPredictor(cfg).model.state_dict(), averaged(trainer))


def test_the_average_is_evaluated_during_training_and_after_it(make_trainer, tmp_path, monkeypatch):
    evaluated = []

    def test(cls, cfg, model, evaluators=None):
        evaluated.append(copy.deepcopy(model.state_dict()))
        return {"bbox": {"AP": 1.0}}

    monkeypatch.setattr(Trainer, "test", classmethod(test))
    make_trainer(tmp_path, *EMA, "TEST.EVAL_PERIOD", "2").train()
    assert len(evaluated) == 2
    for file, weights in zip(("model_0000001.pth", "model_final.pth"), evaluated, strict=True):
        assert same(torch.load(tmp_path / file, weights_only=True)["model"], weights)


def test_weights_to_begin_with_are_learnt_from_and_averaged(make_trainer, tmp_path):
    file, other = tmp_path / "weights.pth", make_model("kgdet_tiny")
    nn.init.ones_(other.backbone.bottom_up.stem.conv1.weight)
    torch.save({"model": other.state_dict()}, file)
    trainer = make_trainer(tmp_path / "run", *EMA, "MODEL.WEIGHTS", str(file))
    assert same(learning(trainer), other.state_dict()) and same(averaged(trainer), other.state_dict())


def test_the_average_can_be_turned_on_and_off_by_the_way(make_trainer, tmp_path, caplog):
    """Without a stored average it begins anew; a stored one goes on as the weights, with a warning."""
    first = make_trainer(tmp_path)
    first.max_iter = 2
    first.train()
    second = make_trainer(tmp_path, *EMA, first=2, resume=True)
    assert same(learning(second), learning(first)) and same(averaged(second), learning(first))
    second.train()
    assert same(learning(second), learning(first)) is False
    third = make_trainer(tmp_path, resume=True)
    assert same(learning(third), averaged(second))
    assert "Cannot find the hook 'EMAHook'" in caplog.text


def test_no_average_where_none_is_asked_for(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path)
    assert trainer.checkpointer.model is trainer.model
