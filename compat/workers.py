"""Worker processes of a DataLoader that are started afresh (`spawn`, `forkserver`) rather than forked."""

import functools
from types import ModuleType

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
