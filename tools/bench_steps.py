"""Short trainings whose iterations are timed, each in a process of its own: what `loop` and `scaling` share."""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from bestiary.engine.configs import load_config
from bestiary.errors import InputError
from bestiary.tools.jobs import environment

WARM = 10  # iterations that do not count


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of such a command: a user's, or with `--one` those of a process that it starts."""
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way, in turns (5)")
    parser.add_argument("--iterations", type=int, default=60, help="of a run, of which the first 10 do not count (60)")
    parser.add_argument("--out", type=Path, help="file for the record, JSON")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    if args.iterations <= WARM:
        parser.error(f"--iterations: the first {WARM} do not count, so at least {WARM + 1}")
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    return args


def start(command: list[str], what: str, folder: Path, **variables: str) -> None:
    """Run a Python command in `folder` to its end.

    Raises:
        InputError: it failed; the end of its message is passed on.
    """
    env = {**environment(), **variables}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{what}: {done.stderr[-3000:]}")


def short_training(name: str, iterations: int, work_dir: str) -> Config:
    """A config that trains so long from random weights, without validation."""
    cfg = load_config(name)
    cfg.work_dir = work_dir
    cfg.model.backbone.init_cfg = None
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations + 1)
    cfg.train_dataloader.sampler.type = "InfiniteSampler"
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=-1, save_last=False)
    return cfg


def set_workers(cfg: Config, workers: int) -> None:
    """Have this many processes load the training data."""
    cfg.train_dataloader.num_workers, cfg.train_dataloader.persistent_workers = workers, workers > 0


@HOOKS.register_module()
class StampHook(Hook):
    """Notes when each iteration ends."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def seconds(ends: list[float]) -> list[float]:
    """Between the ends of iterations, without the first `WARM`."""
    return [later - earlier for earlier, later in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
