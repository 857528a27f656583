"""What a checkpoint holds beyond mmengine's, so that a resumed run does not differ from one without a break."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import gather_object, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ..parallel.sharding import as_part_of, own_part

KEY = "bestiary"  # of a checkpoint
VERSION = 1
# Classes of mmengine and mmdet that remember something from iteration to iteration, and do not save, by its names.
HOOKS = {"EarlyStoppingHook": ("wait_count", "best_score")}
MODULES = {"BatchSyncRandomResize": ("_input_size",)}


def capture(runner: Runner, epoch: int) -> dict[str, Any]:
    """The state of all processes, in the first of them; every process has to call it.

    Args:
        runner: it trains.
        epoch: what the checkpoint calls its epoch: one more than the loop's where an epoch is complete.
    """
    loop = runner.train_loop
    place = dict(loop.place) if hasattr(loop, "place") else None
    if place is not None and epoch > loop.epoch:
        place.update(epoch=epoch, batch=0)
    mine = dict(gradients=_gradients(runner.model), buffers=_buffers(runner.model))
    ranks = [mine] if get_world_size() == 1 else gather_object(mine, 0)
    if get_rank() != 0:
        return {}
    first = ranks[0]["buffers"]
    for other in ranks[1:]:  # what is as in the first process is not kept twice
        other["buffers"] = {name: b for name, b in other["buffers"].items() if not torch.equal(b, first[name])}
    ranks[0]["buffers"] = {}  # they are in the state dict
    return dict(
        version=VERSION,
        seed=runner.seed,
        place=place,
        shape=_shape(loop.dataloader),
        hooks=dict(_hooks(runner)),
        modules=dict(_modules(runner.model)),
        ranks=ranks,
    )


def restore(runner: Runner, state: dict[str, Any]) -> list[str]:
    """Put what `capture` gave into a runner that mmengine has resumed; returns what differs from then, in words."""
    loop = runner.train_loop
    notes = _differences(runner, state["shape"])
    if state["place"] is not None and hasattr(loop, "place"):
        place = dict(state["place"])
        then, now = _step(state["shape"]), _step(_shape(loop.dataloader))
        if then != now:  # as many pictures as were seen, in batches of today's size
            place["batch"] = place["batch"] * then // now
        loop.place = place
    hooks = {type(hook).__name__: hook for hook in runner.hooks}
    for name, values in state["hooks"].items():
        if name not in hooks:
            continue
        if name in HOOKS:
            vars(hooks[name]).update(values)
        else:
            hooks[name].load_state_dict(values)
    parts = dict(_inner(runner.model).named_modules())
    for name, values in state["modules"].items():
        if name in parts:
            vars(parts[name]).update(values)
    if get_rank() < len(state["ranks"]):
        _put(runner.model, state["ranks"][get_rank()])
    return notes


def _inner(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    """Those that are being accumulated; a step of the optimizer leaves none."""
    named = _inner(model).named_parameters()
    return {name: own_part(p.grad.detach()).cpu().clone() for name, p in named if p.grad is not None}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers of a process's own: without `broadcast_buffers` batch norms count in each process for themselves."""
    if get_world_size() == 1:
        return {}
    state = _inner(model).state_dict()
    return {name: state[name].cpu() for name, _ in _inner(model).named_buffers() if name in state}


def _put(model: nn.Module, rank: dict[str, Any]) -> None:
    inner = _inner(model)
    buffers, parameters = dict(inner.named_buffers()), dict(inner.named_parameters())
    with torch.no_grad():
        for name, value in rank["buffers"].items():
            buffers[name].copy_(value)
    for name, gradient in rank["gradients"].items():
        parameters[name].grad = as_part_of(gradient.to(parameters[name].device), parameters[name])


def _hooks(runner: Runner) -> Iterator[tuple[str, Any]]:
    for hook in runner.hooks:
        name = type(hook).__name__
        if name in HOOKS:
            yield name, {key: getattr(hook, key) for key in HOOKS[name]}
        elif hasattr(hook, "state_dict") and hasattr(hook, "load_state_dict"):
            yield name, hook.state_dict()


def _modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in _inner(model).named_modules():
        if keys := MODULES.get(type(module).__name__):
            yield name, {key: getattr(module, key) for key in keys}


def _shape(loader: Any) -> dict[str, Any]:
    return dict(
        processes=get_world_size(),
        batch_size=getattr(loader.batch_sampler, "batch_size", None),
        pictures=len(loader.dataset),
    )


def _step(shape: dict[str, Any]) -> int:
    return shape["processes"] * (shape["batch_size"] or 1)


def _differences(runner: Runner, then: dict[str, Any]) -> list[str]:
    now = _shape(runner.train_loop.dataloader)
    return [f"{name} {then[name]} -> {now[name]}" for name in now if now[name] != then[name]]
