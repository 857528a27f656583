"""A job that torchrun has started again goes on from what the attempt before it has saved."""

import os
from pathlib import Path

from ...files import write_text

BEGAN = ".job_began"  # in the work directory: written by the job's first attempt


def attempt() -> int:
    """How often torchrun has started this job again; 0 in the first attempt and without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def note_beginning(work_dir: str | Path) -> None:
    """Note that the job begins now: what lies in the work directory is another's. The first rank calls it."""
    if attempt() == 0:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        write_text(Path(work_dir) / BEGAN, os.environ.get("TORCHELASTIC_RUN_ID", "") + "\n")


def has_saved(work_dir: str | Path) -> bool:
    """Whether an earlier attempt of this very job has left a checkpoint."""
    began, last = Path(work_dir) / BEGAN, Path(work_dir) / "last_checkpoint"
    if attempt() == 0 or not (began.exists() and last.exists()):
        return False
    return last.stat().st_mtime_ns >= began.stat().st_mtime_ns
