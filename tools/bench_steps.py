"""Short trainings whose iterations are timed, each in a process of its own: what `loop` and `scaling` share."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table

from bestiary.engine.configs import load_config
from bestiary.errors import InputError
from bestiary.tools.bench_frame import need_writable
from bestiary.tools.jobs import environment
from bestiary.tools.machine import record

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


def report(
    tool: str,
    compare: Callable[[Path, argparse.Namespace, Callable[[str], None]], tuple[Any, Table]],
    args: argparse.Namespace,
) -> None:
    """Have `compare` measure in a folder of its own, print its table, and write the record."""
    need_writable("--out", args.out)
    with tempfile.TemporaryDirectory() as folder:
        results, table = compare(Path(folder), args, lambda line: print(line, flush=True))
    Console().print(table)
    if args.out:
        content = record(tool, args, torch.device("cpu"), load=os.getloadavg()[0], results=results)
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
