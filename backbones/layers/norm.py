"""Group norm with one group, for maps with channels last."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.library.define(
    "bestiary::group_norm1", "(Tensor x, Tensor weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)"
)
torch.library.define(
    "bestiary::group_norm1_backward",
    "(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor weight, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
)


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """What PyTorch's operators want to be told: pictures, channels, pixels, groups."""
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3], 1


@torch.library.impl("bestiary::group_norm1", "CPU")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_group_norm(x, weight, bias, *_sizes(x), eps)


@torch.library.register_fake("bestiary::group_norm1")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *(x.new_empty(x.shape[0], 1) for _ in range(2))


@torch.library.impl("bestiary::group_norm1_backward", "CPU")
def _(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.ops.aten.native_group_norm_backward(grad, x, mean, rstd, weight, *_sizes(x), wanted)
    return tuple(x.new_empty(0) if part is None else part for part in grads)


@torch.library.register_fake("bestiary::group_norm1_backward")
def _(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x, weight, weight)
    return tuple(torch.empty_like(like) if want else x.new_empty(0) for like, want in zip(shapes, wanted, strict=True))


def _keep(ctx, inputs, output) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, *output[1:], weight)
    ctx.wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2]]


def _derive(ctx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    grad = grad.contiguous(memory_format=torch.channels_last)
    grads = torch.ops.bestiary.group_norm1_backward(grad, *ctx.saved_tensors, ctx.wanted)
    return *(part if want else None for part, want in zip(grads, ctx.wanted, strict=True)), None


torch.library.register_autograd("bestiary::group_norm1", _derive, setup_context=_keep)


def _in_a_graph_for_cpus(x: Tensor, weight: Tensor) -> bool:
    """Where PyTorch's compiler would write loops of its own, several times as slow as PyTorch's."""
    wide = x.dtype == weight.dtype in (torch.float32, torch.float64)
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting() and wide and x.device.type == "cpu"


class GroupNorm1(nn.GroupNorm):
    """Group norm (arXiv:1803.08494) with one group, channels last: statistics over H, W and C of each picture together.

    Not a channel layer norm: all pixels share one mean and one variance. Scale and shift are a channel's.
    (B, H, W, C) -> (B, H, W, C).

    Args:
        bias: whether there is a shift.
    """

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(1, dim, eps)
        if not bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        if _in_a_graph_for_cpus(x, self.weight):
            y = torch.ops.bestiary.group_norm1(x, self.weight, self.bias, self.eps)[0]
        else:
            y = F.group_norm(x, 1, self.weight, self.bias, self.eps)
        return y.permute(0, 2, 3, 1)
