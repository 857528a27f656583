"""Time per iteration of `bestiary train` over that of a bare PyTorch loop: bestiary benchmark loop --out FILE"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from rich.console import Console
from rich.table import Table
from torch.nn.utils import clip_grad_norm_

from bestiary.engine.configs import load_config
from bestiary.engine.launch import run_guarded
from bestiary.engine.optimizers import TimmOptimizer
from bestiary.engine.progress import clock
from bestiary.engine.runner import build_runner
from bestiary.errors import InputError
from bestiary.inputs import make_digits
from bestiary.tools.bench_frame import need_writable
from bestiary.tools.jobs import environment
from bestiary.tools.machine import record
from bestiary.tools.parsers import command_parser

CONFIGS = (
    "quickstart/classifier_poolformer_digits",
    "quickstart/mask_rcnn_poolformer_digits",
    "quickstart/upernet_poolformer_digits",
)
WAYS = ("bare", "bestiary")
WARM = 10  # iterations that do not count


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print; returns the exit status."""
    parser = command_parser("benchmark loop", __doc__)
    parser.add_argument("configs", nargs="*", default=list(CONFIGS), metavar="CONFIG", help="the quickstart's three")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way, in turns (5)")
    parser.add_argument("--iterations", type=int, default=60, help="of a run, of which the first 10 do not count (60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process (1)")
    parser.add_argument("--workers", type=int, help="data workers; the config's if left out")
    parser.add_argument("--out", type=Path, help="file for the record, JSON")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    if args.iterations <= WARM:
        parser.error(f"--iterations: the first {WARM} do not count, so at least {WARM + 1}")
    if args.one:
        way, config, out = args.one
        Path(out).write_text(json.dumps(measure(way, config, args)))
        return 0
    return run_guarded(lambda: compare(args), args.debug)


def compare(args: argparse.Namespace) -> None:
    """Run both ways in turns, each in a process of its own, and print the ratio of their medians.

    Raises:
        InputError: a run failed; its message is above.
    """
    need_writable("--out", args.out)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        make_digits(Path(folder) / "data/digits")
        for config in args.configs:
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            began = time.monotonic()
            for number in range(args.rounds):
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    taken[way].append(statistics.median(_run(way, config, args, Path(folder))))
                latest = " and ".join(f"{1e3 * taken[way][-1]:.0f} ms ({way})" for way in WAYS)
                spent = clock(time.monotonic() - began)
                print(f"{config}: round {number + 1}/{args.rounds}: {latest}, {spent}", flush=True)
            # Neighbouring runs met the same machine.
            ratios = [ours / bare for bare, ours in zip(*(taken[way] for way in WAYS), strict=True)]
            medians = {way: statistics.median(values) for way, values in taken.items()}
            results.append(
                dict(config=config, seconds=taken, medians=medians, ratio=statistics.median(ratios), ratios=ratios)
            )
    table = Table("config", "bare, ms", "bestiary train, ms", "ratio")
    for row in results:
        milliseconds = [f"{1e3 * row['medians'][way]:.1f}" for way in WAYS]
        table.add_row(row["config"], *milliseconds, f"{row['ratio']:.3f}")
    Console().print(table)
    if args.out:
        content = record("bench_loop", args, torch.device("cpu"), load=os.getloadavg()[0], results=results)
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _run(way: str, config: str, args: argparse.Namespace, folder: Path) -> list[float]:
    out = folder / "seconds.json"
    command = [sys.executable, "-m", "bestiary.tools.bench_loop", "--one", way, config, str(out)]
    command += ["--iterations", str(args.iterations), "--threads", str(args.threads)]
    command += ["--workers", str(args.workers)] if args.workers is not None else []
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f"{config}, {way}: {done.stderr[-2000:]}")
    return json.loads(out.read_text())


def measure(way: str, name: str, args: argparse.Namespace) -> list[float]:
    """Seconds between the ends of iterations, the first `WARM` left out."""
    torch.set_num_threads(args.threads)
    cfg = load_config(name)
    cfg.work_dir = tempfile.mkdtemp(dir=".")
    cfg.model.backbone.init_cfg = None
    if args.workers is not None:
        cfg.train_dataloader.num_workers = args.workers
        cfg.train_dataloader.persistent_workers = args.workers > 0
    ends = _of_bestiary(cfg, args.iterations) if way == "bestiary" else _of_bare(cfg, args.iterations)
    return [later - earlier for earlier, later in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]


@HOOKS.register_module()
class StampHook(Hook):
    """Notes when each iteration ends."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def _of_bestiary(cfg: Config, iterations: int) -> list[float]:
    """As `bestiary train` does it, to the end of `iterations`, without validation."""
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations + 1)
    cfg.train_dataloader.sampler.type = "InfiniteSampler"
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=iterations)
    cfg.param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=iterations)]
    stamp = StampHook()
    runner = build_runner(cfg)
    runner.register_hook(stamp, priority="LOWEST")
    runner.train()
    return stamp.ends


def _of_bare(cfg: Config, iterations: int) -> list[float]:
    """The same model, data, optimizer, clipping and schedule in a loop without a framework."""
    init_default_scope(cfg.default_scope)
    for module in cfg.custom_imports["imports"]:
        __import__(module)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    settings = dict(cfg.optim_wrapper.optimizer)
    settings.pop("type")
    weight_decay = settings.pop("weight_decay")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [dict(params=decayed, weight_decay=weight_decay), dict(params=others, weight_decay=0.0)]
    optimizer = TimmOptimizer(groups, **settings)
    rate = settings["lr"]
    ends = []
    for number, batch in zip(range(iterations), _batches(cfg), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.05 + 0.95 * number / iterations)
        data = model.data_preprocessor(batch, training=True)
        losses = model(**data, mode="loss")
        parts = [part.mean() for name, value in losses.items() if "loss" in name for part in _parts(value)]
        sum(parts).backward()
        clip_grad_norm_([p for p in model.parameters() if p.grad is not None], cfg.optim_wrapper.clip_grad.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return ends


def _parts(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _batches(cfg: Config) -> Iterator[Any]:
    from mmengine.dataset import pseudo_collate
    from torch.utils.data import DataLoader

    loader = cfg.train_dataloader
    data = DATASETS.build(loader.dataset)
    data.full_init()
    reader = DataLoader(
        data,
        batch_size=loader.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=loader.num_workers,
        persistent_workers=loader.num_workers > 0,
        collate_fn=pseudo_collate,
    )
    while True:
        yield from reader


if __name__ == "__main__":
    sys.exit(main())
