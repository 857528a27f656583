"""A job that torchrun has started again goes on from what the attempts before it have saved."""

import os
from pathlib import Path

from ...compat import restarts
from ...files import write_text

BEGAN = ".job_began"  # in the work directory: written by the job's first attempt


def attempt() -> int:
    """How often this job was begun before: 0 in its first attempt, and without torchrun."""
    return max(restarts.attempt(), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


def has_saved(work_dir: str | Path) -> bool:
    """Whether an earlier attempt of this very job has left a checkpoint; notes the beginning in the first attempt.

    The first rank asks; what another job has left in the work directory is not counted.
    """
    began, last = Path(work_dir) / BEGAN, Path(work_dir) / "last_checkpoint"
    if attempt() == 0:
        write_text(began, os.environ.get("TORCHELASTIC_RUN_ID", "") + "\n")
        return False
    return began.exists() and last.exists() and last.stat().st_mtime_ns >= began.stat().st_mtime_ns
