"""Depthwise convolution whose weight gradient is cut into strips, against PyTorch's and against loops."""

import pytest
import torch
import torch.nn.functional as F

from bestiary.backbones.layers import DepthwiseConv


def gradients(conv, x, run):
    y = run(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    inputs = [x, *conv.parameters()]
    return y, *torch.autograd.grad((y * weight).sum(), inputs)


def plain(conv):
    """PyTorch's convolution with the same weights, channels last."""
    half, groups = conv.padding[0], conv.groups
    return lambda x: F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=half, groups=groups).permute(
        0, 2, 3, 1
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [1, 3, 5, 7, 9, 11, 13])
@pytest.mark.parametrize("shape", [(2, 9, 7, 4), (1, 1, 1, 5), (3, 2, 17, 3), (1, 16, 5, 20)])
def test_values_and_gradients(side, shape, bias):
    torch.manual_seed(0)
    conv = DepthwiseConv(shape[-1], side, bias=bias).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for one, other in zip(gradients(conv, x, conv), gradients(conv, x, plain(conv)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_it_is_its_definition():
    torch.manual_seed(0)
    conv, x = DepthwiseConv(3, 5).double(), torch.randn(2, 4, 6, 3, dtype=torch.float64)
    expected = conv.bias.expand_as(x).clone()
    for row in range(4):
        for column in range(6):
            for down in range(5):
                for right in range(5):
                    r, c = row + down - 2, column + right - 2
                    if 0 <= r < 4 and 0 <= c < 6:
                        expected[:, row, column] += x[:, r, c] * conv.weight[:, 0, down, right]
    torch.testing.assert_close(conv(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected)


def test_derivatives_by_differences_and_of_second_order():
    torch.manual_seed(0)
    conv = DepthwiseConv(2, 5).double()
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))
    assert torch.autograd.gradgradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


@pytest.mark.parametrize("trained", [("x",), ("weight",), ("bias",)])
def test_only_what_is_asked_for_has_a_gradient(trained):
    conv, x = DepthwiseConv(4, 7), torch.randn(1, 5, 6, 4)
    parts = dict(x=x, weight=conv.weight, bias=conv.bias)
    for name, part in parts.items():
        part.requires_grad_(name in trained)
    conv(x).square().sum().backward()
    assert {name for name, part in parts.items() if part.grad is not None} == set(trained)


def test_no_picture():
    conv = DepthwiseConv(4, 5)
    y = conv(torch.randn(0, 6, 5, 4))
    y.sum().backward()
    assert y.shape == (0, 6, 5, 4) and not conv.weight.grad.any()


def test_autocast_gives_what_autocast_gives():
    torch.manual_seed(0)
    conv, x = DepthwiseConv(16, 7), torch.randn(2, 9, 8, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = gradients(conv, x, conv), gradients(conv, x, plain(conv))
    assert found[0].dtype == torch.bfloat16 and torch.equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.03, atol=0.03 * float(other.abs().max()))


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="DepthwiseConv: kernel_size 4 must be odd"):
        DepthwiseConv(8, 4)
