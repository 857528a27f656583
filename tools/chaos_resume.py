"""The resume matrix: runs with every kind of randomness and state, broken at an epoch's end and in its middle."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bestiary.engine.progress import clock
from bestiary.errors import InputError
from bestiary.tools.chaos_runs import (
    FEATURES,
    STEPS,
    difference,
    make_pictures,
    newest,
    start,
    tail,
    wait,
    write_config,
)

MIDDLE = STEPS + 3  # iterations done when a run is stopped in the middle of its second epoch
WHERE = ("epoch end", "mid-epoch")
ROWS = {  # what a run has: features, workers, processes, other keys
    "dropout, drop path": dict(features=["dropout"]),
    "random augmentation": dict(features=["augmentation"]),
    "mixup": dict(features=["mixup"]),
    "EMA": dict(features=["ema"]),
    "accumulation of 3": dict(features=["accumulation"]),
    "bf16": dict(features=["bf16"]),
    "0 workers": dict(),
    "2 workers": dict(workers=2),
    "4 workers": dict(workers=4),
    "DDP x 2": dict(ranks=2),
    "ZeRO-1 x 2": dict(ranks=2, parallel="zero1"),
    "FSDP x 2": dict(ranks=2, parallel="fsdp"),
    "FSDP x 2, whole checkpoints": dict(ranks=2, parallel=dict(type="fsdp", checkpoint="full")),
    "all of these, 1 process": dict(features=FEATURES, workers=2),
    "all of these, DDP x 2": dict(features=FEATURES, workers=2, ranks=2),
    "accumulation, mixup, 2 workers, FSDP x 2": dict(
        features=["dropout", "augmentation", "mixup", "accumulation"], workers=2, ranks=2, parallel="fsdp"
    ),
    "all, by iterations": dict(features=FEATURES, workers=2, by_epoch=False),
}


def _kill_in_second_epoch() -> None:
    """Have this process killed when the second epoch begins: what is on the disk then is the first one's checkpoint."""
    from bestiary.engine.training import loops

    step = loops._ExactLoop.step

    def stepping(self, number, data_batch):
        if self._iter == STEPS:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, number, data_batch)

    loops._ExactLoop.step = stepping


def _stop_in_the_middle() -> None:
    """Have this process asked to stop so that `MIDDLE` iterations, or with several processes one more, are done."""
    from bestiary.engine.training import loops

    step = loops._ExactLoop.step

    def stepping(self, number, data_batch):
        if self._iter == MIDDLE - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(self, number, data_batch)

    loops._ExactLoop.step = stepping


def cell(folder: Path, config: Path, where: str, ranks: int, whole: dict) -> float:
    """Difference of a run that was broken `where` and gone on with to the whole one.

    Raises:
        RuntimeError: it did not break as it should, or did not end.
    """
    log = folder.with_suffix(".log")
    argv = [config, "--work-dir", folder]
    broken = wait(start(argv, log, ranks, _kill_in_second_epoch if where == WHERE[0] else _stop_in_the_middle))
    wanted = [-signal.SIGKILL] * ranks if where == WHERE[0] else [75] * ranks
    if broken != wanted:
        raise RuntimeError(f"it was to end with {wanted} and did with {broken}: {tail(log, 40)}")
    if (status := wait(start([*argv, "--resume"], log, ranks))) != [0] * ranks:
        raise RuntimeError(f"gone on with, it failed with {status}: {tail(log, 40)}")
    return difference(whole, newest(folder))


def resume_matrix(
    folder: Path, rows: list[str] | None = None, say: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """Largest difference of any weight, buffer, average or optimizer's state: row: {where: difference}.

    Raises:
        InputError: there is no such row.
    """
    if unknown := [row for row in rows or () if row not in ROWS]:
        raise InputError(f"resume: no row {unknown[0]!r}; there are {'; '.join(ROWS)}")
    pictures = make_pictures(folder)
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(rows or ROWS):
        row = dict(features=[], workers=0, ranks=1, by_epoch=True) | ROWS[name]
        ranks = row.pop("ranks")
        began = time.monotonic()
        config = write_config(folder / f"row{number}.py", pictures, **row)
        log = folder / f"row{number}.log"
        if (status := wait(start([config, "--work-dir", folder / f"row{number}"], log, ranks))) != [0] * ranks:
            raise RuntimeError(f"{name}: the run without a break failed with {status}: {tail(log, 40)}")
        whole = newest(folder / f"row{number}")
        places = [where for where in WHERE if row["by_epoch"] or where != WHERE[0]]
        found[name] = {}
        for place, where in enumerate(places):
            target = folder / f"row{number}_{place}"
            found[name][where] = cell(target, config, where, ranks, whole)
            shutil.rmtree(target)
        shutil.rmtree(folder / f"row{number}")
        words = ", ".join(f"{where} {gap:.3g}" for where, gap in found[name].items())
        say(f"resume {number + 1}/{len(rows or ROWS)}: {name}: {words} ({clock(time.monotonic() - began)})")
    return found
