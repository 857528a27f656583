"""mmengine's Runner, which checks before it trains, loads strictly, resumes exactly, and keeps the terminal quiet."""

import contextlib
import functools
import io
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..backbones.reading import is_address
from ..checkpoints.loading import put_weights, read_checkpoint
from ..errors import InputError
from .fit import check_channels
from .layer_decay import need_readable_rates
from .parallel import lifeline
from .parallel.folder import is_sharded_checkpoint
from .parallel.logs import log_every_rank
from .parallel.restarts import attempt, has_saved
from .parallel.runner import SharingRunner
from .precision import compile_part, ema_hook, part_to_compile, to_channels_last, use_amp
from .training import Resumable, Stopped, WholeCheckpointHook, find_resumable, look_at, use_exact_loop
from .training.batches import close_workers, leave_signals_to_main, name_unreadable
from .training.state import KEY as STATE
from .training.state import restore
from .training.stopping import StopRequest, ValidationLeft

NOISE = (  # warnings about mmengine itself, with nothing for the reader to do
    "will be deprecated in future",
    "the former will be deprecated",
    "so skip saving parameter schedulers",
    "The prefix is not set in metric class",
)
HOOKS = ("ProgressHook", "ResultsHook", "FirstStepHook", "StopHook", "BadSamplesHook", "ReportHook")


class CheckingRunner(SharingRunner):
    """Runner of the command line. `cfg.load_partial=True` loads the part of a checkpoint that fits.

    Raises:
        InputError: the neck or head does not fit the backbone; a checkpoint does not fit the model.
    """

    stop_request: StopRequest | None = None
    _loaded: dict[str, Any] = {}

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
        finally:
            for loop in (self._train_loop, self._val_loop):
                close_workers(getattr(loop, "dataloader", None), getattr(loop, "reader", None))

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
        if (path := log_every_rank(logger, self._log_dir)) is not None:
            lifeline.begin(str(path))
        return logger

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """pycocotools and others print while they read and while they count: that goes to the log."""
        if isinstance(loop, dict):
            loop = use_exact_loop(loop)
            self._find_start()
        return _printing_to(self.logger, super().build_train_loop)(loop)

    def _find_start(self) -> None:
        """Settle what to resume from, and take its seed: the data's order is to be the one that it began with.

        A job that torchrun has started again resumes from what it has saved, whether that was asked for or not.
        """
        again = [self.distributed and is_main_process() and has_saved(self.work_dir)]
        broadcast_object_list(again)
        if again[0]:
            self._tell(f"this job was started again (attempt {attempt() + 1})")
            self._resume, self._load_from = True, None
        if not self._resume:
            return
        found: list[Any] = [None]
        if is_main_process():  # one process decides for all
            if self._load_from is None:
                saved_to = (self.cfg.default_hooks["checkpoint"] or {}).get("out_dir")
                found = [find_resumable(Path(saved_to, Path(self.work_dir).name) if saved_to else self.work_dir)]
            elif is_address(str(self._load_from)):
                found = [Resumable(self._load_from, -1, None, ())]
            else:
                found = [Resumable(self._load_from, *look_at(self._load_from), ())]
        broadcast_object_list(found)
        if found[0] is None:
            self._resume = False
            self._tell(f"{self.work_dir} has no checkpoint to resume from: the run starts at its beginning")
            return
        start: Resumable = found[0]
        for damaged in start.passed:
            self.logger.warning(f"passed over: {damaged}")
        self._load_from = str(start.path)
        if start.iteration >= 0:
            self._tell(f"resumed from {start.path}, after iteration {start.iteration}")
        if start.seed is not None and start.seed != self.seed:
            if self._randomness_cfg.get("seed") is not None:
                self.logger.warning(f"the run goes on with the seed of its checkpoint, {start.seed}, not {self.seed}")
            self._randomness_cfg.update(seed=start.seed)
            self.set_randomness(**self._randomness_cfg)

    def _tell(self, line: str) -> None:
        self.logger.info(line)
        if is_main_process():
            print(line, flush=True)

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """As Runner's; workers leave signals to the main process, and name what they cannot read."""
        loader = Runner.build_dataloader(*args, **kwargs)
        leave_signals_to_main(loader)
        name_unreadable(loader)
        return loader

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As `build_train_loop`."""
        return _printing_to(self.logger, super().build_val_loop)(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As `build_train_loop`."""
        return _printing_to(self.logger, super().build_test_loop)(loop)

    def build_evaluator(self, evaluator: dict | list | Evaluator) -> Evaluator:
        """As `build_train_loop`."""
        built = super().build_evaluator(evaluator)
        evaluate = _printing_to(self.logger, built.evaluate)

        def evaluate_unless_stopped(size: int) -> dict:
            if self.stop_request is not None and self.stop_request.everywhere():
                raise ValidationLeft(alone=False)
            return evaluate(size)

        built.evaluate = evaluate_unless_stopped
        return built

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As Runner's, and to the last bit; a file of weights alone has no epoch and optimizer to go on with."""
        ends = [getattr(scheduler, "end", None) for scheduler in _flat(self.param_schedulers)]
        try:
            super().resume(filename, *args, **kwargs)
        except KeyError as error:
            if error.args[0] not in ("meta", "epoch", "iter", "message_hub"):
                raise
            raise InputError(
                f"{filename}: it has weights, but no {error.args[0]!r} of a run to go on with: "
                "start from its weights with --load-from (in a config: load_from, and resume=False)"
            ) from error
        for number, (scheduler, end) in enumerate(zip(_flat(self.param_schedulers), ends, strict=True)):
            if (then := getattr(scheduler, "end", None)) != end:
                self.logger.warning(
                    f"param_scheduler[{number}] ends at {then} in the checkpoint and at {end} in the config: the "
                    "checkpoint's is followed; to begin another schedule, start from the weights with --load-from"
                )
        state = self._loaded.get(STATE)
        if state is None:
            self.train_loop.validated = self.iter
            self.logger.warning(
                f"{filename}: not written by bestiary: it has no place in the data, so the run goes on at the "
                "beginning of an epoch, with other random numbers than without the break"
            )
        elif changed := restore(self, state):
            self.logger.warning(
                f"the run is not what it was when it was saved ({', '.join(changed)}): it goes on from the same "
                "pictures, but its numbers will differ from those of a run without a break"
            )
        self._loaded = {}

    def stop_here(self, epoch: int, iteration: int) -> None:
        """Save, unless this iteration is saved already, and end the run.

        Raises:
            Stopped: always, when the checkpoint is on the disk.
            InputError: there is no room for it.
        """
        kept = [hook for hook in self.hooks if isinstance(hook, WholeCheckpointHook)]
        if not kept:
            kept = [WholeCheckpointHook()]
            self.register_hook(kept[0])
            kept[0].before_train(self)
        hook = kept[0]
        if hook.saved_iteration != iteration:
            name = hook.interrupted.format(iteration)
            if not hook.save(self, name, dict(epoch=epoch, iter=iteration), by_epoch=False):
                raise InputError(f"{hook.last_ckpt}: no room for it; the run stops at the checkpoint before")
        self.call_hook("after_run")
        if is_main_process():
            print(
                f"stopped by {self.stop_request.name} after iteration {iteration} of {self.max_iters}; "
                f"saved in {hook.last_ckpt}: go on with --resume",
                file=sys.stderr,
                flush=True,
            )
        raise Stopped(hook.last_ckpt)

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool | None = None, revise_keys: Any = None
    ) -> dict:
        """As Runner's, but every key has to fit unless `cfg.load_partial` or `strict=False` is given."""
        if is_sharded_checkpoint(filename):
            checkpoint = self._loaded = self.load_folder(filename)
            self._has_loaded = True
            return checkpoint
        checkpoint = self._loaded = read_checkpoint(filename, map_location)
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


def _flat(schedulers: list | dict | None) -> list:
    """The schedulers of all optimizers, one after the other."""
    return [s for group in schedulers.values() for s in group] if isinstance(schedulers, dict) else schedulers or []


def add_hooks(cfg: Config) -> None:
    """Put our hooks among the config's custom hooks, those that it does not have yet, and our way to save.

    `report=False` leaves out the report's. mmengine's EMAHook and CheckpointHook become ours, with the same arguments.

    Raises:
        InputError: `ema` or `nonfinite` of the config do not fit.
    """
    cfg.default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1)) | (cfg.get("default_hooks") or {})
    cfg.default_hooks.checkpoint = _ours(cfg.default_hooks.checkpoint)
    hooks = [_ours(hook) for hook in cfg.get("custom_hooks") or ()]
    there = {hook.get("type", "").split(".")[-1] for hook in hooks if isinstance(hook, dict)}
    if not cfg.get("report", True):
        there.add("ReportHook")
    added = [dict(type=f"bestiary.{name}") for name in HOOKS if name not in there]
    if (nonfinite := cfg.get("nonfinite", {})) is not None and "NonFiniteHook" not in there:
        if not isinstance(nonfinite, dict):
            raise InputError(f"nonfinite: {nonfinite!r}; set nonfinite=dict(max_in_a_row=10), or None to switch it off")
        added.append(dict(type="bestiary.NonFiniteHook", **nonfinite))
    if cfg.get("ema") and "EMAHook" not in there:
        added.append(ema_hook(cfg.ema))
    cfg.custom_hooks = [*hooks, *added]


OURS = {"EMAHook": "bestiary.EMAHook", "CheckpointHook": "bestiary.WholeCheckpointHook"}


def _ours(hook: Any) -> Any:
    """A hook of mmengine's that we have in a form of our own -> that one, by the names that reach mmengine's."""
    kind = hook.get("type") if isinstance(hook, dict) else None
    scope, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    if name in OURS and scope in ("", "mmengine", "mmdet", "mmseg"):
        return {**hook, "type": OURS[name]}
    return hook


def build_runner(cfg: Config) -> Runner:
    """The runner of a config: the one it names in `runner_type`, or ours.

    Raises:
        InputError: the config has a `strategy`; `amp`, `compile`, `ema` or `nonfinite` of it do not fit; see
            `CheckingRunner`.
    """
    add_hooks(cfg)
    if cfg.get("amp") and cfg.get("optim_wrapper"):
        use_amp(cfg, torch.cuda.is_available(), cfg.amp)
    part_to_compile(cfg.get("compile"))
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)
    if cfg.get("strategy") is not None:
        raise InputError(
            "strategy: mmengine's FlexibleRunner neither resumes exactly nor saves safely; how ranks share a model is "
            "set by parallel='ddp', 'zero1' or 'fsdp' (mmengine's own runner: runner_type='FlexibleRunner')"
        )
    return CheckingRunner.from_cfg(cfg)


def hook_of(runner: Runner, name: str) -> Any:
    """The runner's hook of that class name.

    Raises:
        StopIteration: it has none.
    """
    return next(hook for hook in runner.hooks if type(hook).__name__ == name)
