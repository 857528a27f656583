"""Average pooling as a token mixer (PoolFormer, arXiv:2111.11418)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MIXERS


@MIXERS.register_module()
class Pooling(nn.Module):
    """The mean of a token's neighbours less the token: (B, H, W, C) -> (B, H, W, C).

    Stride 1; at the border the mean is of the real tokens alone. The block adds back the token that is taken away.

    Args:
        dim: channels; of no effect here, every mixer takes it.
        pool_size: side of the window in tokens; odd, so that the map keeps its size.
    """

    def __init__(self, dim: int, pool_size: int = 3) -> None:
        super().__init__()
        if pool_size % 2 == 0:
            raise ValueError(f"Pooling: pool_size {pool_size} must be odd")
        self.pool_size = pool_size

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        mean = F.avg_pool2d(x, self.pool_size, stride=1, padding=self.pool_size // 2, count_include_pad=False)
        return mean.sub_(x).permute(0, 2, 3, 1)  # no derivative needs the mean itself
