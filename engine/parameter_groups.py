"""Optimizers that step on few large groups of parameters, where mmengine gives them a group for every parameter."""

from typing import Any

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

PARAMS, MEMBERS = "params", "merged_of"


def merge_groups(optimizer: torch.optim.Optimizer) -> None:
    """Have every step see parameters of the same settings in one group; before and after it all is as it was.

    `paramwise_cfg` makes a group a parameter, and optimizers take groups one after another: their fused and foreach
    kernels then see one tensor a call, and a step of 300 parameters is 300 steps. Schedules, checkpoints and
    clipping go on seeing mmengine's groups. What a step writes into a group (counters) is written to all it was
    merged of.
    """
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer = optimizer.optim  # the outer one copies its groups to this one, within its step
    apart: list[list[dict[str, Any]]] = []  # the groups of a step that is under way, as they were

    def merge(*_: Any) -> None:
        if apart:  # an earlier step ended in an error
            optimizer.param_groups = apart.pop()
        alike: dict[Any, list[dict[str, Any]]] = {}
        for group in optimizer.param_groups:
            alike.setdefault(_settings(group), []).append(group)
        if len(alike) == len(optimizer.param_groups):
            return
        apart.append(optimizer.param_groups)
        optimizer.param_groups = [
            {**members[0], PARAMS: [p for member in members for p in member[PARAMS]], MEMBERS: members}
            for members in alike.values()
        ]

    def part(*_: Any) -> None:
        if not apart:
            return
        for merged in optimizer.param_groups:
            members = merged[MEMBERS]
            before = members[0]
            written = {key: value for key, value in merged.items() if before.get(key, before) is not value}
            del written[PARAMS], written[MEMBERS]
            if written:
                for member in members:
                    member.update(written)
        optimizer.param_groups = apart.pop()

    optimizer.register_step_pre_hook(merge)
    optimizer.register_step_post_hook(part)


def _settings(group: dict[str, Any]) -> Any:
    """What is alike in groups that can be merged: all but the parameters. This is done for each group at each step."""
    settings = (*group, *[value for key, value in group.items() if key != PARAMS])
    try:
        hash(settings)  # a tensor, as a rate that is kept on a device, is like itself alone
    except TypeError:  # a list
        return repr(settings)
    return settings
