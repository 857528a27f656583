"""ZeRO's first stage (arXiv:1910.02054): every rank keeps the optimizer's state of its share of the parameters."""

from typing import Any

import torch
from mmengine.dist import get_rank
from torch.distributed.optim import ZeroRedundancyOptimizer

from ...registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class ZeroOptimizer(ZeroRedundancyOptimizer):
    """torch's ZeroRedundancyOptimizer about any optimizer of the registry.

    Each rank updates its share of the parameters and sends them to the others, so a step is that of the plain optimizer
    to the last bit.

    Args:
        params: parameters or groups of them.
        optimizer_type: the optimizer's name in the registry.
        **kwargs: of that optimizer.
    """

    def __init__(self, params: Any, optimizer_type: str, **kwargs: Any) -> None:
        def make(params: Any, **given: Any) -> torch.optim.Optimizer:
            return OPTIMIZERS.build(dict(type=optimizer_type, params=params, **given))

        self.inner_kwargs = kwargs
        super().__init__(list(params), make, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """All ranks' states, in the first rank; nothing in the others. All ranks call it."""
        self.consolidate_state_dict(to=0)
        return super().state_dict() if get_rank() == 0 else {}
