"""Say what this machine can do, what it lacks, and what to do about it: bestiary doctor

Training is tried, not guessed: a step on the CPU and on the GPU, and a data loader's worker. The exit status is 1 if
training cannot work.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bestiary.tools.doctor_machine import Finding, look
from bestiary.tools.parsers import command_parser

PROBES = ("training", "libraries")
TIMEOUT = 120  # seconds of a probe, which takes 5 to 10: what hangs is a finding
MARKS = {"ok": "ok", "note": "note", "warn": "WARN", "fail": "FAIL"}
COLOURS = {"ok": "32", "note": "36", "warn": "33", "fail": "31"}
VARIABLES = (
    "BESTIARY_BACKEND BESTIARY_CACHE CUDA_HOME CUDA_VISIBLE_DEVICES CXX HF_HUB_OFFLINE LANG LC_ALL LD_PRELOAD MAX_JOBS "
    "MKL_NUM_THREADS OMP_NUM_THREADS PYTHONUTF8 TRITON_INTERPRET"
).split()


def main(argv: list[str] | None = None) -> int:
    """Look, try, print; returns 1 if training cannot work."""
    parser = command_parser("doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="all of it as JSON, for a bug report")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help=f"seconds of one trial ({TIMEOUT})")
    args = parser.parse_args(argv)
    began = time.monotonic()
    waiting = sys.stderr.isatty() and not args.json
    if waiting:
        print("trying imports, kernels, training steps, a worker; 5 to 15 s", end="\r", file=sys.stderr, flush=True)
    findings, told = examine(args.timeout)
    if waiting:
        print("\x1b[2K", end="\r", file=sys.stderr, flush=True)
    failed = [one for one in findings if one.status == "fail"]
    if args.json:
        print(json.dumps(report(findings, told), indent=1))
        return int(bool(failed))
    colour, width = sys.stdout.isatty(), min(shutil.get_terminal_size((110, 24)).columns, 130)
    for one in findings:
        print(line(one, width, colour))
    print(verdict(findings, time.monotonic() - began))
    return int(bool(failed))


def examine(timeout: float = TIMEOUT) -> tuple[list[Finding], dict[str, Any]]:
    """Every finding, and what a report tells of machine and versions."""
    with ThreadPoolExecutor(len(PROBES)) as pool:  # each in a process of its own, which may die
        running = [pool.submit(probe, name, timeout) for name in PROBES]
        findings, told = look(), {}
        for one in running:
            found, more = one.result()
            findings += found
            told |= more
    return findings, told


def probe(name: str, timeout: float) -> tuple[list[Finding], dict[str, Any]]:
    """Findings of a probe as far as it came; that it was killed or hangs is one itself."""
    command = [sys.executable, "-m", "bestiary.tools.doctor_probe", name]
    # In a session of its own, so that what it has started (a worker that hangs) can be ended with it.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, encoding="utf-8"
    )
    try:
        out, err = process.communicate(timeout=timeout)
        ended = ended_badly(process.returncode, err)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        ended = f"no answer within {timeout:g} s"
    findings, told = [], {}
    for record in map(json.loads, out.splitlines()):
        if "status" in record:
            findings.append(Finding(**record))
        else:
            told |= record
    if ended:
        after = f" after {findings[-1].name}" if findings else ""
        advice = f"run it alone and look: python -m bestiary.tools.doctor_probe {name}"
        findings.append(Finding(name, "fail", f"{ended}{after}", advice))
    return findings, told


def ended_badly(status: int, err: str) -> str:
    """How a process ended, in words; empty if all is well."""
    if status < 0:
        return f"killed by signal {-status}"
    last = err.strip().splitlines()[-1] if err.strip() else "no message"
    return f"status {status}: {last[:200]}" if status else ""


def report(findings: list[Finding], told: dict[str, Any]) -> dict[str, Any]:
    """What a bug report should have; no paths of the user's but those in the findings."""
    return {
        "tool": "doctor",
        "training_works": not any(one.status == "fail" for one in findings),
        "findings": [one._asdict() for one in findings],
        **told,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def line(one: Finding, width: int, colour: bool) -> str:
    """`WARN  shared memory    /dev/shm has 0.06 GiB ...` and the advice below it, within `width` columns."""
    mark = f"{MARKS[one.status]:4s}"
    shown = f"\x1b[{COLOURS[one.status]}m{mark}\x1b[0m" if colour else mark
    indent = " " * 30
    words = textwrap.wrap(one.found, max(width - 30, 30)) or [""]
    if one.advice:
        start = "-> " if one.status != "ok" else ""
        words += textwrap.wrap(f"{start}{one.advice}", max(width - 30, 30))
    return f"{shown}  {one.name:24s}" + f"\n{indent}".join(words)


def verdict(findings: list[Finding], seconds: float) -> str:
    """The last line."""
    count = {status: sum(one.status == status for one in findings) for status in MARKS}
    if count["fail"]:
        names = ", ".join(dict.fromkeys(one.name for one in findings if one.status == "fail"))
        return f"training cannot work here: {names}; see FAIL above ({seconds:.0f} s)"
    where = "GPU" if any(one.name == "step on the GPU" for one in findings) else "CPU"
    worth = f"; {count['warn']} things worth mending" if count["warn"] else ""
    return f"training works on this machine's {where}{worth} ({seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(main())
