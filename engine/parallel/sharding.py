"""FSDP: parameters, gradients and optimizer state spread over the ranks by PyTorch's `fully_shard`.

Its parameters are DTensors of which a rank holds its rows. Hooks keep state dicts as everybody knows them: they give
whole tensors and take whole tensors, so that any code that saves and loads a model or an optimizer goes on to work; all
ranks have to call it.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ...errors import InputError
from .choice import Parallel

CONTAINERS = (nn.ModuleList, nn.Sequential)
# Heads of classifiers and segmentors, which use their own weights in their own methods alone. mmdet's detectors reach
# into their heads from outside, so those belong to the root, whose weights are there throughout a step.
# mmseg's call `forward` by that name, past the hooks that gather: their `loss` and `predict` gather instead.
HEADS = {"head": (), "decode_head": ("loss", "predict"), "auxiliary_head": ("loss", "predict")}


def shard(model: nn.Module, parallel: Parallel, amp: torch.dtype | None = None) -> list[str]:
    """Spread a model over all ranks, in place; returns the names of its units, the root left out.

    Args:
        model: on the device on which it will run, the same weights in every rank.
        parallel: of type 'fsdp'.
        amp: dtype of autocast; weights then travel in it, and gradients are summed in float32. A model with batch norms
            keeps float32 weights, for these do not take two dtypes.

    Raises:
        InputError: a pattern of `units` fits no module; a parameter without dimensions; parameters of several dtypes.
    """
    device = next(model.parameters()).device
    _need_shardable(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if amp is not None and not has_batch_norm(model):
        policy = MixedPrecisionPolicy(param_dtype=amp, reduce_dtype=torch.float32, cast_forward_inputs=False)
    names = list(_chosen(model, parallel.units) if parallel.units is not None else units_of(model))
    modules = dict(model.named_modules())
    options = dict(mesh=mesh, mp_policy=policy, reshard_after_forward=parallel.reshard_after_forward)
    for name in sorted(names, key=lambda name: -name.count(".")):  # what lies inside another unit first
        fully_shard(modules[name], **options)
        for method in HEADS.get(name, ()):
            register_fsdp_forward_method(modules[name], method)
    fully_shard(model, **options)
    model._register_state_dict_hook(_give_whole)
    model.register_load_state_dict_pre_hook(_take_whole)
    return names


def is_sharded(model: nn.Module) -> bool:
    """Whether a rank holds a part of the model alone."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer keeps statistics of batches."""
    return any(isinstance(module, nn.modules.batchnorm._NormBase) for module in model.modules())


def units_of(model: nn.Module) -> Iterator[str]:
    """Names of the backbone's blocks and of the heads that are called as one."""
    if isinstance(backbone := getattr(model, "backbone", None), nn.Module):
        yield from _blocks(backbone, "backbone")
    for head in HEADS:
        module = getattr(model, head, None)
        callable_ = isinstance(module, nn.Module) and not isinstance(module, CONTAINERS)
        if callable_ and any(True for _ in module.parameters()):
            yield head


def _blocks(module: nn.Module, name: str) -> Iterator[str]:
    """Members of the innermost lists of modules that are more than a layer: a stage's blocks, or else the stages."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}"
        if not isinstance(child, CONTAINERS):
            continue
        for member_name, member in child.named_children():
            if not any(True for _ in member.children()) or not any(True for _ in member.parameters()):
                continue
            inner = list(_blocks(member, f"{path}.{member_name}"))
            if isinstance(member, nn.ModuleList) and not inner:
                continue  # a list is not called, its members are
            yield from inner or [f"{path}.{member_name}"]


def _chosen(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    found: list[str] = []
    for pattern in patterns:
        fitting = fnmatch.filter(names, pattern)
        # `*` takes dots, too: the layers inside a block that fits are left to it.
        fitting = [name for name in fitting if name.count(".") == pattern.count(".")]
        if not fitting:
            raise InputError(f"parallel.units: {pattern!r} fits no module of this model; there is, say, {names[1]!r}")
        found += [name for name in fitting if name not in found]
    return found


def _need_shardable(model: nn.Module) -> None:
    scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise InputError(
            f"parallel='fsdp': {', '.join(scalars[:4])} is a parameter of a single number, which has no rows to share "
            "out; take parallel='zero1'"
        )
    kinds = {parameter.dtype for parameter in model.parameters()}
    if len(kinds) > 1:
        raise InputError(f"parallel='fsdp': parameters of one dtype are wanted, there are {', '.join(map(str, kinds))}")


def whole(value: Any) -> Any:
    """The same tree of dicts, lists and tensors with whole tensors on the CPU for DTensors; all ranks call it."""
    if isinstance(value, DTensor):
        return value.detach().full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor that every rank has, as `like` is spread; no communication."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    value = value.detach().to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_part_of(part: Tensor, like: Tensor) -> Tensor:
    """A tensor of which this rank holds `part`, spread as `like` is; `part` itself where that is not spread."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _give_whole(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for key, value in state_dict.items():
        state_dict[key] = whole(value)


def _take_whole(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    own = dict(module.named_parameters(prefix.removesuffix("."), remove_duplicate=False))
    for key, value in list(state_dict.items()):
        if key in own and isinstance(value, Tensor):
            state_dict[key] = part_like(value, own[key])


def keep_whole_states(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer of a sharded model give and take whole state dicts; all ranks call `state_dict`."""
    optimizer.register_state_dict_post_hook(lambda _, state: whole(state))
    optimizer.register_load_state_dict_pre_hook(_parts_of_state)


def _parts_of_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if len(parameters) != len(numbers):
        return state  # torch's own message tells
    parts = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state["state"]:
            entries = state["state"][number].items()
            parts[number] = {key: part_like(v, parameter) if isinstance(v, Tensor) else v for key, v in entries}
    return {**state, "state": parts}
