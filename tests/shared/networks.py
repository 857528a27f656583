"""Networks with random weights, for tests of every room."""

import torch
from torch import Tensor, nn

from bestiary.checkpoints import build_classifier


def count(module: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def randomised(module: nn.Module, seed: int = 0, scale: float = 0.4) -> nn.Module:
    """The module in float64, every parameter and every statistic of a norm other than it began.

    Fresh networks have zeros, ones and tiny scales, which would hide a branch or a mistake.
    """
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                noise = torch.randn(buffer.shape, generator=generator, dtype=buffer.dtype)
                buffer.copy_(0.5 + noise.abs() if name.endswith("running_var") else scale * noise)
    return module


def random_weights(name: str, num_classes: int = 10, **changes) -> dict[str, Tensor]:
    """A state dict of a classifier, every value random; numbers of steps are 7."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = build_classifier(name, num_classes=num_classes, **changes).state_dict()
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(7)
        for key, value in shapes.items()
    }


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts have the same keys and, bit for bit, the same values."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
