"""Two ranks of one thread against one process of two: bestiary benchmark scaling --out FILE

Time an iteration, and the memory of a rank, for each kind of `parallel`. The optimizer is AdamW, which all kinds take;
the batch of all ranks together is the config's.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from rich.table import Table

from bestiary.engine.launch import run_guarded, set_threads
from bestiary.engine.parallel.choice import KINDS
from bestiary.engine.parallel.sharding import own_part
from bestiary.engine.progress import clock
from bestiary.engine.runner import build_runner
from bestiary.inputs import make_digits
from bestiary.tools.bench_steps import StampHook, parse, report, seconds, set_workers, short_training, start
from bestiary.tools.parsers import command_parser

CONFIG = "quickstart/classifier_poolformer_digits"
RANKS = 2
ALONE = "one process"


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print; returns the exit status."""
    parser = command_parser("benchmark scaling", __doc__)
    parser.add_argument("config", nargs="?", default=CONFIG, help="a classifier, detector or segmentor on the digits")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of parallel; all if left out")
    args = parse(parser, argv)
    if args.one:
        return run_guarded(lambda: measure(*args.one, args), debug=True)
    return run_guarded(lambda: report("bench_scaling", compare, args), args.debug)


def compare(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[dict[str, Any], Table]:
    """Run all ways in turns; their medians, and the table of them.

    Raises:
        InputError: a run failed; its message is passed on.
    """
    ways = [ALONE, *args.kinds]
    taken: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in ways}
    began = time.monotonic()
    make_digits(folder / "data/digits")
    for number in range(args.rounds):
        for way in ways if number % 2 == 0 else ways[::-1]:
            taken[way].append(_run(way, args, folder))
        say(f"round {number + 1}/{args.rounds}, {clock(time.monotonic() - began)}")
    results = {way: _summary(runs) for way, runs in taken.items()}
    for way in args.kinds:
        pairs = zip(taken[ALONE], taken[way], strict=True)  # neighbours met the same machine
        ratios = [_seconds(alone) / _seconds(shared) for alone, shared in pairs]
        results[way] |= dict(speed_of_one_process=statistics.median(ratios), ratios=ratios)
    table = Table("way", "ms an iteration", "speed", "PSS a rank, MiB", "weights", "gradients", "optimizer, MiB")
    for way, row in results.items():
        sizes = [f"{row[key] / 2**20:.1f}" for key in ("pss", "parameters", "gradients", "optimizer")]
        table.add_row(way, f"{1e3 * row['seconds']:.1f}", f"{row.get('speed_of_one_process', 1.0):.2f}", *sizes)
    return results, table


def _seconds(ranks: list[dict[str, Any]]) -> float:
    """Of an iteration: the slowest rank's median."""
    return max(rank["seconds"] for rank in ranks)


def _summary(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the runs, of the rank with the most."""
    found: dict[str, Any] = {
        key: statistics.median(max(rank[key] for rank in ranks) for ranks in runs)
        for key in ("seconds", "pss", "parameters", "gradients", "optimizer")
    }
    return found | dict(runs=[_seconds(ranks) for ranks in runs], pictures=runs[0][0]["pictures"] * len(runs[0]))


def _run(way: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """What each rank of a run has measured."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = []
    if way != ALONE:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}"]
    command += ["-m", "bestiary.tools.bench_scaling", args.config, "--one", way, str(out)]
    command += ["--iterations", str(args.iterations)]
    threads = "2" if way == ALONE else "1"
    start(command, f"{args.config}, {way}", folder, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS=threads)
    return [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))]


@HOOKS.register_module()
class MeasureHook(StampHook):
    """Notes when each iteration ends and, at the last, what the rank holds."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients = 0
        self.held: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Gradients are gone when an iteration ends: look at them where the optimizer takes them."""
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(lambda *_: self._see(runner))

    def _see(self, runner: Runner) -> None:
        self.gradients = _bytes(p.grad for p in runner.model.parameters() if p.grad is not None)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stamp; the last time, count."""
        super().after_train_iter(runner, batch_idx)
        if len(self.ends) == runner.max_iters:
            optimizer = runner.optim_wrapper.optimizer
            state = getattr(optimizer, "optim", optimizer).state  # ZeRO keeps its share in an optimizer of its own
            self.held = dict(
                parameters=_bytes(runner.model.parameters()),
                gradients=self.gradients,
                optimizer=_bytes(v for slots in state.values() for v in slots.values() if isinstance(v, torch.Tensor)),
                pss=_pss(),
            )


def _bytes(tensors: Any) -> int:
    """That this rank holds of some tensors."""
    parts = [own_part(tensor.detach()) for tensor in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def _pss() -> int:
    """This process's share of the memory that is in use, in bytes; 0 where the system does not tell."""
    path = Path("/proc/self/smaps_rollup")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def measure(way: str, out: str, args: argparse.Namespace) -> None:
    """Train in this process, or as a rank of several, and write what was seen into the folder `out`."""
    launcher = "none" if way == ALONE else "pytorch"
    set_threads(launcher, 2 if way == ALONE else 1)
    cfg = short_training(args.config, args.iterations, str(Path(out) / "work"))
    cfg.launcher = launcher
    if way != ALONE:
        cfg.parallel = way
        cfg.train_dataloader.batch_size //= RANKS
    set_workers(cfg, 0)
    cfg.param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=False)]
    cfg.optim_wrapper.optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.05)
    cfg.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
    hook = MeasureHook()
    runner = build_runner(cfg)
    runner.register_hook(hook, priority="LOWEST")
    runner.train()
    step = statistics.median(seconds(hook.ends))
    found = dict(seconds=step, pictures=cfg.train_dataloader.batch_size, **hook.held)
    (Path(out) / f"rank{get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
