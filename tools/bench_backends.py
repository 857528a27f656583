"""Time a backbone of ours with one backend of its operators after the other, in turns within one run.

What a fused kernel is worth to whole networks. Prints a table and, with --out, writes JSON.
"""

import argparse
import functools
import json
import sys
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import nn

from bestiary.backbones import build_backbone
from bestiary.engine.steps import tracked
from bestiary.kernels import use_backend
from bestiary.tools import bench_frame, machine
from bestiary.tools.growth import Growth
from bestiary.tools.parsers import command_parser
from bestiary.tools.timing import Sample, in_turns, on_cpu

PASSES = {"forward": False, "forward+backward": True}
TOLERANCE = 1e-2  # of the largest value of a map: MHS-VM multiplies what differs in the last bits


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status: 1 if the backends disagree, or for bad input."""
    args = arguments().parse_args(argv)
    if args.one:
        print(json.dumps(growth_of_a_pass(args)))
        return 0
    return bench_frame.guarded(lambda: compare(args))


def arguments() -> argparse.ArgumentParser:
    parser = command_parser("benchmark backends", __doc__)
    add = parser.add_argument
    add("name", metavar="NAME", help="a backbone, as `bestiary list` prints them")
    add("--backends", nargs="+", metavar="BACKEND", required=True, help="the first is what the others are set against")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    add("--batch", type=int, default=8)
    add("--size", type=int, default=224, help="side of the picture (224)")
    add("--threads", type=int, default=2, help="CPU threads (2)")
    add("--seconds", type=float, default=20.0, help="for all backends of one pass together (20)")
    add("--memory", action="store_true", help="measure what each pass adds to a process of its own")
    add("--out", metavar="FILE", help="write the record as JSON")
    add("--one", action="store_true", help=argparse.SUPPRESS)  # what --memory starts: one backend, one pass
    return parser


def compare(args: argparse.Namespace) -> int:
    """Every backend against the first."""
    bench_frame.need_backbones([args.name])
    device = bench_frame.prepare(args)
    console = bench_frame.console()
    model, picture = prepared(args, device)
    differ = agreement(model, picture, args.backends)
    record = machine.record("bench_backends", args, device, differ=differ, results={})
    for name in tracked(args.passes, "time", "passes"):
        turns = {backend: functools.partial(turn, model, picture, backend, PASSES[name]) for backend in args.backends}
        for warm in turns.values():
            warm()
        timings, load = in_turns(turns, args.seconds, least=2)
        result = {
            backend: {"median_s": timing.median, "best_s": timing.best, "calls": timing.calls}
            for backend, timing in timings.items()
        }
        if args.memory:
            for backend in args.backends:
                result[backend]["bytes"] = alone(args, backend, name)
        record["results"][name] = result | {"load": load._asdict()}
        console.print(show(args, name, result))
    bench_frame.write_record(args.out, record)
    wrong = [backend for backend, difference in differ.items() if not difference <= TOLERANCE]
    for backend in wrong:
        print(f"error: {backend} deviates from {args.backends[0]} by {differ[backend]}", file=sys.stderr)
    return int(bool(wrong))


def prepared(args: argparse.Namespace, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """The backbone and its pictures, the same at every call."""
    torch.manual_seed(0)
    model = build_backbone(args.name).to(device)
    return model, torch.randn(args.batch, 3, args.size, args.size, device=device)


def agreement(model: nn.Module, picture: torch.Tensor, backends: list[str]) -> dict[str, float]:
    """How far each backend's maps of one picture lie from the first's, as a part of their largest value."""
    model.eval()
    maps = {}
    for backend in backends:
        with torch.no_grad(), use_backend(backend):
            maps[backend] = model(picture[:1])
    first = maps[backends[0]]
    return {
        backend: max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, first, strict=True))
        for backend, found in maps.items()
    }


def run(model: nn.Module, picture: torch.Tensor, backward: bool) -> None:
    """One pass; the gradients stay where they are."""
    with torch.set_grad_enabled(backward):
        maps = model(picture)
    if backward:
        sum(x.square().mean() for x in maps).backward()


def turn(model: nn.Module, picture: torch.Tensor, backend: str, backward: bool) -> list[Sample]:
    """One turn of one backend: a call to begin with that is not counted, then one or more that are."""

    def call() -> None:
        run(model, picture, backward)
        if picture.device.type == "cuda":
            torch.cuda.synchronize(picture.device)

    model.train(backward)
    with use_backend(backend):
        taken = on_cpu(call)
    model.zero_grad(set_to_none=True)  # kept through the turn, as in training
    return taken


def alone(args: argparse.Namespace, backend: str, name: str) -> int:
    """Bytes that one pass adds at most to a fresh process. Raises InputError: that process failed."""
    told = ["--backends", backend, "--passes", name, "--batch", args.batch, "--size", args.size]
    told += ["--threads", args.threads, "--device", args.device, "--one"]
    words = f"memory of {args.name}"
    return bench_frame.in_fresh_process("bestiary.tools.bench_backends", words, args.name, *map(str, told))


def growth_of_a_pass(args: argparse.Namespace) -> int:
    """What `alone` starts."""
    device, backward = torch.device(args.device), PASSES[args.passes[0]]
    torch.set_num_threads(args.threads)
    model, picture = prepared(args, device)
    model.train(backward)
    with use_backend(args.backends[0]):
        run(model, picture[:1], backward)  # libraries, threads, and the gradients' own memory
        with Growth(device) as growth:
            run(model, picture, backward)
    return growth.bytes


def show(args: argparse.Namespace, name: str, result: dict[str, Any]) -> Table:
    """The times of one pass."""
    title = f"{args.name}, batch {args.batch} at {args.size}, {name}, threads {args.threads}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("", "s", "best", "x", "MB"):
        table.add_column(heading, justify="right" if heading else "left")
    first = next(iter(result.values()))
    for backend, known in result.items():
        memory = f"{known['bytes'] / 1e6:.0f}" if "bytes" in known else ""
        ratio = known["median_s"] / first["median_s"]
        table.add_row(backend, f"{known['median_s']:.2f}", f"{known['best_s']:.2f}", f"{ratio:.2f}", memory)
    return table


if __name__ == "__main__":
    sys.exit(main())
