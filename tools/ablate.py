"""Train one body with each token mixer in turn; accuracy, parameters, multiply-adds and speed in one table."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.engine.configs import load_config
from bestiary.engine.launch import run_guarded
from bestiary.engine.progress import clock
from bestiary.engine.steps import Steps
from bestiary.errors import InputError
from bestiary.registry import MODELS
from bestiary.tools import machine
from bestiary.tools.jobs import cores, environment
from bestiary.tools.options import add_safe_option, need
from bestiary.tools.parsers import command_parser
from bestiary.tools.timing import Sample, in_turns, on_cpu

CONFIG = "ablations/token_mixers_digits"
DIGITS = Path("data/digits")
BATCH, SECONDS = 32, 1.0  # pictures of a timed call; seconds of each mixer's timing
LAST_WORDS = 15  # lines of a failed run that are repeated


def main(argv: list[str] | None = None) -> int:
    """Parse, train, print; returns the exit status."""
    parser = command_parser("ablate", __doc__, "What an earlier call has finished is not trained again.")
    add = parser.add_argument
    add("config", nargs="?", default=CONFIG, help=f"a classifier's config with `token_mixers`; left out: {CONFIG}")
    add("--mixers", nargs="+", metavar="NAME", help="some of the config's `token_mixers`; left out: all")
    add("--fast", action="store_true", help="train as the config's `fast` says: fewer epochs")
    add("--jobs", type=int, help="trainings at the same time; left out: one a core")
    add("--work-dir", help="folder for runs and the record; the config's if left out")
    add("--fresh", action="store_true", help="do it all again, also what is done already")
    add_safe_option(parser)
    add("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: ablate(args), args.debug)


def ablate(args: argparse.Namespace) -> None:
    """Train every mixer, time them in turns, print and write the table.

    Raises:
        InputError: the config lacks an entry; no such mixer; a training failed.
    """
    cfg = load_config(args.config, safe=args.safe_config)
    need(cfg, args.config, "model", "token_mixers", "picture_size", "train_dataloader", "work_dir")
    folder = Path(args.work_dir or cfg.work_dir) / ("fast" if args.fast else "full")
    configs = {name: with_mixer(cfg, mixer, args.fast) for name, mixer in chosen(cfg, args.mixers).items()}
    jobs = args.jobs or cores()
    folder.mkdir(parents=True, exist_ok=True)
    digits = Path(cfg.train_dataloader.dataset.get("data_root", "")).is_relative_to(DIGITS)
    if digits and not (DIGITS / "digits.json").exists():
        print(f"data: the bundled handwritten digits, into {DIGITS}", flush=True)
        done = subprocess.run([sys.executable, "-m", "bestiary.tools.cli", "data", "digits", str(DIGITS)])
        if done.returncode:
            raise InputError(f"the bundled digits could not be made in {DIGITS}; see above")
    began = time.monotonic()
    print(f"{len(configs)} mixers in one body, {jobs} at a time; into {folder}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        runs = {
            name: pool.submit(train, name, config, folder, max(1, cores() // jobs), args.fresh, args.safe_config)
            for name, config in configs.items()
        }
        with Steps("train", len(runs), "mixers") as steps:
            for _ in as_completed(runs.values()):
                steps.done()
        trained = {name: run.result() for name, run in runs.items()}
    results = {
        name: result | size | speed
        for (name, result), size, speed in zip(
            trained.items(), map(sizes, configs.values()), speeds(configs), strict=True
        )
    }
    record = {
        "tool": "ablate",
        "config": args.config,
        "fast": args.fast,
        "machine": machine.describe(torch.device("cpu")),
        "versions": machine.versions(),
        "results": dict(sorted(results.items(), key=lambda item: -item[1]["top1"])),
    }
    path = folder / "ablation.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 110).print(show(record))
    print(f"{clock(time.monotonic() - began)} in all; the same in {path}")


def chosen(cfg: Config, names: Sequence[str] | None) -> dict[str, Any]:
    """The config's mixers, or some of them."""
    known = cfg.token_mixers
    if strangers := [name for name in names or () if name not in known]:
        raise InputError(f"--mixers {' '.join(strangers)}: the config's token_mixers are {', '.join(known)}")
    return {name: known[name] for name in names or known}


def with_mixer(cfg: Config, mixer: str | Mapping[str, Any] | Sequence[Any], fast: bool) -> Config:
    """The config with one mixer in every stage, or the given one of each."""
    changed = Config(cfg.to_dict())
    if fast:
        changed.merge_from_dict({key: changed.fast[key] for key in changed.get("fast") or {}})
    for key in ("token_mixers", "fast"):
        changed.pop(key, None)
    stages = len(changed.model.backbone.token_mixers)
    changed.model.backbone.token_mixers = [mixer] * stages if isinstance(mixer, str | Mapping) else list(mixer)
    return changed


def train(name: str, cfg: Config, folder: Path, threads: int, fresh: bool, safe: bool = False) -> dict[str, float]:
    """Train and evaluate in a process of its own; its score and its time.

    Raises:
        InputError: it failed; the end of its log is in the message.
    """
    run, config = folder / name, folder / f"{name}.py"
    metrics, done = run / "metrics.json", run / "done.json"
    if not fresh and done.exists() and config.exists() and config.read_text(encoding="utf-8") == cfg.pretty_text:
        print(f"  {name}: trained already; `--fresh` trains it again", flush=True)
        return json.loads(done.read_text(encoding="utf-8"))
    run.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    config.write_text(cfg.pretty_text, encoding="utf-8")
    command = ["train", str(config), "--work-dir", str(run), "--threads", str(threads)]
    command += ["--safe-config"] if safe else []
    began, log = time.monotonic(), run / "train.txt"
    with log.open("w", encoding="utf-8") as out:
        ended = subprocess.run(
            [sys.executable, "-m", "bestiary.tools.cli", *command], env=environment(), stdout=out, stderr=out
        )
    if ended.returncode:
        words = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:])
        raise InputError(f"{name} ended with status {ended.returncode}: bestiary {' '.join(command)}\n{words}")
    top1 = json.loads(metrics.read_text(encoding="utf-8"))["metrics"]["accuracy/top1"]
    result = {"top1": top1, "seconds": round(time.monotonic() - began, 1)}
    done.write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(f"  {name}: top-1 {top1:.3f}, {clock(result['seconds'])}", flush=True)
    return result


def network(cfg: Config) -> nn.Module:
    """The config's model with initial values, for sizes and speeds."""
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "bestiary")):
        return MODELS.build(cfg.model).eval()


def sizes(cfg: Config) -> dict[str, int]:
    """Parameters, and multiply-adds of a picture."""
    model, side = network(cfg), cfg.picture_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, side, side))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
    }


def speeds(configs: Mapping[str, Config]) -> list[dict[str, float]]:
    """Pictures a second in inference, eager; all take turns, so that all meet the same machine."""
    turns = {name: turn(network(cfg), cfg.picture_size) for name, cfg in configs.items()}
    timings, _ = in_turns(turns, SECONDS * len(turns))
    return [{"pictures_a_second": round(BATCH / timing.median, 1)} for timing in timings.values()]


def turn(model: nn.Module, side: int) -> Callable[[], list[Sample]]:
    """One mixer's turn."""
    pictures = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(0))

    def infer() -> None:
        with torch.inference_mode():
            model(pictures)

    return lambda: on_cpu(infer)


def show(record: Mapping[str, Any]) -> Table:
    """A row a mixer, the best first."""
    table = Table(
        title=f"{record['config']}{', fast' if record['fast'] else ''}; {record['machine']['cpu']}, "
        f"{torch.get_num_threads()} threads, batch {BATCH} in inference",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("token mixer", "top-1", "parameters", "M multiply-adds", "pictures/s", "training"):
        table.add_column(heading, justify="left" if heading == "token mixer" else "right", no_wrap=True)
    for name, one in record["results"].items():
        table.add_row(
            name,
            f"{one['top1']:.3f}",
            f"{one['parameters']:,}",
            f"{one['multiply_adds'] / 1e6:.1f}",
            f"{one['pictures_a_second']:.0f}",
            clock(one["seconds"]),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
