"""`torchrun --max-restarts` on current PyTorch: the ranks of an attempt must not read what those before them have left.

With the c10d rendezvous torchrun keeps one store for all attempts. The addresses that dead ranks wrote there are found
by the ranks that come after them, which then wait for one another until the time-out.
"""

import functools
import os
import secrets
import time
from datetime import timedelta
from types import ModuleType
from typing import Any

from .imports import after_import, replace, target

PATIENCE = timedelta(minutes=15)  # for the slowest rank of a job to come
_attempts: list[int] = []


def attempt() -> int:
    """How often this job was begun before, as its first rank counts it; 0 without torchrun."""
    return _attempts[-1] if _attempts else 0


@after_import("mmengine.dist.utils")
def attempts_meet_afresh(module: ModuleType) -> None:
    """Each attempt of a torchrun job has a part of the store for itself."""
    init = target(module, "_init_dist_pytorch")

    @functools.wraps(init)
    def _init_dist_pytorch(backend: str, **kwargs: Any) -> None:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not {"store", "init_method"} & kwargs.keys():
            from torch.distributed import PrefixStore, rendezvous

            store, rank, world_size = next(rendezvous("env://", timeout=PATIENCE))
            prefix = agree(store, rank, world_size)
            kwargs.update(store=PrefixStore(prefix, store), rank=rank, world_size=world_size)
        init(backend, **kwargs)

    replace(module, "_init_dist_pytorch", _init_dist_pytorch)


def agree(store: Any, rank: int, world_size: int) -> str:
    """A name that all living ranks know and no earlier attempt has used.

    The first rank makes it. Each other says hello by a word of its own, under which it then finds the name; words that
    dead ranks have left are answered, too, and read by nobody.
    """
    if rank != 0:
        word = secrets.token_hex(8)
        store.set(f"bestiary/hello/{rank}", word)
        store.wait([f"bestiary/welcome/{word}"], PATIENCE)
        name = store.get(f"bestiary/welcome/{word}").decode()
        store.set(f"{name}/joined/{rank}", "")
    else:
        name = f"bestiary/attempt/{store.add('bestiary/attempts', 1)}"
        missing, answered, end = set(range(1, world_size)), set(), time.monotonic() + PATIENCE.total_seconds()
        while missing:
            for other in sorted(missing):
                if store.check([f"{name}/joined/{other}"]):
                    missing.discard(other)
                elif store.check([f"bestiary/hello/{other}"]):
                    word = store.get(f"bestiary/hello/{other}").decode()
                    if word not in answered:
                        store.set(f"bestiary/welcome/{word}", name)
                        answered.add(word)
            if missing:
                if time.monotonic() > end:
                    raise TimeoutError(f"ranks {sorted(missing)} of {world_size} did not come within {PATIENCE}")
                time.sleep(0.02)
    _attempts.append(int(name.rpartition("/")[2]) - 1)
    return name
