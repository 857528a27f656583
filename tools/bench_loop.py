"""Time per iteration of `bestiary train` over that of a bare PyTorch loop: bestiary benchmark loop --out FILE

Both train in one process, an iteration of one after an iteration of the other, each with a model, an optimizer and data
workers of its own, so that a machine that drifts hurts both alike.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from rich.table import Table
from torch.nn.utils import clip_grad_norm_

from bestiary.engine.launch import run_guarded
from bestiary.engine.optimizers import TimmOptimizer
from bestiary.engine.progress import clock
from bestiary.engine.runner import build_runner
from bestiary.inputs import make_digits
from bestiary.tools.bench_steps import WARM, parse, report, set_workers, short_training, start
from bestiary.tools.parsers import command_parser

CONFIGS = (
    "quickstart/classifier_poolformer_digits",
    "quickstart/mask_rcnn_poolformer_digits",
    "quickstart/upernet_poolformer_digits",
)
WAYS = ("bare", "bestiary")
MOST = 1.03  # that a framework may cost


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print; returns the exit status."""
    parser = command_parser("benchmark loop", __doc__)
    parser.add_argument("configs", nargs="*", default=list(CONFIGS), metavar="CONFIG", help="the quickstart's three")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process (1)")
    parser.add_argument("--workers", type=int, help="data workers; the config's if left out")
    args = parse(parser, argv)
    if args.one:
        config, out = args.one
        Path(out).write_text(json.dumps(measure(config, args)))
        return 0
    return run_guarded(lambda: report("bench_loop", compare, args), args.debug)


def compare(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], Table]:
    """Measure each config in `args.rounds` processes; of each the ratios of neighbouring iterations, and their table.

    Raises:
        InputError: a run failed; its message is passed on.
    """
    results = []
    make_digits(folder / "data/digits")
    for config in args.configs:
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        began = time.monotonic()
        for number in range(args.rounds):
            for way, iterations in _run(config, args, folder).items():
                taken[way] += iterations
            result = _result(config, taken)
            spent = clock(time.monotonic() - began)
            say(f"{config}: round {number + 1}/{args.rounds}: ratio {_words(result)} so far, {spent}")
        results.append(result)
    table = Table("config", "bare, ms", "bestiary train, ms", "ratio, and its 95 % interval")
    for row in results:
        milliseconds = [f"{1e3 * row['medians'][way]:.1f}" for way in WAYS]
        table.add_row(row["config"], *milliseconds, _words(row))
    return results, table


def _result(config: str, taken: dict[str, list[float]]) -> dict[str, Any]:
    """The median of the ratios of all pairs: neighbours met the same machine. Its interval is a bootstrap's."""
    ratios = [ours / bare for bare, ours in zip(*(taken[way] for way in WAYS), strict=True)]
    draw = random.Random(0)
    again = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return dict(
        config=config,
        seconds={way: [round(seconds, 5) for seconds in values] for way, values in taken.items()},
        medians={way: statistics.median(values) for way, values in taken.items()},
        ratio=statistics.median(ratios),
        interval=[again[50], again[1949]],
    )


def _words(result: dict[str, Any]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(result["ratio"], *result["interval"])


def _run(config: str, args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    out = folder / "seconds.json"
    command = ["-m", "bestiary.tools.bench_loop", "--one", config, str(out)]
    command += ["--iterations", str(args.iterations), "--threads", str(args.threads)]
    command += ["--workers", str(args.workers)] if args.workers is not None else []
    start(command, config, folder)
    return json.loads(out.read_text())


def measure(name: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the iterations that count, either way."""
    torch.set_num_threads(args.threads)
    cfg = short_training(name, args.iterations, tempfile.mkdtemp(dir="."))
    cfg.param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=args.iterations)]
    if args.workers is not None:
        set_workers(cfg, args.workers)
    runner = build_runner(cfg)
    turns = InTurnsHook(_bare(cfg, args.iterations))
    runner.register_hook(turns, priority="LOWEST")
    runner.train()
    return {way: taken[WARM:] for way, taken in zip(WAYS, (turns.bare, turns.ours), strict=True)}


@HOOKS.register_module()
class InTurnsHook(Hook):
    """Does an iteration of another loop after each of the run's, and times both.

    Args:
        loop: does an iteration a step.
    """

    priority = "LOWEST"

    def __init__(self, loop: Iterator[None]) -> None:
        self.loop = loop
        self.ours: list[float] = []
        self.bare: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        self.began = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        ended = time.perf_counter()
        next(self.loop)
        self.ours.append(ended - self.began)
        self.began = time.perf_counter()
        self.bare.append(self.began - ended)


def _bare(cfg: Config, iterations: int) -> Iterator[None]:
    """The same model, data, optimizer, clipping and schedule in a loop without a framework, an iteration a step."""
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
        yield


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
