"""ECA and ELA against their definitions; attention by config, in our networks and in OpenMMLab's."""

import math

import pytest
import torch
from mmdet.models.backbones import ResNet as MmdetResNet
from networks import randomised
from torch import nn

from bestiary.backbones.layers import ela
from bestiary.backbones.layers.channel_attention import ATTENTIONS, build_attn
from bestiary.backbones.layers.eca import ECA, eca_kernel_size
from bestiary.backbones.layers.ela import ELA, largest_divisor

SHAPES = [(2, 8, 5, 7), (1, 16, 1, 4), (3, 4, 6, 6), (2, 6, 3, 1)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def eca_by_loops(x, weight):
    out, (batch, channels, height, width), taps = x.clone(), x.shape, weight.flatten().tolist()
    for b in range(batch):
        means = [float(x[b, c].sum()) / (height * width) for c in range(channels)]
        for c in range(channels):
            seen = [c + offset - len(taps) // 2 for offset in range(len(taps))]
            total = sum(tap * means[at] for tap, at in zip(taps, seen, strict=True) if 0 <= at < channels)
            out[b, c] = x[b, c] * sigmoid(total)
    return out


def ela_by_loops(x, module):
    """Rows and columns each: means, convolution along them, norm of each group of channels, sigmoid."""
    batch, channels, height, width = x.shape
    weight, groups, out = module.conv.weight, module.conv.groups, x.clone()
    per, k, norm_groups = channels // groups, weight.shape[-1], module.norm.num_groups
    for b in range(batch):
        gates = []
        for means in (x[b].sum(2) / width, x[b].sum(1) / height):  # (C, H), (C, W)
            length, logits = means.shape[1], torch.zeros_like(means)
            for c in range(channels):
                for at in range(length):
                    for tap in range(k):
                        if 0 <= (near := at + tap - k // 2) < length:
                            for i in range(per):
                                logits[c, at] += weight[c, i, tap] * means[c // per * per + i, near]
            for group in logits.view(norm_groups, -1):
                mean = group.sum() / group.numel()
                variance = ((group - mean) ** 2).sum() / group.numel()
                group.copy_((group - mean) / (variance + 1e-5).sqrt())
            logits = logits * module.norm.weight[:, None] + module.norm.bias[:, None]
            gates.append(1 / (1 + torch.exp(-logits)))
        out[b] = x[b] * gates[0][:, :, None] * gates[1][:, None, :]
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_eca_is_its_definition(shape, kernel_size):
    module, x, add = randomised(ECA(shape[1], kernel_size)), random(*shape), random(*shape, seed=1)
    expected = eca_by_loops(x, module.conv.weight)
    assert not torch.allclose(expected, x)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
        torch.testing.assert_close(module(x, add), expected + add)
    torch.testing.assert_close(module(x.to(memory_format=torch.channels_last), add), expected + add)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("adds", [False, True])
def test_ecas_derivative(shape, adds):
    module = randomised(ECA(shape[1], 5))
    tensors = [random(*shape).requires_grad_(), module.conv.weight]
    tensors += [random(*shape, seed=1).requires_grad_()] if adds else []
    assert torch.autograd.gradcheck(lambda x, _, *add: module(x, *add), tensors)
    module.conv.weight.requires_grad_(False)  # a frozen one lets the gradient of its input through
    assert torch.autograd.gradcheck(lambda x: module(x), tensors[:1])


def test_ecas_kernel_sizes():
    assert {c: eca_kernel_size(c) for c in (8, 16, 64, 128, 256, 512, 1024, 2048)} == {
        **{8: 3, 16: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}
    }
    assert ECA(2048).conv.weight.shape == (1, 1, 7) and ECA(64, 9).conv.weight.shape == (1, 1, 9)
    for size in (0, 2):
        with pytest.raises(ValueError, match=f"ECA: kernel_size {size} must be odd and positive, or None"):
            ECA(64, size)


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 16, 1, 4), (1, 12, 3, 3)])
@pytest.mark.parametrize(
    "sizes", [dict(kernel_size=5, norm_groups=4), dict(kernel_size=7, group_width=4, norm_groups=2)], ids=["1", "4"]
)
def test_ela_is_its_definition(shape, sizes):
    module, x, add = randomised(ELA(shape[1], **sizes)), random(*shape), random(*shape, seed=1)
    with torch.no_grad():
        expected = ela_by_loops(x, module)
        torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(module(x, add), expected + add, rtol=1e-9, atol=1e-9)


def test_elas_gates_follow_the_sides_of_the_map():
    """Turning the picture turns the result: a copy with rows and columns mixed up works on squares alone."""
    module = randomised(ELA(8, norm_groups=4))
    for shape in ((2, 8, 5, 9), (2, 8, 6, 6)):
        x = random(*shape)
        torch.testing.assert_close(module(x.mT).mT, module(x))
    assert not torch.allclose(module(x.roll(1, 2)), module(x).roll(1, 2))


@pytest.mark.parametrize(("name", "per_channel"), [("ela_t", 7), ("ela_b", 9), ("ela_s", 42), ("ela_l", 58)])
def test_elas_sizes(name, per_channel):
    module = build_attn(name, 96)
    assert sum(p.numel() for p in module.parameters()) == per_channel * 96
    assert module.conv.kernel_size[0] == (5 if name in ("ela_t", "ela_s") else 7)
    assert module.conv.groups == (96 if name in ("ela_t", "ela_b") else 12)
    assert module.norm.num_groups == (32 if name == "ela_t" else 16)
    assert repr(module).startswith("ELA(\n")  # nothing to tell


def test_groups_that_do_not_divide_are_said(monkeypatch):
    said = []
    monkeypatch.setattr(ela, "print_log", lambda message, _: said.append(message))
    ela._say.cache_clear()
    module = ELA(44, group_width=8, norm_groups=32)
    assert (module.conv.groups, module.norm.num_groups) == (4, 22)
    assert "4 conv groups of 5 asked, 22 norm groups of 32 asked" in repr(module)
    expected = ["ELA: 44 channels take 4 conv groups of 5 asked", "ELA: 44 channels take 22 norm groups of 32 asked"]
    assert said == expected
    ELA(44, group_width=8, norm_groups=32)
    assert said == expected  # once
    assert module(torch.randn(2, 44, 3, 5)).shape == (2, 44, 3, 5)
    with pytest.raises(ValueError, match="ELA: kernel_size 4 must be odd and positive"):
        ELA(8, kernel_size=4)


@pytest.mark.parametrize("number", range(1, 40))
def test_largest_divisor(number):
    for most in (1, 3, 16, 32, 50):
        assert largest_divisor(number, most) == max(d for d in range(1, number + 1) if number % d == 0 and d <= most)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_keeps_the_shape(name):
    torch.manual_seed(0)
    module = build_attn(name, 32).eval()
    for shape in ((2, 32, 5, 7), (1, 32, 4, 4), (0, 32, 3, 2)):
        x = torch.randn(shape)
        out = module(x)
        assert out.shape == x.shape and out.isfinite().all()
        assert not x.numel() or not torch.equal(out, x)


class Doubled(nn.Module):
    def __init__(self, channels, by=2.0):
        super().__init__()
        self.channels, self.by = channels, by

    def forward(self, x):
        return x * self.by


def test_by_config():
    assert build_attn(None, 8) is None
    built = build_attn(dict(type=Doubled, by=3.0), 8)
    assert (built.channels, built.by) == (8, 3.0)
    assert build_attn("eca", 8, kernel_size=7).conv.kernel_size == (7,)
    assert build_attn(dict(type="eca", kernel_size=5), 8, kernel_size=7).conv.kernel_size == (5,)
    assert build_attn(dict(type="ela_l", kernel_size=3), 64).conv.kernel_size == (3,)
    with pytest.raises(ValueError, match="no attn 'ela_x'; there are eca, ela_t, .*did you mean 'ela_"):
        build_attn("ela_x", 8)


@pytest.mark.parametrize("kind", ["ECA", "ELA"])
def test_as_a_plug_in_of_mmdets_resnet(kind):
    torch.manual_seed(0)
    plugin = dict(cfg=dict(type=f"bestiary.{kind}", kernel_size=5), stages=(True,) * 4, position="after_conv3")
    backbone = MmdetResNet(depth=50, plugins=[plugin], base_channels=8)
    plugged = [part for part in backbone.modules() if isinstance(part, (ECA, ELA))]
    assert len(plugged) == 16
    sum(out.square().mean() for out in backbone(torch.randn(2, 3, 64, 96))).backward()
    assert all(part.conv.weight.grad is not None for part in plugged)
