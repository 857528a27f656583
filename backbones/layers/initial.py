"""Initial values that several families share."""

from timm.layers import trunc_normal_
from torch import nn


def init_convolutions(module: nn.Module) -> None:
    """Normal values of variance 2 / (k^2 C_out) for all 2-D convolutions (He et al., arXiv:1502.01852, fan out)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not part.weight.is_meta:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def init_truncated(network: nn.Module, *kinds: type[nn.Module], std: float = 0.02) -> None:
    """Weights of the modules of these kinds from a truncated normal distribution, their biases 0.

    On the meta device there is nothing to draw, and drawing it takes longer than the rest.
    """
    for module in network.modules():
        if isinstance(module, kinds) and not module.weight.is_meta:
            trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
