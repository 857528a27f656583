"""The end of a residual branch."""

from timm.layers import DropPath
from torch import Tensor, nn

from .eca import ECA
from .ela import ELA


class AddAttention(nn.Module):
    """Attention on a branch, if there is one, drop path, and the sum with the shortcut, two (B, C, H, W) -> one.

    The branch may be overwritten: it must be a tensor that no derivative needs, as what a norm gives is.
    """

    def __init__(self, attn: nn.Module | None, drop_path: float) -> None:
        super().__init__()
        self.attn = nn.Identity() if attn is None else attn
        self.drop_path = DropPath(drop_path)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        drops = self.training and self.drop_path.drop_prob > 0
        if isinstance(self.attn, (ECA, ELA)) and not drops:
            return self.attn(branch, shortcut)  # scale and sum in one pass
        return self.drop_path(self.attn(branch)).add_(shortcut)
