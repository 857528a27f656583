"""Average pooling as a token mixer (PoolFormer, arXiv:2111.11418)."""

import torch
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
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            return (self._mean_by_convolution(x) - x).permute(0, 2, 3, 1)
        mean = F.avg_pool2d(x, self.pool_size, stride=1, padding=self.pool_size // 2, count_include_pad=False)
        return mean.sub_(x).permute(0, 2, 3, 1)  # no derivative needs the mean itself

    def _mean_by_convolution(self, x: Tensor) -> Tensor:
        """The same mean of (B, C, H, W).

        PyTorch's compiler writes what precedes a pooling into it, norm and all, and computes that for every token of
        every window anew. A convolution is a call that it leaves alone.
        """
        size, reach = self.pool_size, self.pool_size // 2
        total = F.conv2d(x, x.new_ones(x.shape[1], 1, size, size), padding=reach, groups=x.shape[1])
        rows, columns = (self._tokens(side, reach, x) for side in x.shape[2:])
        return total / (rows[:, None] * columns)

    @staticmethod
    def _tokens(side: int, reach: int, like: Tensor) -> Tensor:
        """How many real tokens a window has along a side, for each of its places."""
        at = torch.arange(side, device=like.device)
        return ((at + reach).clamp_max(side - 1) - (at - reach).clamp_min(0) + 1).to(like.dtype)
