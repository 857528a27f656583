"""mmengine's Runner, with three manners: it checks before it trains, loads strictly, and keeps the terminal quiet."""

import contextlib
import functools
import io
import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from torch import nn

from ..checkpoints.loading import put_weights, read_checkpoint
from ..errors import InputError
from .fit import check_channels
from .layer_decay import need_readable_rates
from .precision import compile_part, ema_hook, part_to_compile, to_channels_last, use_amp

NOISE = (  # warnings about mmengine itself, with nothing for the reader to do
    "will be deprecated in future",
    "the former will be deprecated",
    "so skip saving parameter schedulers",
    "The prefix is not set in metric class",
)
HOOKS = ("ProgressHook", "ResultsHook", "FirstStepHook")


class CheckingRunner(Runner):
    """Runner of the command line. `cfg.load_partial=True` loads the part of a checkpoint that fits.

    Raises:
        InputError: the neck or head does not fit the backbone; a checkpoint does not fit the model.
    """

    def train(self) -> nn.Module:
        """As Runner's; names the parameters where training in several processes fails for want of their gradients."""
        try:
            return super().train()
        except RuntimeError as error:
            if (unused := _without_gradient(error, self.model)) is None:
                raise
            raise InputError(
                f"training in several processes: {len(unused)} parameters take no part in the loss "
                f"({', '.join(unused[:4])}{', ...' if len(unused) > 4 else ''}): leave out what has no use "
                "(out_indices of the backbone, a head), freeze it, or set find_unused_parameters=True in the config"
            ) from error

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        built = super().build_model(model)
        inner = built.module if isinstance(built, BaseTTAModel) else built
        check_channels(inner)
        if self.cfg.get("channels_last"):
            to_channels_last(inner)
        return built

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """As Runner's, where a batch is what one step sees: pictures x processes x accumulative_counts."""
        if auto_scale_lr and auto_scale_lr.get("enable"):
            counts = getattr(optim_wrapper, "_accumulative_counts", 1)
            auto_scale_lr = {**auto_scale_lr, "base_batch_size": auto_scale_lr["base_batch_size"] / counts}
            if counts > 1:
                self.logger.info(f"a step sees {counts} batches (accumulative_counts): the learning rate is for all")
        super().scale_lr(optim_wrapper, auto_scale_lr)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """As Runner's; OneCycleLR reads no rates of the optimizer, so what makes them differ would be for nothing."""
        need_readable_rates(scheduler, self.optim_wrapper, bool((self.auto_scale_lr or {}).get("enable")))
        return super().build_param_scheduler(scheduler)

    def _maybe_compile(self, target: str) -> None:
        """`compile='backbone'` and `'model'` are ours; mmengine reads the rest."""
        if (part := part_to_compile(self.cfg.get("compile"))) is None:
            super()._maybe_compile(target)
        else:
            compile_part(self.model, *part)
            self.logger.info(f"{part[0]} compiled: the first iterations take longer")

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """The log file gets all; the terminal gets warnings, for ProgressHook tells the rest."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:  # a FileHandler is one, too
                handler.setLevel(max(handler.level, logging.WARNING))
                handler.addFilter(_tells_something)
        return logger

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """pycocotools and others print while they read and while they count: that goes to the log."""
        return _printing_to(self.logger, super().build_train_loop)(loop)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As `build_train_loop`."""
        return _printing_to(self.logger, super().build_val_loop)(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As `build_train_loop`."""
        return _printing_to(self.logger, super().build_test_loop)(loop)

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """As `build_train_loop`."""
        built = super().build_evaluator(evaluator)
        built.evaluate = _printing_to(self.logger, built.evaluate)
        return built

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As Runner's; a file of weights alone has no epoch and optimizer to go on with."""
        try:
            super().resume(filename, *args, **kwargs)
        except KeyError as error:
            if error.args[0] not in ("meta", "epoch", "iter", "message_hub"):
                raise
            raise InputError(
                f"{filename}: it has weights, but no {error.args[0]!r} of a run to go on with: "
                "start from its weights with --load-from (in a config: load_from, and resume=False)"
            ) from error

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool | None = None, revise_keys: Any = None
    ) -> dict:
        """As Runner's, but every key has to fit unless `cfg.load_partial` or `strict=False` is given."""
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        model = model.module if isinstance(model, BaseTTAModel) else model
        strict = not self.cfg.get("load_partial", False) if strict is None else strict
        report = put_weights(model, checkpoint["state_dict"], str(filename), strict)
        if report:
            self.logger.warning(f"{filename}: loaded in part; left as they were built: {report.words()}")
        self.logger.info(f"loaded {filename}")
        self._has_loaded = True
        return checkpoint


class StrictFlexibleRunner(FlexibleRunner):
    """FlexibleRunner whose checkpoints have to fit."""

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool | None = None, **kwargs: Any
    ) -> dict:
        strict = not self.cfg.get("load_partial", False) if strict is None else strict
        return super().load_checkpoint(filename, map_location, strict, **kwargs)


def _without_gradient(error: RuntimeError, model: nn.Module) -> list[str] | None:
    """Names of the parameters of which DistributedDataParallel's `error` gives the numbers; None for other errors."""
    text = str(error)
    if "Expected to have finished reduction" not in text:
        return None
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", text)
    return [trained[int(index)].removeprefix("module.") for index in found[1].split()] if found else []


def _tells_something(record: logging.LogRecord) -> bool:
    return not any(noise in record.getMessage() for noise in NOISE)


def _printing_to(logger: MMLogger, function: Callable) -> Callable:
    @functools.wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                return function(*args, **kwargs)
        finally:
            if text := printed.getvalue().strip():
                logger.info(text)

    return quiet


def add_hooks(cfg: Config) -> None:
    """Put our hooks among the config's custom hooks, those that it does not have yet; `EMAHook` becomes ours.

    Raises:
        InputError: `ema` or `nonfinite` of the config do not fit.
    """
    hooks = [_ours(hook) for hook in cfg.get("custom_hooks") or ()]
    there = {hook.get("type", "").split(".")[-1] for hook in hooks if isinstance(hook, dict)}
    added = [dict(type=f"bestiary.{name}") for name in HOOKS if name not in there]
    if (nonfinite := cfg.get("nonfinite", {})) is not None and "NonFiniteHook" not in there:
        if not isinstance(nonfinite, dict):
            raise InputError(f"nonfinite: {nonfinite!r}; set nonfinite=dict(max_in_a_row=10), or None to switch it off")
        added.append(dict(type="bestiary.NonFiniteHook", **nonfinite))
    if cfg.get("ema") and "EMAHook" not in there:
        added.append(ema_hook(cfg.ema))
    cfg.custom_hooks = [*hooks, *added]


def _ours(hook: Any) -> Any:
    """mmengine's EMAHook by name -> ours, which a step that was left out does not move."""
    if isinstance(hook, dict) and hook.get("type") in ("EMAHook", "mmengine.EMAHook", "mmdet.EMAHook", "mmseg.EMAHook"):
        return {**hook, "type": "bestiary.EMAHook"}
    return hook


def build_runner(cfg: Config) -> Runner | FlexibleRunner:
    """The runner of a config: the one it names in `runner_type`, FlexibleRunner where it has a `strategy`, or Runner.

    Raises:
        InputError: see `CheckingRunner`; `amp`, `compile`, `ema` or `nonfinite` of the config do not fit.
    """
    add_hooks(cfg)
    if cfg.get("amp") and cfg.get("optim_wrapper"):
        use_amp(cfg, torch.cuda.is_available(), cfg.amp)
    part = part_to_compile(cfg.get("compile"))
    if cfg.get("strategy") is not None and (part or cfg.get("channels_last")):
        raise InputError("compile='backbone' or 'model' and channels_last do not go with a strategy: leave one out")
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    kind = StrictFlexibleRunner if cfg.get("strategy") is not None else CheckingRunner
    return kind.from_cfg(cfg)


def hook_of(runner: Runner | FlexibleRunner, name: str) -> Any:
    """The runner's hook of that class name.

    Raises:
        StopIteration: it has none.
    """
    return next(hook for hook in runner.hooks if type(hook).__name__ == name)
