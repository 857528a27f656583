"""Comparison of a network of ours with timm's of the same weights."""

import contextlib

import pytest
import timm
import torch
from torch import nn

from bestiary.checkpoints import build_classifier, convert_state_dict


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Other values wherever a fresh network has zeros, ones or tiny scales, which would hide a branch or a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator).to(value)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif value.ndim <= 1 and value.abs().max() < 0.01 and not name.endswith(("bias", "running_mean")):
                value.copy_(0.7 + 0.2 * noise)  # layer scales, and batch norms that start at zero
            elif value.ndim <= 1:
                value.add_(0.2 * noise)


def assert_close(one: torch.Tensor, other: torch.Tensor, tolerance: float, what: str) -> None:
    """Difference relative to the largest value of the second."""
    assert one.shape == other.shape, f"{what}: {tuple(one.shape)}, timm {tuple(other.shape)}"
    difference = float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))
    assert difference <= tolerance, f"{what}: differs by {difference:.1e} of the largest value, allowed {tolerance:.0e}"


@pytest.fixture
def same_as_timm():
    """Assert that features, logits and, with `gradients`, all gradients equal timm's; returns our classifier.

    Arguments of the function: the name here; the picture's size; `timm_name` and `timm_kwargs` of timm.create_model
    (reduced depth, say); `changes` of our arch; `gradients` in training mode; dtype; the tolerance, relative to the
    largest value.
    """

    def check(
        name,
        size,
        timm_name=None,
        timm_kwargs=None,
        changes=None,
        gradients=False,
        dtype=torch.float64,
        tolerance=1e-10,
        num_classes=11,
        batch=2,
        prepare=contextlib.nullcontext,
    ):
        torch.manual_seed(0)
        changes = changes or {}
        with prepare():
            theirs = timm.create_model(timm_name or name, num_classes=num_classes, **(timm_kwargs or {}))
        randomise(theirs)
        ours = build_classifier(name, num_classes, like="timm", out_indices=None, **changes)
        weights = convert_state_dict(theirs.state_dict(), name, "timm", "bestiary", **changes)
        missing, unexpected = ours.load_state_dict(weights, strict=False)
        assert not missing and not unexpected
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        x = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
        if not gradients:
            with torch.no_grad():
                maps, logits = ours.eval().backbone(x), ours(x)
                _, features = theirs.eval().forward_intermediates(x)
                for stage, (one, other) in enumerate(zip(maps, features[-len(maps) :], strict=True)):
                    assert_close(one, other, tolerance, f"{name}, stage {stage}")
                assert_close(logits, theirs(x), tolerance, f"{name}, logits")
            return ours
        weight = torch.randn(batch, num_classes, generator=torch.Generator().manual_seed(2)).to(dtype)
        for model in (ours.train(), theirs.train()):
            (model(x) * weight).sum().backward()
        wanted = {key: p.grad for key, p in theirs.named_parameters()}
        assert all(value is not None for value in wanted.values())
        wanted = convert_state_dict(wanted, name, "timm", "bestiary", **changes)
        got = {key: p.grad for key, p in ours.named_parameters()}
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            # A bias before a norm has no gradient but rounding: its scale is the weight's.
            scale = max(value.abs().max(), wanted.get(key.replace("bias", "weight"), value).abs().max())
            assert (got[key] - value).abs().max() <= 100 * tolerance * scale, f"{name}: gradient of {key}"
        return ours

    return check
