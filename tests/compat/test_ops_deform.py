"""Deformable convolutions and multi-scale deformable attention against loops in float64, and their gradients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import bestiary  # noqa: F401  (it installs the provider)
from bestiary.errors import InputError


def randn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at(plane, y, x):
    """Bilinear value of an array with zeros around it."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column]
    return total


def deform_conv_by_hand(image, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    batch, channels, height, width = image.shape
    out_channels, group_channels, kh, kw = weight.shape
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    image, weight = image.numpy(), weight.numpy()
    out = np.zeros((batch, out_channels, rows, columns))
    for b, o, r, c in np.ndindex(*out.shape):
        first = o // (out_channels // groups) * group_channels
        for i, u, v in np.ndindex(group_channels, kh, kw):
            channel = first + i
            cell = channel // (channels // deform_groups) * kh * kw + u * kw + v
            y = r * stride[0] - padding[0] + u * dilation[0] + offset[b, 2 * cell, r, c].item()
            x = c * stride[1] - padding[1] + v * dilation[1] + offset[b, 2 * cell + 1, r, c].item()
            share = 1 if mask is None else mask[b, cell, r, c].item()
            out[b, o, r, c] += share * weight[o, i, u, v] * at(image[b, channel], y, x)
    return out if bias is None else out + bias.numpy()[:, None, None]


CASES = {  # channels in, out, kernel, stride, padding, dilation, groups, deform groups
    "plain": (2, 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    "strided": (2, 2, (3, 2), (2, 1), (2, 0), (1, 2), 1, 1),
    "grouped": (4, 6, (2, 3), (1, 2), (0, 1), (2, 1), 2, 4),
    "offsets of 2": (4, 2, (1, 3), (1, 1), (0, 1), (1, 1), 1, 2),
}


def case(name, batch=2, size=(5, 6)):
    channels, out, kernel, stride, padding, dilation, groups, deform_groups = CASES[name]
    image, weight = randn(batch, channels, *size), randn(out, channels // groups, *kernel, seed=1)
    shape = F.conv2d(image, weight, None, stride, padding, dilation, groups).shape[2:]
    cells = deform_groups * kernel[0] * kernel[1]
    offset = randn(batch, 2 * cells, *shape, seed=2, scale=1.5)  # some samples leave the picture
    mask = randn(batch, cells, *shape, seed=3).sigmoid()
    return image, offset, mask, weight, randn(out, seed=4), (stride, padding, dilation, groups, deform_groups)


@pytest.mark.parametrize("name", CASES)
def test_deform_conv(name):
    from mmcv.ops import deform_conv2d

    image, offset, _, weight, _, settings = case(name)
    got = deform_conv2d(image, offset, weight, *settings)
    np.testing.assert_allclose(got, deform_conv_by_hand(image, offset, None, weight, None, *settings), atol=1e-12)
    single = deform_conv2d(image.float(), offset.float(), weight.float(), *settings)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), got, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_deform_conv_gradient(name):
    from mmcv.ops import deform_conv2d

    image, offset, _, weight, _, settings = case(name, batch=1, size=(4, 3))
    inputs = [t.requires_grad_() for t in (image, offset, weight)]
    assert gradcheck(lambda *t: deform_conv2d(*t, *settings), inputs)


def test_deform_conv_gradients_do_not_depend_on_which_are_asked_for():
    """The weight's gradient is computed with the input's if both are asked for, and kept in between."""
    from mmcv.ops import deform_conv2d

    image, offset, _, weight, _, settings = case("grouped")

    def grads(wanted, times=1):
        tensors = [t.clone().requires_grad_(i in wanted) for i, t in enumerate((image, offset, weight))]
        out = deform_conv2d(*tensors, *settings)
        for n in range(times):  # the last backward gives other gradients than those before
            found = torch.autograd.grad(out, [tensors[i] for i in wanted], out.detach() + n, retain_graph=True)
        return dict(zip(wanted, found, strict=True))

    everything, weight_alone = grads((0, 1, 2)), grads((2,))
    assert torch.allclose(everything[2], weight_alone[2])
    assert torch.allclose(everything[0], grads((0,))[0]) and torch.allclose(everything[1], grads((1,))[1])
    again, alone_again = grads((0, 1, 2), times=3), grads((2,), times=3)
    assert torch.allclose(again[2], alone_again[2]) and not torch.allclose(again[2], everything[2])


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CASES)
def test_modulated_deform_conv(name, with_bias):
    from mmcv.ops import modulated_deform_conv2d

    image, offset, mask, weight, bias, settings = case(name)
    bias = bias if with_bias else None
    got = modulated_deform_conv2d(image, offset, mask, weight, bias, *settings)
    np.testing.assert_allclose(got, deform_conv_by_hand(image, offset, mask, weight, bias, *settings), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_modulated_deform_conv_gradient(name):
    from mmcv.ops import modulated_deform_conv2d

    image, offset, mask, weight, bias, settings = case(name, batch=1, size=(4, 3))
    inputs = [t.requires_grad_() for t in (image, offset, mask, weight, bias)]
    assert gradcheck(lambda *t: modulated_deform_conv2d(*t, *settings), inputs)
    assert gradcheck(lambda *t: modulated_deform_conv2d(*t, None, *settings), inputs[:4])


def test_offsets_larger_than_the_output_are_read_as_compiled_mmcv_reads_them():
    """As DyHead has it: the memory of a sample is taken for that of smaller maps."""
    from mmcv.ops import modulated_deform_conv2d

    image, _, _, weight, bias, settings = case("strided", size=(7, 5))
    out = F.conv2d(image, weight, None, *settings[:4])
    rows, columns = out.shape[2:]
    offset = randn(2, 12, rows + 2, columns + 1, seed=5).requires_grad_()
    mask = randn(2, 6, rows + 2, columns + 1, seed=6).sigmoid().requires_grad_()

    def as_read(tensor):
        memory = tensor.detach().reshape(2, -1)
        small = torch.empty(2, tensor.shape[1], rows, columns, dtype=torch.float64)
        for b, c, r, x in np.ndindex(*small.shape):
            small[b, c, r, x] = memory[b, (c * rows + r) * columns + x]
        return small

    got = modulated_deform_conv2d(image, offset, mask, weight, bias, *settings)
    wanted = deform_conv_by_hand(image, as_read(offset), as_read(mask), weight, bias, *settings)
    np.testing.assert_allclose(got.detach(), wanted, atol=1e-12)
    assert gradcheck(lambda o, m: modulated_deform_conv2d(image, o, m, weight, bias, *settings), (offset, mask))
    # The gradients are laid out like the tensors, also for those that do not lie in memory row by row.
    channels_last = offset.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    from_last = modulated_deform_conv2d(image, channels_last, mask, weight, bias, *settings)
    (grad,) = torch.autograd.grad(got.square().sum(), offset)
    (grad_last,) = torch.autograd.grad(from_last.square().sum(), channels_last)
    assert torch.equal(from_last, got) and torch.equal(grad, grad_last)
    with pytest.raises(InputError, match=r"offset is \(2, 12, 2, 5\), too small for an output of \(5, 3\)"):
        modulated_deform_conv2d(image, offset[:, :, :2, :1].repeat(1, 1, 1, 5), mask, weight, bias, *settings)


def test_layers_of_deformable_convolution():
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    torch.manual_seed(0)
    for layer in (DeformConv2dPack(4, 6, 3, padding=1), ModulatedDeformConv2dPack(4, 6, 3, padding=1)):
        image = torch.randn(1, 4, 5, 7)
        out = layer(image)  # offsets start at zero, the modulation at a half
        share = 0.5 if isinstance(layer, ModulatedDeformConv2dPack) else 1
        assert torch.allclose(out, F.conv2d(image, share * layer.weight, padding=1), atol=1e-5)
        out.square().sum().backward()
        assert layer.conv_offset.weight.grad.abs().sum() > 0
    small = DeformConv2dPack(4, 6, 3, padding=1)(torch.randn(2, 4, 2, 5))  # smaller than the kernel
    assert small.shape == (2, 6, 2, 5)


def test_deform_conv_in_half_precision():
    from mmcv.ops import modulated_deform_conv2d

    image, offset, mask, weight, bias, settings = (
        t.bfloat16() if isinstance(t, torch.Tensor) else t for t in case("grouped")
    )
    out = modulated_deform_conv2d(image, offset, mask, weight, bias, *settings)
    wide = [t.double() for t in (image, offset, mask, weight, bias)]
    wanted = modulated_deform_conv2d(*wide, *settings)
    assert out.dtype == torch.bfloat16 and (out - wanted).abs().max() <= 2**-8 * wanted.abs().max()


def attention_case(batch=2, heads=2, dim=3, queries=4, points=2, seed=0):
    shapes = torch.tensor([[3, 5], [2, 2], [1, 4]])
    sizes = shapes.prod(1)
    starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)[:-1]])
    value = randn(batch, int(sizes.sum()), heads, dim, seed=seed)
    locations = randn(batch, queries, heads, 3, points, 2, seed=seed + 1, scale=0.5) + 0.5  # some are off the map
    attention = randn(batch, queries, heads, 3 * points, seed=seed + 2).softmax(-1)
    return value, shapes, starts, locations, attention.unflatten(-1, (3, points))


def attention_by_hand(value, shapes, starts, locations, attention):
    batch, _, heads, dim = value.shape
    out = np.zeros((batch, locations.shape[1], heads, dim))
    for b, q, m, level, p in np.ndindex(*attention.shape):
        height, width = shapes[level].tolist()
        begin = starts[level].item()
        x, y = locations[b, q, m, level, p].tolist()
        for d in range(dim):
            plane = value[b, begin : begin + height * width, m, d].reshape(height, width).numpy()
            share = at(plane, y * height - 0.5, x * width - 0.5)
            out[b, q, m, d] += attention[b, q, m, level, p].item() * share
    return out.reshape(batch, locations.shape[1], heads * dim)


@pytest.mark.parametrize("batch", [1, 2])
def test_ms_deform_attn(batch):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch

    value, shapes, starts, locations, attention = attention_case(batch)
    got = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, attention, 64)
    np.testing.assert_allclose(got, attention_by_hand(value, shapes, starts, locations, attention), atol=1e-12)
    assert torch.allclose(got, multi_scale_deformable_attn_pytorch(value, shapes, locations, attention))


def test_ms_deform_attn_gradient():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, shapes, starts, locations, attention = attention_case(1, dim=2, queries=2)
    inputs = [t.requires_grad_() for t in (value, locations, attention)]
    assert gradcheck(lambda v, p, a: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, a, 64), inputs)


def test_ms_deform_attn_on_pixels_and_far_away():
    """On a pixel the derivative is the one towards the next pixel; a position may be anything, even infinite."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, shapes, starts = randn(1, 8, 1, 1), torch.tensor([[2, 4]]), torch.tensor([0])
    places = [[1.5 / 4, 0.25], [1e30, 0.5], [0.5, -1e30], [float("inf"), 0.5]]  # the first is pixel (0, 1)
    locations = torch.tensor(places, dtype=torch.float64).view(1, 1, 1, 1, 4, 2).requires_grad_()
    attention = torch.ones(1, 1, 1, 1, 4, dtype=torch.float64)
    out = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, attention, 64)
    assert out.item() == value[0, 1].item()
    out.backward()
    pixels = value.view(2, 4)
    wanted = [4 * (pixels[0, 2] - pixels[0, 1]).item(), 2 * (pixels[1, 1] - pixels[0, 1]).item()]
    assert locations.grad[0, 0, 0, 0, 0].tolist() == pytest.approx(wanted)
    assert not locations.grad[0, 0, 0, 0, 1:3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_ms_deform_attn_in_other_dtypes(dtype):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, shapes, starts, locations, attention = attention_case()
    tensors = [t.to(dtype).requires_grad_() for t in (value, locations, attention)]
    wide = [t.detach().double().requires_grad_() for t in tensors]
    results = []
    for v, p, a in (tensors, wide):
        out = MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, a, 64)
        results.append((out, *torch.autograd.grad(out.double().square().sum(), (v, p, a))))
    for got, wanted in zip(*results, strict=True):
        assert got.dtype == dtype
        assert (got - wanted).abs().max() <= 8 * torch.finfo(dtype).eps * wanted.abs().max()


def test_ms_deform_attn_casts_to_the_value_under_autocast():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value, shapes, starts, locations, attention = attention_case()
    with torch.autocast("cpu", torch.bfloat16):
        out = MultiScaleDeformableAttnFunction.apply(
            value.bfloat16(), shapes, starts, locations.float(), attention.float(), 64
        )
    rounded = [t.bfloat16().double() for t in (value, locations, attention)]
    wanted = attention_by_hand(rounded[0], shapes, starts, *rounded[1:])
    assert out.dtype == torch.bfloat16
    np.testing.assert_allclose(out.double(), wanted, atol=2**-8 * np.abs(wanted).max())
