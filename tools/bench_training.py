"""Time and memory of a training step with each option of `bestiary train`, in turns with the plain step in one run.

Prints a table and, with --out, writes JSON: machine, versions, seconds, ratios, memory.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from rich.console import Console
from rich.table import Table

from bestiary.engine.nonfinite import watch
from bestiary.engine.precision import compile_part, to_channels_last
from bestiary.errors import InputError
from bestiary.heads.classifier import make_classifier
from bestiary.tools import machine
from bestiary.tools.growth import Growth
from bestiary.tools.parsers import command_parser
from bestiary.tools.timing import in_turns, on_cpu

WAYS = {
    "plain": "float32, steps that are not finite are left out",
    "unwatched": "nonfinite=None",
    "bf16": "amp='bf16'",
    "with_cp": "model.backbone.with_cp=True",
    "channels_last": "channels_last=True",
    "compile": "compile='backbone'",
    "bf16+compile": "both",
}
CLASSES = 1000


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status."""
    parser = command_parser("benchmark training", __doc__.split("\n\n")[0])
    add = parser.add_argument
    add("name", nargs="?", default="poolformer_s12", help="backbone, as `bestiary list` prints it (poolformer_s12)")
    add("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=f"beside 'plain': {', '.join(WAYS)}")
    add("--batch", type=int, default=8)
    add("--size", type=int, default=224, help="side of the picture (224)")
    add("--threads", type=int, default=2, help="CPU threads (2)")
    add("--seconds", type=float, default=60.0, help="for all ways together (60)")
    add("--out", metavar="FILE", help="write the record as JSON")
    add("--one", choices=WAYS, help=argparse.SUPPRESS)  # the memory of a way, in a process of its own
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        if args.one:
            print(json.dumps(memory(args)))
        else:
            compare(args)
    except (InputError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compare(args: argparse.Namespace) -> None:
    """All ways in turns; then the memory of each."""
    ways = list(dict.fromkeys(["plain", *args.ways]))
    calls = {way: step_of(way, args) for way in ways}
    for call in calls.values():  # compiles, and makes the optimizer's state
        call()
    timings, load = in_turns({way: lambda call=call: on_cpu(call) for way, call in calls.items()}, args.seconds)
    calls.clear()
    record = machine.record("bench_training", args, torch.device("cpu"), load=load._asdict(), results={})
    for way in ways:
        timing = timings[way]
        record["results"][way] = dict(
            seconds=timing._asdict(),
            ratio=dict(
                median=timing.median / timings["plain"].median,
                best=timing.best / timings["plain"].best,
                processor=timing.processor / timings["plain"].processor,
            ),
            bytes=memory_apart(way, args),
        )
    show(record, args)
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def step_of(way: str, args: argparse.Namespace) -> Callable[[], Any]:
    """A function that takes one training step of a classifier on random pictures."""
    torch.manual_seed(0)
    model = make_classifier(args.name, CLASSES, with_cp=way == "with_cp").train()
    pictures = torch.randn(args.batch, 3, args.size, args.size)
    target = torch.randint(CLASSES, (args.batch,))
    if way == "channels_last":
        to_channels_last(model)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    if "compile" in way:
        compile_part(model, "backbone", {})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    if "bf16" in way:
        wrapper = AmpOptimWrapper(optimizer=optimizer, dtype="bfloat16")
    else:
        wrapper = OptimWrapper(optimizer)
    if way != "unwatched":
        watch(wrapper, model)

    def step() -> None:
        with wrapper.optim_context(model):
            loss = F.cross_entropy(model.logits(pictures), target)
        wrapper.update_params(loss)

    return step


def memory(args: argparse.Namespace) -> int:
    """Bytes at most in a step beside weights, gradients and the optimizer's state."""
    step = step_of(args.one, args)
    step()
    with Growth(torch.device("cpu")) as growth:
        step()
    return growth.bytes


def memory_apart(way: str, args: argparse.Namespace) -> int:
    """As `memory`, in a fresh process.

    Raises:
        InputError: it failed.
    """
    # Blocks of any size go back to the system when they are freed: otherwise a later call finds them in the process.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    sizes = [f"--{key}={getattr(args, key)}" for key in ("batch", "size", "threads")]
    done = subprocess.run(
        [sys.executable, "-m", "bestiary.tools.bench_training", args.name, *sizes, f"--one={way}"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"memory of {way}: the process that measures it failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def show(record: dict[str, Any], args: argparse.Namespace) -> None:
    """The table."""
    load = f"load {record['load']['before']:.1f} before, {record['load']['after']:.1f} after"
    table = Table(title=f"{args.name}, batch {args.batch} at {args.size}, {args.threads} threads; {load}")
    for column in ("way", "config", "s a step", "x plain", "best", "processor", "MB"):
        table.add_column(column, justify="left" if column in ("way", "config") else "right")
    for way, one in record["results"].items():
        ratios = [f"{one['ratio'][key]:.2f}" for key in ("median", "best", "processor")]
        table.add_row(way, WAYS[way], f"{one['seconds']['median']:.2f}", *ratios, f"{one['bytes'] / 1e6:.0f}")
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    sys.exit(main())
