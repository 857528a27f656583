"""The first step of a training tells what no config does: which parameters get no gradient, which loss is no number."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import InputError
from ..registry import HOOKS
from .parallel.sharding import is_sharded

SHOWN = 4


class GradientWatch:
    """Notes which parameters get a gradient between its making and `stop`."""

    def __init__(self, model: nn.Module) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.idle = dict.fromkeys(trained)
        self._handles = [
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: self.idle.pop(name, None))
            for name, parameter in trained.items()
        ]

    def stop(self) -> list[str]:
        """Names of those without; of a model in DistributedDataParallel as of the model itself."""
        for handle in self._handles:
            handle.remove()
        return [name.removeprefix("module.") for name in self.idle]


def idle_words(names: Sequence[str]) -> str:
    """That parameters take no part in the loss, and what to do, in a line."""
    shown = f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
    return (
        f"{len(names)} parameters take no part in the loss and learn nothing ({shown}): leave out what has no use "
        "(out_indices of the backbone, a head) or freeze it; training in several processes would stop, unless "
        "find_unused_parameters=True is in the config"
    )


def need_finite(losses: Mapping[str, Any]) -> None:
    """Ask that every loss is a finite number.

    Raises:
        InputError: one is not; it is named.
    """
    for name, value in losses.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if "loss" in name and any(isinstance(part, Tensor) and not torch.isfinite(part).all() for part in parts):
            raise InputError(
                f"{name}: not finite in the first step; look at the labels and boxes of the data, at the pretrained "
                "weights, and at data_preprocessor.mean and std"
            )


@HOOKS.register_module()
class FirstStepHook(Hook):
    """In the first step of a run: names parameters without a gradient in a warning, and stops at a loss of NaN.

    Raises:
        InputError: a loss is not finite.
    """

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._watch: GradientWatch | None = None
        self._done = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Watch the first step alone."""
        # A sharded model's gradients come by another way than is watched; no rank of it waits for one that does not.
        if not self._done and not is_sharded(runner.model):
            self._watch = GradientWatch(runner.model)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping | None = None
    ) -> None:
        """Tell what was seen."""
        if self._done:
            return
        self._done = True
        idle, self._watch = [] if self._watch is None else self._watch.stop(), None
        need_finite(outputs or {})
        if idle:
            runner.logger.warning(idle_words(idle))
