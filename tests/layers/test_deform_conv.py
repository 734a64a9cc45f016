"""Deformable convolution on CPU against torchvision's op, and at positions of every kind."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from kgdet_d2.layers.deform_conv import DeformConv, deform_conv2d_gather


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("size", [(6, 7), (1, 1), (1, 9)])
@pytest.mark.parametrize("spread", [0.5, 4.0, 50.0])
def test_gather_formulation_equals_torchvision_s_op(kernel_size, size, spread):
    """Outputs and all three gradients, for points inside, across and far beyond the border."""
    generator = torch.Generator().manual_seed(kernel_size)
    x = torch.randn(2, 3, *size, generator=generator, requires_grad=True)
    offset = torch.randn(2, 2 * kernel_size**2, *size, generator=generator).mul(spread).requires_grad_()
    weight = torch.randn(4, 3, kernel_size, kernel_size, generator=generator, requires_grad=True)
    upstream = torch.randn(2, 4, *size, generator=generator)

    results = []
    for out in (
        deform_conv2d_gather(x, offset, weight),
        deform_conv2d(x, offset, weight, padding=kernel_size // 2),
    ):
        results.append((out, *torch.autograd.grad(out, (x, offset, weight), upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_module_has_detectron2_s_parameters_and_learns_on_the_cpu():
    conv = DeformConv(4, 6, kernel_size=5)
    assert {name: tuple(value.shape) for name, value in conv.state_dict().items()} == {"weight": (6, 4, 5, 5)}
    offset = torch.zeros(1, 50, 8, 8, requires_grad=True)
    conv(torch.randn(1, 4, 8, 8), offset).sum().backward()
    assert conv.weight.grad.abs().sum() > 0 and offset.grad is not None


def test_zero_offsets_make_an_ordinary_convolution():
    conv = DeformConv(4, 6, kernel_size=3)
    x = torch.randn(2, 4, 5, 6)
    expected = torch.nn.functional.conv2d(x, conv.weight, padding=1)
    torch.testing.assert_close(conv(x, torch.zeros(2, 18, 5, 6)), expected, rtol=1e-4, atol=1e-5)


def test_empty_batch():
    conv = DeformConv(4, 6, kernel_size=3)
    assert conv(torch.zeros(0, 4, 5, 6), torch.zeros(0, 18, 5, 6)).shape == (0, 6, 5, 6)


def test_positions_that_are_not_finite_neither_crash_nor_hide():
    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    offset = torch.zeros(1, 18, 3, 3)
    offset[0, 0, 1, 1] = torch.nan
    out = deform_conv2d_gather(x, offset, weight)
    assert out[0, 0, 1, 1].isnan() and out.isnan().sum() == 1
