"""Initial values that several families share."""

from torch import nn


def init_convolutions(module: nn.Module) -> None:
    """Normal values of variance 2 / (k^2 C_out) for all 2-D convolutions (He et al., arXiv:1502.01852, fan out)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
