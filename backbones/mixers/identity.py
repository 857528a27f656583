"""No mixing at all: the yardstick of MetaFormer Baselines (arXiv:2210.13452)."""

from torch import nn

from ...registry import MIXERS


@MIXERS.register_module()
class Identity(nn.Identity):
    """(B, H, W, C) as it came."""

    def __init__(self, dim: int) -> None:
        super().__init__()
