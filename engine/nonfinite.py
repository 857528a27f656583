"""Steps with a loss or gradient that is not finite: left out, counted; too many in a row end the run with a report.

`watch` puts `FiniteSteps` before the class of an optimizer wrapper that is already built, of whatever kind: plain,
mixed precision, adaptive clipping. It waits for one number a step, the norm of all gradients, which clipping by norm
asks for anyway.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from ..errors import InputError
from ..registry import HOOKS

REPORT = "nonfinite_report.json"
SHOWN = 4  # names in a message; the report has all
LEAST_SCALE = 1.0  # of a loss: what is not finite below it does not come of the scaling


class Skip(NamedTuple):
    """A step that was left out."""

    norm: float
    gradients: list[str]  # parameters whose gradients are not finite
    loss_finite: bool  # of every process
    scale: float | None  # of the loss, where there is a scaler

    @property
    def by_scaler(self) -> bool:
        """Whether it is how a dynamic loss scale finds its size: the next steps are tried with a smaller one."""
        return self.scale is not None and self.loss_finite and self.scale >= LEAST_SCALE


class FiniteSteps:
    """Stands before an `OptimWrapper` among the bases of a class, see `watch`; a step is taken or leaves all as it was.

    What is left as it was: weights, optimizer, statistics of batch norms. With gradient accumulation a step is the
    whole window. In several processes DistributedDataParallel has added the gradients up, so that all decide alike.
    """

    taken: int
    skips: int
    last_skip: Skip | None
    _names: dict[int, str]
    _losses: list[Tensor]
    _live: list[list[Tensor]]
    _kept: list[list[Tensor]]

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """As the wrapper's. A loss that is not finite makes every gradient so, whatever its derivative is."""
        self._losses.append(loss.detach())
        super().backward(loss * (loss.detach() * 0 + 1), **kwargs)  # times exactly 1, or NaN

    def step(self, **kwargs: Any) -> None:
        """Clip and step, or leave the step out."""
        scaler = getattr(self, "loss_scaler", None)
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        by_norm = bool(self.clip_grad_kwargs) and self.clip_func is clip_grad_norm_
        order = self.clip_grad_kwargs.get("norm_type", 2.0) if by_norm else 2.0
        norm = get_total_norm([p.grad for p in params], order)
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if math.isfinite(size):
            if by_norm:  # what clip_grad_norm_ does once it has the norm
                kwargs_of_clip = {k: v for k, v in self.clip_grad_kwargs.items() if k in ("max_norm", "foreach")}
                clip_grads_with_norm_(params, total_norm=norm, **kwargs_of_clip)
                self.message_hub.update_scalar("train/grad_norm", size)
            elif self.clip_grad_kwargs:
                self._clip_grad()
            self.optimizer.step(**kwargs)  # not by the scaler, which would wait for the same answer a second time
            self.taken += 1
            _copy(self._kept, self._live)
        else:
            self.last_skip = self._look(params, size, None if scaler is None else scaler.get_scale())
            self.skips += 1
            _copy(self._live, self._kept)
        if scaler is not None:
            scaler.update(self._scale_update_param)
        self._losses.clear()

    def _look(self, params: Sequence[Tensor], norm: float, scale: float | None) -> Skip:
        names = [self._names.get(id(p), "a parameter of no name") for p in params if not _finite(p.grad)]
        bad = torch.zeros(1, dtype=torch.int32, device=params[0].device)
        for loss in self._losses:  # none where a model goes backward past the wrapper
            bad += int(not _finite(loss))
        all_reduce(bad, "max")  # every process is here
        return Skip(norm, names, not int(bad), scale)


def _finite(tensor: Tensor) -> bool:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return bool(torch.isfinite(local).all())


def _copy(to: list[list[Tensor]], of: list[list[Tensor]]) -> None:
    for targets, sources in zip(to, of, strict=True):
        if targets:
            torch._foreach_copy_(targets, sources)


def watch(wrapper: OptimWrapper, model: nn.Module) -> None:
    """Make `wrapper` leave out the steps that are not finite; its class becomes one that derives of its own.

    Args:
        wrapper: of one optimizer.
        model: its parameters' names are said, its batch norms kept.
    """
    if isinstance(wrapper, FiniteSteps):
        return
    kind = type(wrapper)
    wrapper.__class__ = type(kind.__name__, (FiniteSteps, kind), dict(__module__=kind.__module__))
    if "step" in vars(wrapper):  # schedules keep the class's of before in the object, to count its calls
        wrapper.step = _counted(wrapper)
    wrapper.taken = wrapper.skips = 0
    wrapper.last_skip = None
    wrapper._names = {id(p): name.removeprefix("module.") for name, p in model.named_parameters()}
    wrapper._losses = []
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    wrapper._live = [
        [buffer for buffer in buffers if buffer.is_floating_point()],
        [buffer for buffer in buffers if not buffer.is_floating_point()],
    ]
    wrapper._kept = [[buffer.clone() for buffer in part] for part in wrapper._live]


def _counted(wrapper: OptimWrapper) -> Callable:
    """`step` of the class as mmengine's schedules want it: they warn where it is not called before theirs."""

    def step(**kwargs: Any) -> None:
        wrapper._global_step += 1
        type(wrapper).step(wrapper, **kwargs)

    step._with_counter = True
    return step


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Leaves out steps whose loss or gradient is not finite, and ends the run after too many in a row.

    Every run of ours has it. In a config: `nonfinite=dict(max_in_a_row=10)`; `nonfinite=None` leaves it away.

    A loss scaler's own steps, by which it finds the scale, are counted apart and end nothing, as long as the loss is
    finite and the scale is not below 1.

    Args:
        max_in_a_row: steps left out one after another at which the run ends, 1 or more.

    Raises:
        InputError: it ends. The message names parameters, losses and pictures; `nonfinite_report.json` in the work
            directory has all of them, of every process.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        if max_in_a_row < 1:
            raise InputError(f"nonfinite.max_in_a_row: {max_in_a_row}; set it to 1 or more, or nonfinite=None")
        self.max_in_a_row = max_in_a_row
        self.skipped = self.in_a_row = self.scaler_skips = 0
        self._wrappers: list[FiniteSteps] = []
        self._seen: list[tuple[int, int]] = []
        self._window: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return dict(skipped=self.skipped, in_a_row=self.in_a_row, scaler_skips=self.scaler_skips)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        self.scaler_skips = state["scaler_skips"]

    def before_train(self, runner: Runner) -> None:
        """Watch the optimizer wrappers."""
        given = runner.optim_wrapper
        wrappers = list(given.values()) if isinstance(given, OptimWrapperDict) else [given]
        sharded = any(isinstance(module, FullyShardedDataParallel) for module in runner.model.modules())
        if sharded or not all(isinstance(wrapper, OptimWrapper) for wrapper in wrappers):
            what = "FullyShardedDataParallel" if sharded else type(given).__name__
            runner.logger.warning(f"steps that are not finite are not looked for: {what} does not show all gradients")
            wrappers = []
        for wrapper in wrappers:
            watch(wrapper, runner.model)
        self._wrappers = wrappers
        self._seen = [(wrapper.taken, wrapper.skips) for wrapper in wrappers]
        self._window = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Mapping | None = None
    ) -> None:
        """Count, say, and end the run where it is time."""
        if not self._wrappers:
            return
        losses = {key: value.detach() if isinstance(value, Tensor) else value for key, value in (outputs or {}).items()}
        self._window.append(dict(pictures=list(pictures_of(data_batch)), losses=losses))
        seen = [(wrapper.taken, wrapper.skips) for wrapper in self._wrappers]
        if seen == self._seen:
            return  # gradients add up
        skips = [
            wrapper.last_skip
            for wrapper, (_, before) in zip(self._wrappers, self._seen, strict=True)
            if wrapper.skips > before
        ]
        self._seen = seen
        counted = [skip for skip in skips if not skip.by_scaler]
        if counted:
            self.skipped += 1
            self.in_a_row += 1
            self._say(runner, counted[0])
            if self.in_a_row >= self.max_in_a_row:
                self._end(runner, counted[0], data_batch)
        elif skips:
            self.scaler_skips += 1
            runner.logger.info(
                f"iteration {runner.iter + 1}: float16 does not hold gradients times {skips[0].scale:g}; the step is "
                f"left out and the loss scale made smaller ({self.scaler_skips} such steps in all)"
            )
        else:
            self.in_a_row = 0
        self._window = []

    def _say(self, runner: Runner, skip: Skip) -> None:
        runner.logger.warning(
            f"iteration {runner.iter + 1}: {_words(skip)}; the step is left out, weights stay as they were "
            f"({self.in_a_row} in a row, {self.skipped} in all; the run ends at {self.max_in_a_row} in a row)"
        )

    def _end(self, runner: Runner, skip: Skip, data_batch: Any) -> None:
        mine = [
            dict(pictures=one["pictures"], losses={key: _plain(value) for key, value in one["losses"].items()})
            for one in self._window
        ]
        ranks = all_gather_object(dict(batches=mine, inputs_not_finite=list(_broken_inputs(data_batch))))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        report = dict(
            iteration=runner.iter + 1,
            epoch=runner.epoch + 1,
            in_a_row=self.in_a_row,
            skipped=self.skipped,
            gradient_norm=str(skip.norm),
            loss_finite=skip.loss_finite,
            loss_scale=skip.scale,
            gradients_not_finite=skip.gradients,
            parameters_not_finite=[name for name, p in model.named_parameters() if not _finite(p)],
            buffers_not_finite=[name for name, b in model.named_buffers() if not _finite(b)],
            ranks=ranks,
        )
        path = Path(runner.work_dir) / REPORT
        if is_main_process():
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        pictures = [name for rank in ranks for batch in rank["batches"] for name in batch["pictures"]]
        broken = [name for rank in ranks for name in rank["inputs_not_finite"]]
        losses = [
            f"{key} {value}" for rank in ranks for batch in rank["batches"] for key, value in batch["losses"].items()
        ]
        found = {
            "pictures that come to the model with values that are not finite": broken,
            "weights that are not finite themselves": report["parameters_not_finite"],
            "buffers that are not finite": report["buffers_not_finite"],
        }
        more = "".join(f"; {len(names)} {what} ({_some(names)})" for what, names in found.items() if names)
        raise InputError(
            f"iteration {runner.iter + 1}: {self.in_a_row} steps in a row were not finite, and the run ends: "
            f"{_words(skip)}; losses: {_some(losses)}; "
            f"pictures: {_some(pictures) or 'their data set gives no paths'}{more}; the whole is in {path}. "
            "Look at these pictures and their labels, lower optim_wrapper.optimizer.lr, set optim_wrapper.clip_grad, "
            "or take bf16 in place of fp16"
        )


def _words(skip: Skip) -> str:
    if not skip.loss_finite:
        return "the loss is not finite"
    if not skip.gradients:
        return f"the norm of the gradients is {skip.norm}, though each of them is finite"
    return f"gradients are not finite in {len(skip.gradients)} parameters ({_some(skip.gradients)})"


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"


def _plain(value: Any) -> Any:
    """A loss as JSON takes it: NaN and infinity as text."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Tensor):
        value = value.tolist()
        return _plain(value) if isinstance(value, list) else _plain(float(value))
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def pictures_of(batch: Any) -> Iterator[str]:
    """Paths of a batch's pictures, wherever its samples stand: `img_path` of samples, or of their dicts."""
    if isinstance(batch, BaseDataElement):
        if (path := batch.metainfo.get("img_path")) is not None:
            yield str(path)
    elif isinstance(batch, Mapping):
        if isinstance(batch.get("img_path"), str):
            yield batch["img_path"]
        for part in batch.values():
            yield from pictures_of(part)
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from pictures_of(part)


def _broken_inputs(batch: Any) -> Iterator[str]:
    """Paths of those pictures of a batch that have values that are not finite when they leave the pipeline."""
    inputs = batch.get("inputs") if isinstance(batch, Mapping) else None
    if isinstance(inputs, list | tuple | Tensor) and all(isinstance(one, Tensor) for one in inputs):
        names = list(pictures_of(batch))
        for number, one in enumerate(inputs):
            if not _finite(one):
                yield names[number] if len(names) == len(inputs) else f"picture {number} of the batch"
