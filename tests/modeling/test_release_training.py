"""What learns in training, and several steps of it, against the release's arithmetic written out."""

import copy

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances, Keypoints
from torch import nn

from kgdet_d2.config import load_config
from kgdet_d2.engine.optimizer import build_optimizer
from kgdet_d2.modeling.meta_arch import KGDet

STEPS = 6
# The released solver, a small model, and few iterations: three of warm-up, the last two after a step.
# Losses of garments so large that the limit on the gradient matters where a photo has some.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.OUT_FEATURES", ["p4"]),
    *("MODEL.KGDET.CONV_DIM", 32, "MODEL.KGDET.NUM_CONVS", 1, "MODEL.KGDET.COLUMNS", [9, 25]),
    *("MODEL.KGDET.LOSS.BOX_WEIGHT", 1e3, "MODEL.KGDET.LOSS.KEYPOINT_WEIGHT", 1e3),
    *("SOLVER.WARMUP_ITERS", 3, "SOLVER.MAX_ITER", STEPS, "SOLVER.STEPS", (4,)),
]


@pytest.mark.parametrize("depth", [50, 101])
def test_stem_and_res2_are_frozen_and_statistics_fixed(depth):
    """Of the real config: all else learns, BatchNorm's weights and biases too."""
    options = ["MODEL.DEVICE", "meta", "MODEL.RESNETS.DEPTH", depth]
    cfg = load_config("configs/kgdet_R50.yaml", options)
    with torch.device("meta"):
        model = KGDet(cfg).train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    bottom_up = model.backbone.bottom_up
    for part, learns in (("stem", False), ("res2", False), ("res3", True), ("res4", True), ("res5", True)):
        names = {
            f"backbone.bottom_up.{part}.{name}" for name, _ in getattr(bottom_up, part).named_parameters()
        }
        assert names and (names.isdisjoint(frozen) if learns else names <= frozen)
        norms = [m for m in getattr(bottom_up, part).modules() if "BatchNorm" in type(m).__name__]
        assert norms
        for norm in norms:
            assert isinstance(norm, nn.BatchNorm2d if learns else FrozenBatchNorm2d)
            assert not learns or (not norm.training and norm.weight.requires_grad and norm.bias.requires_grad)
    assert all(name.startswith(("backbone.bottom_up.stem.", "backbone.bottom_up.res2.")) for name in frozen)


def batches():
    """Photos with garments of several sizes and one without any, whose gradient is small."""
    generator = torch.Generator().manual_seed(0)
    for boxes in (
        [[5, 5, 60, 90]],
        [],
        [[0, 0, 90, 60], [20, 10, 60, 40]],
        [[30, 30, 50, 95]],
        [],
        [[2, 2, 9, 9]],
    ):
        instances = Instances((96, 96))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
        instances.gt_classes = torch.arange(len(boxes))
        points = torch.rand(len(boxes), 294, 3, generator=generator) * 90
        points[..., 2] = 2.0 * (torch.arange(294) < 30)
        instances.gt_keypoints = Keypoints(points)
        image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8, generator=generator)
        yield [{"image": image, "instances": instances}]


def train_by_hand(model):
    """SGD with momentum, linear warm-up from a third, weight decay, and at most 35 for the gradient's norm.

    Returns:
        Norms of the gradient, before they are limited.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    velocity = [torch.zeros_like(parameter) for parameter in learned]
    norms = []
    for step, batch in enumerate(batches()):
        rate = 0.005 * (1 - (1 - step / 3) * (1 - 1 / 3) if step < 3 else 1) * (0.1 if step >= 4 else 1)
        gradients = torch.autograd.grad(sum(model(batch).values()), learned)
        norms.append(sum((gradient**2).sum().item() for gradient in gradients) ** 0.5)
        shrink = min(1.0, 35 / norms[-1])
        with torch.no_grad():
            for i, (parameter, gradient) in enumerate(zip(learned, gradients, strict=True)):
                velocity[i] = 0.9 * velocity[i] + (gradient * shrink + 1e-4 * parameter)
                parameter -= rate * velocity[i]
    return norms


def test_several_steps_of_training():
    """By our solver with Detectron2's schedule and trainer, in double precision."""
    cfg = load_config("configs/kgdet_R50.yaml", SMALL)
    torch.manual_seed(0)
    model = build_model(cfg).double().train()
    by_hand, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())

    optimizer = build_optimizer(cfg, model)
    trainer = SimpleTrainer(model, list(batches()), optimizer)
    trainer.register_hooks([hooks.LRScheduler(optimizer, build_lr_scheduler(cfg, optimizer))])
    trainer.train(0, STEPS)

    norms = train_by_hand(by_hand)
    assert min(norms) < 35 < max(norms), norms
    expected = by_hand.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )
        frozen = name.startswith(("backbone.bottom_up.stem.", "backbone.bottom_up.res2."))
        if frozen or name.split(".")[-1] in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(value, before[name]), name
        else:
            assert not torch.equal(value, before[name]), name
