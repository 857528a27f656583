"""The frame of the tools that measure: device and threads, bad input, files that are written, the record."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bestiary.backbones.names import resolve_name
from bestiary.errors import InputError


def guarded(command: Callable[[], int]) -> int:
    """Run `command`; its exit status, or 1 for bad input, told in a line."""
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def prepare(args: argparse.Namespace) -> torch.device:
    """The device of `args.device`, with `args.threads` CPU threads set; asks first that `args.out` can be written.

    Raises:
        InputError: PyTorch finds no CUDA device, no such file can be written, a number is below 1.
    """
    for name in ("threads", "batch", "size"):
        values = getattr(args, name, None)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < 1:
                raise InputError(f"--{name} {value}: give a whole number from 1 on")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device")
    need_writable("--out", args.out)
    torch.set_num_threads(args.threads)
    return torch.device(args.device)


def need_backbones(names: list[str]) -> None:
    """Raises InputError: one of the names is none of ours; the nearest are offered."""
    for name in names:
        try:
            resolve_name(name)
        except ValueError as error:
            raise InputError(str(error)) from error


def console() -> Console:
    """As wide as the terminal, or 110 where there is none."""
    return Console(width=None if sys.stdout.isatty() else 110)


def need_writable(option: str, path: str | None) -> None:
    """Ask, before hours go into a measurement, that its file can be written; makes the folder that it lies in.

    Raises:
        InputError: it cannot.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise InputError(f"{option} {path}: a folder; name a file in it")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).exists():
            with Path(path).open("ab"):
                return
        with tempfile.TemporaryFile(dir=Path(path).parent):
            return
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written ({error.strerror}); name another file") from error


def write_record(path: str | None, record: dict[str, Any]) -> None:
    """Write a record as JSON, where a file was named for it."""
    if path is not None:
        Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def in_fresh_process(module: str, what: str, *arguments: str) -> Any:
    """What `python -m module arguments` prints as JSON in its last line; its memory goes back as soon as it is freed.

    Raises:
        InputError: the process failed; `what` and the end of its error are in the message.
    """
    # Blocks of any size go back to the system when they are freed: otherwise a later call finds them in the process.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{what}: the process that measures it failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
