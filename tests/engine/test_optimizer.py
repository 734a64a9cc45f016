import pytest
import torch
from detectron2.solver import build_lr_scheduler
from torch import nn

from kgdet_d2.config import load_config
from kgdet_d2.engine.optimizer import build_optimizer


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
