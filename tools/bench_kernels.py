"""Time neighborhood attention against what else computes it, or (--tune) its backends against each other.

With --operator selective_scan or bi_level_routing first: these, with the arguments of bench_operators.py.

All contestants of a layer take turns in one run; each is first checked against the float64 reference. Prints a table
and, with --out, writes JSON: machine, versions, medians, bests, ratios, floors.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bestiary.engine.steps import tracked
from bestiary.errors import InputError
from bestiary.kernels import tuning
from bestiary.kernels.neighborhood_attention import dispatch
from bestiary.tools import bench_frame, bench_operators, kernel_memory, kernel_shapes, machine
from bestiary.tools import kernel_contestants as contestants
from bestiary.tools.kernel_contestants import Contestant, Problem, run, truth
from bestiary.tools.parsers import command_parser
from bestiary.tools.timing import OnGpu, Sample, Timing, in_turns, on_cpu

# Largest deviation as a part of the largest value: of a way that computes the same thing, not of a good one.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
PASSES = {"forward": False, "forward+backward": True}
PARTS = ("median", "best", "processor")  # of the times of a contestant, and of their ratios
ROTATED_BYTES = 256 << 20  # of buffers on a GPU: more than its cache holds
TUNED = ("nat", "dinat", "isotropic")


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status: 1 if ours was wrong anywhere, or for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    parser = arguments()
    if argv[:1] == ["--operator"] and argv[1:2] != ["neighborhood_attention"]:
        return bench_operators.main(argv)
    args = parser.parse_args(argv)
    return bench_frame.guarded(lambda: (tune if args.tune else compare)(args, asked(args)))


def arguments() -> argparse.ArgumentParser:
    parser = command_parser(
        "benchmark kernels",
        __doc__,
        "columns: ms median of all calls; best; cpu median of the processor's own time, in which others "
        "on the machine do not count; x their ratios to ours",
    )
    add = parser.add_argument
    others = ", ".join(bench_operators.SUBJECTS)
    add("--operator", choices=["neighborhood_attention"], help=f"first of all; {others} have arguments of their own")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--shapes", nargs="+", metavar="SET", help=f"{', '.join(kernel_shapes.SETS)}, or layers as 28x28,h8,d2,k7,D32")
    add("--dtype", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"])
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    add("--bias", choices=["no", "yes", "both"], default="no", help="relative position bias (no)")
    add("--batch", type=int, help="pictures at a time; 1 on CPUs, 128 on GPUs if left out")
    add("--threads", type=int, default=1, help="CPU threads (1: times of more mean little on a machine in use)")
    add("--seconds", type=float, default=5.0, help="for all contestants of one layer together (5)")
    add("--peers", nargs="*", metavar="NAME", help="only peers whose names start so; none: ours alone")
    add("--memory", action="store_true", help="measure the memory that ours takes as well, in processes of their own")
    add("--out", metavar="FILE", help="write the record as JSON")
    add("--tune", action="store_true", help="time our backends, and keep their order for the choice among them")
    add("--table", metavar="FILE", help="with --tune: the table to add to; the user's own if left out")
    return parser


def asked(args: argparse.Namespace) -> list[Problem]:
    """Every problem that the arguments ask for.

    Raises:
        InputError: no such layer; no such device; the record's file cannot be written.
    """
    cases = [case for text in args.shapes or (TUNED if args.tune else ["headline"]) for case in _cases(text)]
    device = bench_frame.prepare(args)
    batch = args.batch or (1 if device.type == "cpu" else 128)
    biases = [False] if args.tune else {"no": [False], "yes": [True], "both": [False, True]}[args.bias]
    return [
        Problem(case, batch, getattr(torch, dtype), device, PASSES[name], bias)
        for case in dict.fromkeys(cases)
        for dtype in args.dtype
        for name in args.passes
        for bias in biases
    ]


def _cases(text: str):
    try:
        return kernel_shapes.parse(text)
    except ValueError as error:
        raise InputError(f"--shapes: {error}") from None


def compare(args: argparse.Namespace, problems: list[Problem]) -> int:
    """Ours against all peers on every problem."""
    console = bench_frame.console()
    others = contestants.peers(problems[0].device)
    if args.peers is not None:
        others = [peer for peer in others if any(peer.name.startswith(name) for name in args.peers)]
    entrants = [contestants.of_backend(), *contestants.same_in_float32_and_without_bias(), *others]
    peaks = machine.peaks(problems[0].device, args.threads)
    record = machine.record("bench_kernels", args, problems[0].device, peaks=peaks, results=[])
    for problem in tracked(problems, "time", "layers"):
        result = measure(problem, entrants, args.seconds, peaks)
        if args.memory:
            result["memory"] = kernel_memory.measure(problem, args.threads)
        record["results"].append(result)
        console.print(show(result))
    record["summary"] = summarize(record["results"])
    console.print(show_summary(record))
    bench_frame.write_record(args.out, record)
    return int(any("wrong" in result["contestants"]["ours"] for result in record["results"]))


def enter(
    entrant: Contestant, problem: Problem, wanted: dict[tuple[Problem, bool], tuple[torch.Tensor, ...]]
) -> tuple[dict[str, Any], Callable[[], list[Sample]] | None]:
    """What is known of it before it is timed, and the function of one turn; None where it does not take part.

    Args:
        wanted: the right results by problem and `entrant.whole`, to which those of this one are added.
    """
    tensors = problem.tensors()
    try:
        attention = entrant.prepare(problem)
        if isinstance(attention, str):
            return {"left_out": attention}, None
        got = run(attention, tensors, problem.backward)
        key = problem, entrant.whole
        if key not in wanted:
            wanted[key] = truth(problem, tensors, entrant.whole)
        deviation = contestants.error(got, wanted[key])
        if not deviation <= TOLERANCE[problem.dtype]:
            return {"wrong": deviation if math.isfinite(deviation) else "not finite"}, None
        if problem.device.type == "cpu":
            return {"error": deviation}, lambda: on_cpu(lambda: run(attention, tensors, problem.backward))
        nbytes = sum(t.nbytes for t in tensors if t is not None)
        copies = [problem.tensors(seed) for seed in range(1, min(16, 1 + ROTATED_BYTES // nbytes))]
        turn = OnGpu([lambda t=t: run(attention, t, problem.backward) for t in (tensors, *copies)])
        return {"error": deviation, "graph": turn.graph is not None}, turn
    except (RuntimeError, ValueError) as failure:  # a peer that fails is no reason to stop
        return {"left_out": f"{type(failure).__name__}: {str(failure).splitlines()[0]}"}, None


def measure(
    problem: Problem, entrants: list[Contestant], seconds: float, peaks: dict[str, Any], least: int = 3
) -> dict[str, Any]:
    """Check all entrants, time those that are right in turns, set the times against ours and against the floor."""
    known: dict[str, dict[str, Any]] = {}
    turns: dict[str, Callable[[], list[Sample]]] = {}
    wanted: dict[tuple[Problem, bool], tuple[torch.Tensor, ...]] = {}
    for entrant in entrants:
        own = problem._replace(**entrant.changes)
        if entrant.changes and own == problem:
            continue
        known[entrant.name], turn = enter(entrant, own, wanted)
        if turn is not None:
            turns[entrant.name] = turn
    timings, load = in_turns(turns, seconds, least) if turns else ({}, None)
    for name, timing in timings.items():
        known[name] |= milliseconds(timing)
    result = {
        "case": problem.case.name,
        **problem.case._asdict(),
        "batch": problem.batch,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "pass": next(name for name, backward in PASSES.items() if backward == problem.backward),
        "bias": problem.bias,
        "backend": dispatch.OPERATOR.choose(problem.call()),
        "load": load and load._asdict(),
        "contestants": known,
        "floor": floor(problem, peaks),
    }
    if ours := timings.get("ours"):
        result["ratios"] = {
            name: {
                "median": timing.median / ours.median,
                "best": timing.best / ours.best,
                "processor": timing.processor / ours.processor if timing.processor and ours.processor else None,
            }
            for name, timing in timings.items()
            if name != "ours"
        }
        result["part_of_peak"] = result["floor"]["flop"] / peaks["flops"] / ours.best if peaks["flops"] else None
        result["times_the_floor"] = {
            "median": ours.median / result["floor"]["seconds"],
            "best": ours.best / result["floor"]["seconds"],
        }
    return result


def milliseconds(timing: Timing) -> dict[str, float | None]:
    processor = None if timing.processor is None else 1e3 * timing.processor
    return {
        "median_ms": 1e3 * timing.median,
        "best_ms": 1e3 * timing.best,
        "processor_ms": processor,
        "calls": timing.calls,
    }


def floor(problem: Problem, peaks: dict[str, Any]) -> dict[str, float]:
    """The least that has to be moved and computed, and the seconds that this takes at the measured peaks.

    Forward: query, key, value, output and LSE once each. Backward: those with the output's gradient read, three
    gradients written, LSE and delta read; the scores are computed again.
    """
    case = problem.case
    queries = problem.batch * math.prod(case.spatial) * case.heads
    keys, size = case.kernel_size**2, problem.dtype.itemsize
    nbytes = 4 * case.channels * size + 4
    flop, exponentials = 4 * keys * case.channels, keys
    if problem.backward:
        nbytes += 8 * case.channels * size + 8
        flop, exponentials = flop + 10 * keys * case.channels, 2 * keys
    bounds = [queries * nbytes / peaks["bytes"]] + ([queries * flop / peaks["flops"]] if peaks["flops"] else [])
    return {
        "bytes": queries * nbytes,
        "flop": queries * flop,
        "exponentials": queries * exponentials,
        "seconds": max(bounds),
    }


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of the ratios over the layers, and how long a backward is in forwards."""
    groups: dict[str, list[dict[str, float | None]]] = {}
    for result in results:
        for name, ratio in result.get("ratios", {}).items():
            bias = ", bias" if result["bias"] else ""
            groups.setdefault(f"{name}, {result['pass']}, {result['dtype']}{bias}", []).append(ratio)
    means = {}
    for name, ratios in groups.items():
        known = {part: [one[part] for one in ratios if one[part]] for part in PARTS}
        means[name] = {part: statistics.geometric_mean(values) if values else None for part, values in known.items()}
        means[name] |= {"least_median": min(known["median"]), "layers": len(ratios)}
    forwards = {_layer(r): r for r in results if r["pass"] == "forward" and "ratios" in r}
    backward = {}
    for result in results:
        before = forwards.get(_layer(result))
        if result["pass"] == "forward" or "ratios" not in result or before is None:
            continue
        both, one = (r["contestants"]["ours"] for r in (result, before))
        name = f"{result['case']}, {result['dtype']}{', bias' if result['bias'] else ''}"
        backward[name] = {
            part: both[f"{part}_ms"] / one[f"{part}_ms"] - 1 if one[f"{part}_ms"] else None for part in PARTS
        }
    return {"ratios": means, "backward_in_forwards": backward}


def _layer(result: dict[str, Any]) -> tuple:
    return result["case"], result["dtype"], result["bias"], result["batch"]


def show(result: dict[str, Any]) -> Group:
    """A table of the times, and a line for each that was not timed, for ours against the floor, and for memory."""
    load = result["load"]
    title = (
        f"{result['case']}, batch {result['batch']}, {result['dtype']}, {result['pass']}"
        f"{', bias' if result['bias'] else ''}: backend {result['backend']}"
        + (f", load {load['before']:.1f} to {load['after']:.1f}" if load else "")
    )
    table, lines = Table(box=box.SIMPLE, padding=(0, 1)), [title]
    for heading in ("", "ms", "best", "cpu", "x", "x best", "x cpu"):  # median, best, median of the processor's time
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, known in result["contestants"].items():
        if "median_ms" not in known:
            why = f"left out, {known['left_out']}" if "left_out" in known else f"WRONG, deviates by {known['wrong']}"
            lines.append(f"  {name}: {why}")
            continue
        ratio = result.get("ratios", {}).get(name)
        times = [f"{known[f'{part}_ms']:.3f}" if known[f"{part}_ms"] else "" for part in PARTS]
        table.add_row(name, *times, *(f"{ratio[part]:.2f}" if ratio[part] else "" for part in PARTS if ratio))
    if "times_the_floor" in result:
        part = result["part_of_peak"]
        peak = f"{100 * part:.1f} % of the peak, " if part else ""
        lines.append(f"  ours at its best: {peak}{result['times_the_floor']['best']:.2f} times the floor")
    if memory := result.get("memory"):
        parts = ", ".join(f"{key} {100 * value['part']:.1f} %" for key, value in memory["extra"].items())
        lines.append(f"  memory beside inputs and outputs, as part of q, k and v: {parts}")
    return Group(*(Text(line) for line in lines[:1]), table, *(Text(line) for line in lines[1:]))


def show_summary(record: dict[str, Any]) -> Table:
    """Geometric means over the layers of the ratios to ours; then what a backward takes, in forwards."""
    title = f"geometric means of the ratios to ours; {record['machine']['cpu']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for heading in ("", "x", "x best", "x cpu", "least x", "layers"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)

    def figures(one: dict[str, float | None], *names: str) -> list[str]:
        return ["" if one[name] is None else f"{one[name]:.2f}" for name in names]

    for name, mean in record["summary"]["ratios"].items():
        table.add_row(name, *figures(mean, *PARTS, "least_median"), str(mean["layers"]))
    for name, times in record["summary"]["backward_in_forwards"].items():
        table.add_row(f"backward in forwards: {name}", *figures(times, *PARTS))
    return table


def tune(args: argparse.Namespace, problems: list[Problem]) -> int:
    """Time the backends that the choice may take, and add their order to the table.

    One that the rule does not try (`dispatch.rule`) is only taken in where it is faster by a tenth.
    """
    console = bench_frame.console()
    seconds: dict[str, list[dict[str, float]]] = {}
    for problem in tracked(problems, "tune", "layers"):
        call = problem.call()
        names = [name for name in dict.fromkeys((*dispatch.rule(call), "sdpa"))]
        names = [name for name in names if dispatch.OPERATOR.why_not(name, call) is None]
        kind = dispatch.kind(call)
        wanted: dict[tuple[Problem, bool], tuple[torch.Tensor, ...]] = {}
        entrants = {name: enter(contestants.of_backend(name), problem, wanted) for name in names}
        for name, (known, turn) in entrants.items():
            if turn is None:
                console.print(f"{problem.case.name}: {name} takes no part: {known}", markup=False)
        turns = {name: turn for name, (_, turn) in entrants.items() if turn is not None}
        if not turns:
            continue
        timings, load = in_turns(turns, args.seconds)
        # Others on the machine lengthen most calls on a CPU, but hardly the best of many.
        found = {name: t.best if problem.device.type == "cpu" else t.median for name, t in timings.items()}
        usual = min((found[name] for name in dispatch.rule(call) if name in found), default=math.inf)
        # What the rule would not try has to be worth it, not to have had luck.
        found = {name: t for name, t in found.items() if name in dispatch.rule(call) or t < 0.9 * usual}
        seconds.setdefault(kind, []).append(found)
        order = ", ".join(f"{name} {1e3 * found[name]:.3f} ms" for name in sorted(found, key=found.__getitem__))
        console.print(f"{problem.case.name} ({kind}; load {load.after:.1f}): {order}", markup=False)
    entries = {
        kind: {
            name: float(f"{statistics.fmean(one[name] for one in several):.4g}")
            for name in several[0]
            if all(name in one for one in several)
        }
        for kind, several in seconds.items()
    }
    path = Path(args.table) if args.table else tuning.user_table(dispatch.OPERATOR.name)
    told = machine.describe(problems[0].device) | {"threads": args.threads, "load": os.getloadavg()[0]}
    tuning.write(path, entries, told)
    console.print(f"{len(entries)} orders in {os.path.relpath(path)}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
