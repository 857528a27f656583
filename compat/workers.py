"""Worker processes of a DataLoader: those started afresh (`spawn`, `forkserver`) import us, the dead are named."""

import functools
import os
import re
import shutil
import signal
from types import ModuleType
from typing import Any

from ..errors import InputError
from .imports import after_import, replace, target


def worker_loop(*args, **kwargs):
    """torch's loop of a worker, by a name that imports bestiary where it is unpickled."""
    import torch.utils.data._utils.worker  # noqa: F401  (its patch, below, fills in `__wrapped__`)

    return worker_loop.__wrapped__(*args, **kwargs)


@after_import("torch.utils.data._utils.worker")
def workers_import_bestiary(module: ModuleType) -> None:
    """A spawned worker dies at the import of mmdet: it unpickles the dataset before anything has imported bestiary.

    Works by chance if `import bestiary` stands at the top of the started script, not under `if __name__ == "__main__"`
    nor in a config's `custom_imports`. The function that a process runs is unpickled before its arguments, so one of
    ours brings the import along.
    """
    loop = target(module, "_worker_loop")
    functools.update_wrapper(worker_loop, loop, assigned=(), updated=())  # keeps our own name, by which it is pickled
    replace(module, "_worker_loop", worker_loop)


@after_import("torch.utils.data.dataloader")
def dead_workers_are_named(module: ModuleType) -> None:
    """torch says which process has died; here also which worker that is, of what, and what it most likely means.

    Most deaths are told by a signal's handler, at whatever line the main process is; those pass `explain_death` too, by
    `engine.launch.explain`.
    """
    iterator = target(module, "_MultiProcessingDataLoaderIter")
    get = target(iterator, "_try_get_data")

    @functools.wraps(get)
    def _try_get_data(self, *args, **kwargs):
        try:
            return get(self, *args, **kwargs)
        except RuntimeError as error:
            if (found := explain_death(error, self._workers)) is None:
                raise
            raise InputError(found) from error

    iterator._try_get_data = _try_get_data


MEANINGS = {
    signal.SIGKILL: "most likely the system ran out of memory and ended it{memory}: lower num_workers, the batch size "
    "or prefetch_factor, or give the job more memory",
    signal.SIGBUS: "most likely the shared memory is full{shared}: lower num_workers or the batch size, or enlarge it "
    "(in Docker: --shm-size=8g, or --ipc=host)",
    signal.SIGSEGV: "a library that it used has crashed: num_workers=0 shows where; try other versions of it",
    signal.SIGTERM: "somebody ended it",
}
_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal|exited unexpectedly|.*Bus error)"
)


def explain_death(error: BaseException, workers: Any = None) -> str | None:
    """In words, that a data worker has died and why; None if `error` is not torch's of that.

    Args:
        error: what torch raised.
        workers: the processes of the loader, in the order of their numbers; None where they are not known.
    """
    found = _DIED.search(str(error))
    if found is None:
        return None
    pid = int(found[1].split(",")[0])
    index = next((i for i, worker in enumerate(workers or ()) if worker.pid == pid), None)
    which = f"data worker {index} of {len(workers)} (process {pid})" if index is not None else f"data worker {pid}"
    named = re.search(r"killed by signal: (.+?)\. ", f"{error} {error.__cause__} ")
    code = None if index is None else workers[index].exitcode
    number = -code if code is not None and code < 0 else _by_name(named[1]) if named else None
    if number is None:
        status = f" with status {code}" if code else ""
        return f"{which} has ended by itself{status}: what it printed says why, or a library in it called exit"
    meaning = MEANINGS.get(number, "see the system's log").format(memory=_memory(), shared=_shared_memory())
    return f"{which} was killed by {signal.Signals(number).name}: {meaning}"


def _by_name(words: str) -> int | None:
    """A signal's number by the words that the C library has for it."""
    return next((number for number in signal.valid_signals() if signal.strsignal(number) == words), None)


def _memory() -> str:
    """How much is free, and how often this container was out of it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = int(re.search(r"MemAvailable:\s+(\d+)", file.read())[1]) / 2**20
        words = f" ({free:.1f} GiB are free now"
        with open("/sys/fs/cgroup/memory.events", encoding="ascii") as file:
            kills = int(re.search(r"oom_kill (\d+)", file.read())[1])
        return f"{words}; {kills} processes of this container were ended for that)"
    except (OSError, TypeError):  # another system, or no container
        return f"{words})" if "words" in locals() else ""


def _shared_memory() -> str:
    if not os.path.isdir("/dev/shm"):
        return ""
    usage = shutil.disk_usage("/dev/shm")
    return f" ({usage.free / 2**30:.2f} of {usage.total / 2**30:.2f} GiB of /dev/shm are free now)"
