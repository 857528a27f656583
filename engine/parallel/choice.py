"""`parallel = "ddp"`, `"zero1"`, `"fsdp"` of a config, or `dict(type="fsdp", ...)`: what a rank holds."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from ...errors import InputError

KINDS = {
    "ddp": "a whole model, its gradients and optimizer state in every rank",
    "zero1": "a whole model and its gradients in every rank, the optimizer state spread over the ranks",
    "fsdp": "parameters, gradients and optimizer state spread over the ranks",
}
# Optimizers of torch and timm that were seen to step on a rank's rows as on whole weights (2 ranks, float64).
SHARDABLE = (
    *("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta", "ASGD"),
    *("adam", "adamw", "nadamw", "radamw", "lamb", "lambc", "lion", "adan", "lars", "momentum", "rmsproptf"),
    *("adabelief", "adopt", "adoptw", "laprop"),
)
CHECKPOINTS = ("sharded", "full")


@dataclasses.dataclass(frozen=True)
class Parallel:
    """What the config asks for.

    Args:
        type: of `KINDS`.
        units: of fsdp: patterns of module names (`backbone.stages.*.blocks.*`), each gathered and freed as one; None
            takes the backbone's blocks and the heads that are called as one, `[]` the model as a whole.
        reshard_after_forward: of fsdp: free a unit after its forward pass and gather it again for the backward pass;
            False keeps it, faster and larger.
        checkpoint: of fsdp: 'sharded', a folder with a file a rank, or 'full', one file as ddp writes it.
    """

    type: str = "ddp"
    units: tuple[str, ...] | None = None
    reshard_after_forward: bool = True
    checkpoint: str = "sharded"


def read_parallel(value: Any) -> Parallel:
    """The config's entry `parallel`; None is ddp.

    Raises:
        InputError: no such kind; an option that it does not have.
    """
    given = {"type": "ddp"} if value is None else {"type": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or "type" not in given:
        raise InputError(f"parallel={value!r}: give one of {', '.join(KINDS)}, or a dict with such a type")
    given = dict(given)
    kind = given["type"]
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"parallel: no kind {kind!r}{hint}; there are {', '.join(KINDS)}")
    known = [field.name for field in dataclasses.fields(Parallel)] if kind == "fsdp" else ["type"]
    if unknown := sorted(set(given) - set(known)):
        options = ", ".join(known[1:]) or "none"
        raise InputError(f"parallel: {kind} has no option {', '.join(unknown)}; its options: {options}")
    if isinstance(given.get("units"), str):
        raise InputError(f"parallel.units: give a list of patterns, not {given['units']!r}")
    if given.get("units") is not None:
        given["units"] = tuple(given["units"])
    if given.get("checkpoint", "full") not in CHECKPOINTS:
        raise InputError(f"parallel.checkpoint: {given['checkpoint']!r} is none of {', '.join(CHECKPOINTS)}")
    return Parallel(**given)


def words_of(parallel: Parallel, several: bool) -> str | None:
    """What a rank of several holds, in a line; None where there is nothing to tell."""
    if parallel.type == "ddp":
        return None
    if not several:
        return f"parallel={parallel.type!r}: one process has nothing to share out"
    return f"parallel={parallel.type!r}: {KINDS[parallel.type]}"


def need_fitting(parallel: Parallel, cfg: Mapping[str, Any]) -> None:
    """Ask that what else the config names goes with the kind.

    Raises:
        InputError: it does not; the message says which entry, and what to take instead.
    """
    if parallel.type == "ddp":
        return
    if cfg.get("model_wrapper_cfg") is not None:
        raise InputError(f"parallel={parallel.type!r} and model_wrapper_cfg: each wraps the model; leave one out")
    wrapper = cfg.get("optim_wrapper") or {}
    optimizer = wrapper.get("optimizer") if isinstance(wrapper, Mapping) else None
    if not isinstance(optimizer, Mapping):
        raise InputError(f"parallel={parallel.type!r}: it takes one optimizer, optim_wrapper.optimizer of the config")
    if parallel.type != "fsdp":
        return
    hooks = [
        str(hook.get("type")).split(".")[-1] for hook in cfg.get("custom_hooks") or () if isinstance(hook, Mapping)
    ]
    if cfg.get("ema") or "EMAHook" in hooks:
        raise InputError(
            "parallel='fsdp' and EMAHook: the averaged copy is of a whole model, and no rank has one; take "
            "parallel='zero1', or leave the averaging out"
        )
    if "AdaptiveClip" in str(wrapper.get("type")):
        raise InputError(
            f"parallel='fsdp' and {wrapper['type']}: it needs the whole gradient of every unit of a layer; take "
            "parallel='zero1', or OptimWrapper with clip_grad"
        )
    name = str(optimizer.get("name") if "TimmOptimizer" in str(optimizer.get("type")) else optimizer.get("type"))
    if name.split(".")[-1] not in SHARDABLE:
        raise InputError(
            f"parallel='fsdp': the optimizer {name} is not known to step on shares of a weight as on the whole one, as "
            f"Muon, which looks at whole matrices, does not; take parallel='zero1', or one of {', '.join(SHARDABLE)}"
        )
