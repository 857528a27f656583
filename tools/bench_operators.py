"""Time the selective scan or bi-level routed attention against what else computes it.

All contestants of a case take turns in one run; each is first checked against the float64 definition. Prints a table
and, with --out, writes JSON: machine, versions, medians, bests, ratios.
"""

import argparse
import importlib
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from bestiary.engine.steps import tracked
from bestiary.errors import InputError
from bestiary.tools import bench_frame, machine
from bestiary.tools.parsers import command_parser
from bestiary.tools.timing import OnGpu, Sample, in_turns, on_cpu

# The module tools/NAME has
# - SETS, from a name to a list of cases; a case has a `name`;
# - tensors(case, batch, dtype, device): the floating tensors that the operator takes, None among them;
# - output(case, tensors): a tensor like the output; truth(case, *tensors): the output by the definition;
# - CONTESTANTS, from a name to a function of (case, dtype, device) that gives the function of the tensors to be timed,
#   or says in words why there is none; the first is ours.
SUBJECTS = {"selective_scan": "scan_contestants", "bi_level_routing": "routing_contestants"}
PASSES = {"forward": False, "forward+backward": True}
# Largest deviation as a part of the largest value: of a way that computes the same thing, not of a good one.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
ROTATED_BYTES = 256 << 20  # of buffers on a GPU: more than its cache holds


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status: 1 if ours was wrong anywhere, or for bad input."""
    args = arguments().parse_args(argv)
    return bench_frame.guarded(lambda: compare(args))


def compare(args: argparse.Namespace) -> int:
    """Ours against all peers on every case."""
    subject = importlib.import_module(f"bestiary.tools.{SUBJECTS[args.operator]}")
    unknown = [name for name in args.shapes if name not in subject.SETS]
    if unknown:
        raise InputError(f"--shapes: no set {unknown[0]!r} of {args.operator}; there are {', '.join(subject.SETS)}")
    device = bench_frame.prepare(args)
    console = bench_frame.console()
    ours, *others = subject.CONTESTANTS
    wanted = [name for name in others if args.peers is None or any(name.startswith(peer) for peer in args.peers)]
    record = machine.record("bench_operators", args, device, results=[])
    cases = dict.fromkeys(case for name in args.shapes for case in subject.SETS[name])
    calls = list(itertools.product(cases, [getattr(torch, name) for name in args.dtype], args.passes))
    for case, dtype, name in tracked(calls, "time", "cases"):
        result = measure(subject, (ours, *wanted), case, dtype, device, PASSES[name], args)
        record["results"].append(result)
        console.print(show(result))
    bench_frame.write_record(args.out, record)
    return int(any("wrong" in result["contestants"][ours] for result in record["results"]))


def arguments() -> argparse.ArgumentParser:
    parser = command_parser("benchmark kernels", __doc__)
    add = parser.add_argument
    add("--operator", choices=SUBJECTS, required=True)
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--shapes", nargs="+", metavar="SET", default=["headline"], help="sets of cases (headline)")
    add("--dtype", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"])
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    add("--batch", type=int, default=1, help="pictures at a time (1)")
    add("--threads", type=int, default=1, help="CPU threads (1: times of more mean little on a machine in use)")
    add("--seconds", type=float, default=5.0, help="for all contestants of one case together (5)")
    add("--peers", nargs="*", metavar="NAME", help="only peers whose names start so; none: ours alone")
    add("--out", metavar="FILE", help="write the record as JSON")
    return parser


def run(function: Callable[..., Tensor], tensors: list[Tensor | None], d_out: Tensor | None) -> tuple[Tensor, ...]:
    """The output, and where it has a gradient those of all tensors."""
    if d_out is None:
        with torch.no_grad():
            return (function(*tensors),)
    out = function(*tensors)
    return out, *torch.autograd.grad(out, [t for t in tensors if t is not None], d_out)


def measure(
    subject: Any,
    names: tuple[str, ...],
    case: Any,
    dtype: torch.dtype,
    device: torch.device,
    backward: bool,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Check all contestants, time those that are right in turns, and set their times against those of the first."""

    def problem(seed: int) -> tuple[list[Tensor | None], Tensor | None]:
        torch.manual_seed(seed)
        tensors = subject.tensors(case, args.batch, dtype, device)
        tensors = [t if t is None else t.requires_grad_(backward) for t in tensors]
        return tensors, torch.randn_like(subject.output(case, tensors)) if backward else None

    tensors, d_out = problem(0)
    exact = [t if t is None else t.detach().double().requires_grad_(backward) for t in tensors]
    truth = run(lambda *t: subject.truth(case, *t), exact, None if d_out is None else d_out.double())
    known: dict[str, dict[str, Any]] = {}
    turns: dict[str, Callable[[], list[Sample]]] = {}
    for name in names:
        try:
            function = subject.CONTESTANTS[name](case, dtype, device)
            if isinstance(function, str):
                known[name] = {"left_out": function}
                continue
            error = max(
                _deviation(ours, right) for ours, right in zip(run(function, tensors, d_out), truth, strict=True)
            )
            if not error <= TOLERANCE[dtype]:
                known[name] = {"wrong": error if math.isfinite(error) else "not finite"}
                continue
            known[name] = {"error": error}
            if device.type == "cpu":
                turns[name] = lambda function=function: on_cpu(lambda: run(function, tensors, d_out))
            else:
                nbytes = sum(t.nbytes for t in tensors if t is not None)
                copies = [problem(seed) for seed in range(min(16, 1 + ROTATED_BYTES // nbytes))]
                turns[name] = OnGpu([lambda copy=copy, function=function: run(function, *copy) for copy in copies])
        except (RuntimeError, ValueError) as failure:  # a peer that fails is no reason to stop
            known[name] = {"left_out": f"{type(failure).__name__}: {str(failure).splitlines()[0]}"}
    timings, load = in_turns(turns, args.seconds) if turns else ({}, None)
    first = timings.get(names[0])
    for name, timing in timings.items():
        known[name] |= {"median_ms": 1e3 * timing.median, "best_ms": 1e3 * timing.best, "calls": timing.calls}
        if first is not None and name != names[0]:
            known[name] |= {"x_median": timing.median / first.median, "x_best": timing.best / first.best}
    return {
        "case": case.name,
        "batch": args.batch,
        "dtype": str(dtype).removeprefix("torch."),
        "pass": next(name for name, value in PASSES.items() if value == backward),
        "threads": args.threads,
        "load": load and load._asdict(),
        "contestants": known,
    }


def _deviation(ours: Tensor, right: Tensor) -> float:
    scale = right.abs().max().item() if right.numel() else 0.0
    return ((ours.double() - right).abs().max().item() / max(scale, 1e-30)) if right.numel() else 0.0


def show(result: dict[str, Any]) -> Table:
    """The times of one case, and why others have none."""
    load = f", load {result['load']['before']:.1f} to {result['load']['after']:.1f}" if result["load"] else ""
    title = f"{result['case']}, batch {result['batch']}, {result['dtype']}, {result['pass']}, "
    table = Table(title=f"{title}threads {result['threads']}{load}", title_justify="left", box=box.SIMPLE)
    for heading in ("", "ms", "best", "x", "x best", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name, known in result["contestants"].items():
        figures = [
            f"{known[key]:.2f}" if key in known else "" for key in ("median_ms", "best_ms", "x_median", "x_best")
        ]
        wrong = f"WRONG, deviates by {known['wrong']}" if "wrong" in known else ""
        table.add_row(name, *figures, f"left out, {known['left_out']}" if "left_out" in known else wrong)
    return table


if __name__ == "__main__":
    sys.exit(main())
