"""Break training runs on purpose, and time them; measure what is lost: bestiary chaos kill --trials 50"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bestiary.engine.launch import run_guarded
from bestiary.engine.progress import clock
from bestiary.tools.bench_frame import need_writable
from bestiary.tools.machine import record
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, break, print; returns 1 if anything was lost."""
    words = "parts:\n" + "\n".join(f"  {name:8s} {part.__doc__}" for name, part in PARTS.items())
    parser = command_parser("chaos", __doc__, words)
    parser.add_argument("what", choices=PARTS, help="what is broken or timed")
    parser.add_argument("--trials", type=int, default=50, help="of the kill test (50)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="of the resume matrix; all if left out")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of killing (0)")
    parser.add_argument("--out", type=Path, help="file for the record, JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    lost: list[bool] = []
    status = run_guarded(lambda: lost.append(run(args)), args.debug)
    return status or int(lost[0])


def run(args: argparse.Namespace) -> bool:
    """Run a part and print its table; whether anything was lost."""
    need_writable("--out", args.out)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results, table, lost = PARTS[args.what](Path(folder), args, lambda line: print(line, flush=True))
    Console(markup=False).print(table)
    print(f"{args.what}: {'something was LOST' if lost else 'nothing was lost'}, {clock(time.monotonic() - began)}")
    if args.out:
        content = record("chaos", args, torch.device("cpu"), results=results)
        text = json.dumps(content, indent=1).replace(folder, "FOLDER")  # another name in each run
        args.out.write_text(text + "\n", encoding="utf-8")
    return lost


def kill(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """SIGKILL at random moments, resumed each time"""
    from bestiary.tools.chaos_kill import CASES, kill_test

    records = kill_test(folder, args.trials, args.seed, say)
    table = Table("run", "trials", "kills", "within a save", "bit-identical")
    for case in CASES:
        of_case = [r for r in records if r["case"] == case]
        same = sum(r["difference"] == 0 for r in of_case)
        sums = [sum(r[key] for r in of_case) for key in ("kills", "within_a_save")]
        table.add_row(case, str(len(of_case)), *map(str, sums), f"{same} of {len(of_case)}")
    return records, table, any(r["difference"] != 0 for r in records)


def resume(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """every kind of state, broken at an epoch's end and in its middle"""
    from bestiary.tools.chaos_resume import WHERE, resume_matrix

    found = resume_matrix(folder, args.rows, say)
    table = Table("run", *(f"largest difference, {where}" for where in WHERE))
    for name, row in found.items():
        table.add_row(name, *(f"{row[where]:g}" if where in row else "-" for where in WHERE))
    return found, table, any(gap != 0 for row in found.values() for gap in row.values())


def ranks(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """a rank of two that dies: the job ends soon and names it, or torchrun starts it again"""
    from bestiary.tools.chaos_ranks import SOON, deaths, killed_rank, lost

    table = Table("rank of two", "seconds to the end", "how it ended", "named")
    found = deaths(folder, say=say)
    for one in found:
        table.add_row(one["way"], f"{one['seconds']:g}", str(one["statuses"]), "yes" if one["named"] else "NO")
    bad = any(lost(one) for one in found)
    for restarts in (0, 1):
        (place := folder / f"restarts{restarts}").mkdir()
        one = killed_rank(place, restarts, args.seed)
        say(f"a rank is killed under torchrun --max-restarts={restarts}: {one}")
        end = f"bit-identical: {one['difference'] == 0}" if restarts else f"status {one['status']}"
        named = "yes" if one["named"] else "NO"
        table.add_row(f"is killed, --max-restarts={restarts}", f"{one['seconds']:g}", end, named)
        fine = one["difference"] == 0 and one["began_again"] if restarts else one["status"] and one["seconds"] <= SOON
        bad |= not fine or not one["named"]
        found.append(one)
    return found, table, bad


def hostile(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """files with code in them, archives that escape: by the bare library, and by ours"""
    from bestiary.tools import chaos_hostile

    results = chaos_hostile.hostile(folder, say)
    table = Table("hostile file", "bare library", "here", "what is said")
    for result in results:
        here = "EXECUTES OR ESCAPES" if result.ours else "does nothing"
        table.add_row(result.name, "executes or escapes" if result.bare else "does nothing", here, result.said[:90])
    return [result._asdict() for result in results], table, any(result.ours for result in results)


def inputs(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """damaged data, files and settings: each is a clear message, a counted skip or the right pixels"""
    from bestiary.tools import chaos_inputs

    results = chaos_inputs.inputs(folder, say)
    table = Table("bad input", "seconds", "", "what is said")
    for result in results:
        table.add_row(result.name, f"{result.seconds:.1f}", result.wrong or "ok", result.said[:160])
    return [result._asdict() for result in results], table, any(result.wrong for result in results)


def overhead(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """time an iteration over that of a bare loop, at most 1.03 (more options: benchmark loop)"""
    from bestiary.tools import bench_loop

    settings = argparse.Namespace(configs=bench_loop.CONFIGS, rounds=5, iterations=60, threads=1, workers=None)
    results, table = bench_loop.compare(folder, settings, say)
    return results, table, any(row["ratio"] > bench_loop.MOST for row in results)


def scaling(folder: Path, args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Any, Table, bool]:
    """two ranks of a thread against a process of two, time and memory (more options: benchmark scaling)"""
    from bestiary.tools import bench_scaling

    settings = argparse.Namespace(config=bench_scaling.CONFIG, kinds=list(bench_scaling.KINDS), rounds=5, iterations=60)
    return *bench_scaling.compare(folder, settings, say), False


PARTS = {part.__name__: part for part in (kill, resume, ranks, hostile, inputs, overhead, scaling)}

if __name__ == "__main__":
    sys.exit(main())
