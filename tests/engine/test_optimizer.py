import pytest
import torch
from detectron2.solver import build_lr_scheduler
from torch import nn

from kgdet_d2.config import load_config
from kgdet_d2.engine.optimizer import build_optimizer
from tests.helpers.systems import make_kgdet


def make_cfg(*opts):
    return load_config("configs/kgdet_R50.yaml", [*opts])


def test_the_whole_model_s_gradient_is_limited_together():
    model = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)])
    optimizer = build_optimizer(make_cfg("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "2.0"), model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    optimizer.step()
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter, old - 0.005 * (gradient * 2.0 / norm + 1e-4 * old))


def test_small_gradients_stay_and_biases_and_norms_decay_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4))
    optimizer = build_optimizer(make_cfg(), model)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all((parameter.grad == 1).all() for parameter in model.parameters())


def test_detectron2_s_own_clipping_still_works():
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(
        make_cfg("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"), model
    )
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    assert all((parameter.grad == 0.5).all() for parameter in model.parameters())


def learning_rates(cfg, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_the_backbone_s_own_learning_rate(optimizer):
    """It is that of the network below the pyramid, biases included, and all else stays as it is."""
    opts = ["SOLVER.OPTIMIZER", optimizer, "SOLVER.BASE_LR", "0.02", "SOLVER.BIAS_LR_FACTOR", "2.0"]
    cfg, model = make_cfg(*opts, "SOLVER.BACKBONE_LR_FACTOR", "0.1"), make_kgdet()
    rates, plain = learning_rates(cfg, model), learning_rates(make_cfg(*opts), model)
    assert rates.keys() == plain.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        factor = 0.1 if name.startswith("backbone.bottom_up.") else 1
        assert plain[name] == 0.02 * (2 if name.endswith(".bias") else 1)
        assert rate == pytest.approx(factor * plain[name])
    assert rates["backbone.bottom_up.stem.conv1.weight"] == pytest.approx(0.002)


def test_the_backbone_s_weight_decay_is_that_of_the_rest():
    model = make_kgdet()
    cfg = make_cfg("SOLVER.BACKBONE_LR_FACTOR", "0.5", "SOLVER.WEIGHT_DECAY_NORM", "0.0")
    groups = build_optimizer(cfg, model).param_groups
    settings = {(group["lr"], group["weight_decay"]) for group in groups}
    assert settings == {(0.005, 1e-4), (0.005, 0.0), (0.0025, 1e-4), (0.0025, 0.0)}


def test_a_model_without_a_backbone_has_no_learning_rate_for_it():
    with pytest.raises(ValueError, match=r"BACKBONE_LR_FACTOR: expected 1, .* got 0.1"):
        build_optimizer(make_cfg("SOLVER.BACKBONE_LR_FACTOR", "0.1"), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("iteration", "expected"),
    # The released schedule at 1,000 iterations an epoch.
    [
        *((0, 0.005 / 3), (250, 0.0033333333), (499, 0.0049933333), (500, 0.005), (7999, 0.005)),
        *((8000, 0.0005), (10999, 0.0005), (11000, 0.00005), (11999, 0.00005)),
    ],
)
def test_learning_rate_as_released(iteration, expected):
    cfg = make_cfg("SOLVER.MAX_ITER", "12000", "SOLVER.STEPS", "(8000, 11000)")
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(iteration):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-6)
