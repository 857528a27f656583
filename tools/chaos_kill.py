"""Runs killed by SIGKILL at random moments, each gone on with until it ends, against the run that nobody killed."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bestiary.engine.progress import clock
from bestiary.files import PART
from bestiary.tools.chaos_runs import (
    FEATURES,
    LIMIT,
    difference,
    make_pictures,
    newest,
    start,
    tail,
    wait,
    write_config,
)

KILLS = 3  # of a trial, at most
CASES = {  # what a trial trains with: workers, whether epochs are counted, changes of the config
    "one checkpoint kept": dict(default_hooks__checkpoint__max_keep_ckpts=1),
    "one kept, two workers": dict(workers=2, default_hooks__checkpoint__max_keep_ckpts=1),
    "every iteration saved": dict(
        by_epoch=False, default_hooks__checkpoint__interval=1, default_hooks__checkpoint__max_keep_ckpts=1
    ),
    "two kept and the best": dict(
        default_hooks__checkpoint__max_keep_ckpts=2, default_hooks__checkpoint__save_best="accuracy/top1"
    ),
}


def trial(folder: Path, config: Path, whole: dict, rng: random.Random, seconds: float) -> tuple[int, int, float, float]:
    """Kill and go on until the run ends by itself, killed once at least.

    Args:
        folder: the run's.
        config: its config.
        whole: the checkpoint of the run that nobody killed.
        rng: of the moments.
        seconds: that such a run takes, start included.

    Returns:
        Kills, those within a save, the difference to `whole`, and the seconds that a run took last.

    Raises:
        RuntimeError: a run that was gone on with failed; the message has the end of its log.
    """
    log = folder.with_suffix(".log")
    kills = within = 0
    while kills < KILLS:
        writing = rng.random() < 0.5  # wait for a checkpoint that is being written
        after = rng.uniform(0.0, seconds)
        (process,) = start([config, "--work-dir", folder, "--resume"], log)
        began = time.monotonic()
        while os.waitpid(process, os.WNOHANG) == (0, 0):
            late = time.monotonic() - began >= after
            part = any(folder.glob(f"*.pth.*{PART}"))
            if late and (part or not writing) or time.monotonic() - began > LIMIT:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                kills, within = kills + 1, within + any(folder.glob(f"*.pth.*{PART}"))
                break
        else:  # it has ended before its turn came
            if kills:
                break
            seconds = time.monotonic() - began
            shutil.rmtree(folder)
    status = wait(start([config, "--work-dir", folder, "--resume"], log))
    if status != [0]:
        raise RuntimeError(f"resumed and failed with {status}: {tail(log, 40)}")
    return kills, within, difference(whole, newest(folder)), seconds


def kill_test(
    folder: Path, trials: int = 50, seed: int = 0, say: Callable[[str], None] = print
) -> list[dict[str, int | float | str]]:
    """`trials` of the cases in turn; a record of each."""
    pictures = make_pictures(folder)
    rng, records, whole, configs = random.Random(seed), [], {}, {}
    seconds: dict[str, float] = {}
    for number in range(trials):
        case = list(CASES)[number % len(CASES)]
        if case not in whole:
            name = f"case{len(whole)}"
            configs[case] = write_config(folder / f"{name}.py", pictures, FEATURES, **CASES[case])
            began = time.monotonic()
            log = folder / f"{name}.log"
            if (status := wait(start([configs[case], "--work-dir", folder / name], log))) != [0]:
                raise RuntimeError(f"the run that nobody kills failed with {status}: {tail(log, 40)}")
            seconds[case], whole[case] = time.monotonic() - began, newest(folder / name)
        target = folder / f"trial{number}"
        began = time.monotonic()
        kills, within, gap, seconds[case] = trial(target, configs[case], whole[case], rng, seconds[case])
        records.append(dict(case=case, kills=kills, within_a_save=within, difference=gap))
        say(
            f"kill {number + 1}/{trials}: {case}: {kills} kills, {within} within a save: "
            f"{'identical' if gap == 0 else f'DIFFERS by {gap:.3g}'} ({clock(time.monotonic() - began)})"
        )
        shutil.rmtree(target, ignore_errors=True)
    return records
