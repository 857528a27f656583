"""The block of nearly every transformer here: a mixer and an MLP, each with its norm and a residual connection."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .scale import Scale


class MetaFormerBlock(nn.Module):
    """Norm, mixer, residual; norm, MLP, residual (MetaFormer, arXiv:2111.11418). (B, H, W, C) throughout.

    Args:
        token_mixer: (B, H, W, C) -> (B, H, W, C).
        mlp: the same, with an optional second argument, a factor a channel.
        norms: one of the mixer, one of the MLP.
        layer_scale_init: initial factor of what each branch adds, a channel; None: no factor.
        res_scale_init: the same of what it is added to.
        drop_path: rate of stochastic depth.
        post_norm: whether the norms follow mixer and MLP (Swin v2's order, arXiv:2111.09883), before the factor.
    """

    def __init__(
        self,
        dim: int,
        token_mixer: nn.Module,
        mlp: nn.Module,
        norms: tuple[nn.Module, nn.Module],
        layer_scale_init: float | None = None,
        res_scale_init: float | None = None,
        drop_path: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.token_mixer, self.mlp = token_mixer, mlp
        for branch in "12":
            for name, init in (("layer_scale", layer_scale_init), ("res_scale", res_scale_init)):
                setattr(self, name + branch, None if init is None else Scale(dim, init))
        self.drop_path = DropPath(drop_path)
        self.post_norm = post_norm

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = self._add(x, self.norm1(self.token_mixer(x)), self.layer_scale1, self.res_scale1)
            return self._add(x, self.norm2(self.mlp(x)), self.layer_scale2, self.res_scale2)
        x = self._add(x, self.token_mixer(self.norm1(x)), self.layer_scale1, self.res_scale1)
        normed, layer_scale = self.norm2(x), self.layer_scale2
        if layer_scale is not None and torch.is_grad_enabled():  # a map less to keep
            return self._add(x, self.mlp(normed, layer_scale.scale), None, self.res_scale2)
        return self._add(x, self.mlp(normed), layer_scale, self.res_scale2)

    def _add(self, x: Tensor, branch: Tensor, layer_scale: Scale | None, res_scale: Scale | None) -> Tensor:
        branch = self.drop_path(branch)
        if res_scale is not None:
            branch = branch if layer_scale is None else layer_scale(branch)
            return torch.addcmul(branch, x, res_scale.scale)  # product and sum in one pass
        return x + branch if layer_scale is None else torch.addcmul(x, branch, layer_scale.scale)
