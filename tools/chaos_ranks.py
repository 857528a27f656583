"""Jobs of two ranks of which one dies: they end soon and name it, or are started again and lose nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bestiary import tools
from bestiary.engine.progress import clock
from bestiary.tools.chaos_runs import difference, make_pictures, newest, start, tail, wait, write_config

BEFORE = 5  # iterations until a rank dies: an epoch is complete, and another is under way
SOON = 30.0  # seconds within which a job has to be over
WORDS = "the rank that was told to fail"


def _note_and(folder: Path, die: Callable[[], object]) -> None:
    (folder / "died").write_text(str(time.time()))
    die()


def _raise() -> None:
    raise ZeroDivisionError(WORDS)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


WAYS = {  # how rank 1 dies, what rank 0 is doing, and whether it happens while the model is evaluated
    "raises": (_raise, None, False),
    "is killed": (_kill, None, False),
    "calls os._exit": (lambda: os._exit(3), None, False),
    "raises in an evaluation": (_raise, None, True),
    "is killed in an evaluation": (_kill, None, True),
    # As in a collective on GPUs, which goes on to wait: gloo's ends where a connection is closed.
    "is killed, the other waits for ever": (_kill, lambda: time.sleep(3600), False),
}


def _prepare(folder: Path, way: str) -> Callable[[], None]:
    """What a rank does first: it is to die, or to wait, when it comes to a certain step."""
    die, wait_there, evaluating = WAYS[way]

    def prepare() -> None:
        from mmengine.runner import ValLoop

        from bestiary.engine.training import loops

        owner, name = (ValLoop, "run_iter") if evaluating else (loops._ExactLoop, "step")
        step = getattr(owner, name)
        at = 1 if evaluating else BEFORE

        def stepping(self: Any, number: int, data_batch: Any) -> None:
            if number == at if evaluating else self._iter == at:
                if os.environ["RANK"] == "1":
                    _note_and(folder, die)
                elif wait_there is not None:
                    wait_there()
            step(self, number, data_batch)

        setattr(owner, name, stepping)

    return prepare


def death(folder: Path, config: Path, way: str) -> dict[str, Any]:
    """Seconds from the death of rank 1 to the end of the job, its statuses, and what was said of it."""
    work_dir = folder / way.replace(" ", "_").replace(",", "")
    log = work_dir.with_suffix(".log")
    statuses = wait(start([config, "--work-dir", work_dir], log, 2, _prepare(folder, way)))
    seconds = time.time() - float((folder / "died").read_text())
    text = log.read_text(errors="replace")
    said = [line for line in text.splitlines() if "rank 1 of 2" in line]
    own = "\n".join(path.read_text(errors="replace") for path in work_dir.rglob("rank1.log"))
    return dict(
        way=way,
        seconds=round(seconds, 1),
        statuses=statuses,
        named=bool(said),
        said=said[:1],
        error_shown=WORDS in text if "raises" in way else None,
        in_its_log="Traceback" in own and WORDS in own if "raises" in way else None,
    )


def deaths(folder: Path, ways: list[str] | None = None, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """`death` in each way, without a launcher that would look after the ranks."""
    config = write_config(folder / "deaths.py", make_pictures(folder), ())
    found = []
    for way in ways or list(WAYS):
        found.append(death(folder, config, way))
        say(f"rank 1 {way}: over after {found[-1]['seconds']} s, {found[-1]['statuses']}, {found[-1]['said']}")
    return found


def lost(record: dict[str, Any]) -> bool:
    """Whether a job with a dead rank did not end as it should."""
    fine = record["named"] and record["seconds"] <= SOON and all(status != 0 for status in record["statuses"])
    return not fine or record["error_shown"] is False or record["in_its_log"] is False


def torchrun(config: Path, work_dir: Path, log: Path, restarts: int, *more: str) -> subprocess.Popen:
    """`torchrun tools/train.py CONFIG` with two ranks on gloo; what it prints goes to `log`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [f"--max-restarts={restarts}", str(Path(tools.__file__).parent / "train.py"), str(config)]
    command += ["--work-dir", str(work_dir), "--launcher", "pytorch", "--threads", "1", *more]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=env)


def process_of(agent: int, rank: int) -> int | None:
    """The process of a rank that a torchrun has started; None if it is not there (Linux)."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdigit() else None
            if parent == agent and f"\0RANK={rank}\0".encode() in b"\0" + (entry / "environ").read_bytes():
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    return None


def kill_rank(job: subprocess.Popen, work_dir: Path, rng: random.Random, limit: float = 300.0) -> int:
    """SIGKILL a rank, at a moment after the first checkpoint is there; returns which.

    Raises:
        RuntimeError: the job ended before.
    """
    end = time.monotonic() + limit
    while not (work_dir / "last_checkpoint").exists():
        if job.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the job has no checkpoint, so nothing was killed")
        time.sleep(0.02)
    time.sleep(rng.uniform(0.0, 1.0))
    rank = rng.randrange(2)
    if (process := process_of(job.pid, rank)) is None:
        raise RuntimeError("the job was over before a rank was killed")
    os.kill(process, signal.SIGKILL)
    return rank


def killed_rank(folder: Path, restarts: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A job under torchrun of which a rank is killed: how it ended, and how far it is from the one that nobody killed.

    Args:
        folder: for all files.
        restarts: that torchrun may make; 0: the job is to end, with the rank named.
        seed: of the moment, and of the rank.
        **changes: keys of the config, as `write_config` takes them.

    Raises:
        RuntimeError: a job that should have ended well did not.
    """
    options = dict(train_cfg__max_epochs=16) | changes
    config = write_config(folder / "killed.py", make_pictures(folder), ("dropout", "augmentation", "mixup"), **options)
    log, work_dir = folder / "killed.log", folder / "killed"
    began = time.monotonic()
    job = torchrun(config, work_dir, log, restarts)
    rank = kill_rank(job, work_dir, random.Random(seed))
    killed = time.monotonic()
    status = job.wait(300)
    text = log.read_text(errors="replace")
    found = dict(
        restarts=restarts,
        rank=rank,
        status=status,
        seconds=round(time.monotonic() - killed, 1),
        named=f"rank {rank} of 2" in text and "died without a word" in text,
        began_again=text.count("this job was started again"),
    )
    if restarts:
        if status:
            raise RuntimeError(f"restarted, the job failed with {status}: {tail(log, 40)}")
        statuses = wait(start([config, "--work-dir", folder / "whole"], folder / "whole.log", 2))
        if statuses != [0, 0]:
            raise RuntimeError(f"the job that nobody killed failed with {statuses}: {tail(folder / 'whole.log', 40)}")
        found["difference"] = difference(newest(folder / "whole"), newest(work_dir))
    found["took"] = clock(time.monotonic() - began)
    return found
