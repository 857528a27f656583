"""Moving average of the weights, once a step of the optimizer."""

from collections.abc import Mapping
from typing import Any

from mmengine.hooks import EMAHook as EveryIterationEMAHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from ..registry import HOOKS
from .nonfinite import FiniteSteps


@HOOKS.register_module()
class EMAHook(EveryIterationEMAHook):
    """mmengine's EMAHook, which averages after each iteration; this one after each step that the optimizer took.

    So gradient accumulation averages as often as the large batch does, and a step that was left out (`NonFiniteHook`)
    leaves the average as it was. Arguments are mmengine's: `ema_type`, `momentum` (the share of the new weights),
    `update_buffers`, `begin_iter` and so on. Evaluation takes the average. In a checkpoint `state_dict` is the average,
    `ema_state_dict` has the raw weights under `module.`; buffers are copies of the model's unless `update_buffers`.
    """

    def before_train(self, runner: Runner) -> None:
        """As mmengine's."""
        super().before_train(runner)
        self._taken = _taken(runner.optim_wrapper)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping | None = None
    ) -> None:
        """Average if this iteration ended in a step."""
        taken = _taken(runner.optim_wrapper)
        stepped = any(
            now > before if isinstance(wrapper, FiniteSteps) else wrapper.should_update()
            for wrapper, now, before in zip(_wrappers(runner.optim_wrapper), taken, self._taken, strict=True)
        )
        self._taken = taken
        if stepped:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)


def _wrappers(given: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    return list(given.values()) if isinstance(given, OptimWrapperDict) else [given]


def _taken(given: OptimWrapper | OptimWrapperDict) -> list[int]:
    return [getattr(wrapper, "taken", 0) for wrapper in _wrappers(given)]
