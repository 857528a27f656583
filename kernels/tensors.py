"""What every operator of this room asks of its tensors."""

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd records a call with these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def forward_mode() -> bool:
    """Inside torch.autograd.forward_ad.dual_level, or torch.func.jvp."""
    return forward_ad._current_level >= 0


def wide_dtype(x: Tensor) -> torch.dtype:
    """What a 16-bit dtype is computed in: float32; others stay as they are."""
    return torch.promote_types(x.dtype, torch.float32)
