"""What surrounds a run: ranks, threads, and how errors reach a person."""

import difflib
import errno
import gc
import os
import re
import sys
import time
import traceback
from collections.abc import Callable

import torch
import torch.distributed as dist
from mmengine import registry as root
from mmengine.registry import Registry
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..compat.workers import explain_death
from ..errors import InputError
from ..files import FULL
from .parallel import lifeline
from .parallel.logs import to_rank_log

RANK_VARIABLES = {  # launcher: rank in the job, rank in the machine, processes on the machine
    "pytorch": ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}

NEWS = 5.0  # seconds in which the death of another rank is heard of
LEFT = ("onnection closed by peer", "onnection reset by peer", "gloo", "NCCL", "Broken pipe", "Timed out waiting")
# A folder or file that cannot be written: its place is the person's to choose.
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR} | set(FULL)

PATIENCE = 2.0  # seconds: torchrun ends all processes as soon as one fails, and one of them has something to say


def ranks(launcher: str) -> tuple[int, int, int]:
    """(rank in the job, rank in this machine, processes in this machine), before any process group exists.

    Raises:
        InputError: the process was not started by that launcher.
    """
    if launcher == "none":
        return 0, 0, 1
    names = RANK_VARIABLES[launcher]
    try:
        return int(os.environ[names[0]]), int(os.environ[names[1]]), int(os.environ.get(names[2], "1"))
    except KeyError as error:
        starter = {"pytorch": "torchrun --nproc_per_node=N", "slurm": "srun", "mpi": "mpirun"}[launcher]
        raise InputError(
            f"--launcher {launcher}: the environment has no {error}; start the command with `{starter}`"
        ) from error


def set_threads(launcher: str, threads: int | None = None) -> int:
    """Give this process its share of the machine's cores for CPU work; returns the number of threads.

    Without a launcher PyTorch already takes all cores, or OMP_NUM_THREADS of them. `torchrun` sets OMP_NUM_THREADS=1
    for each of several processes when the variable is not set: right beside GPUs, slow on CPUs alone, so there each
    process gets cores / processes. Data workers keep the one thread that PyTorch gives them.
    """
    _, _, processes = ranks(launcher)
    if threads is not None:
        torch.set_num_threads(threads)
    elif processes > 1 and not torch.cuda.is_available() and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    used = torch.get_num_threads()
    if processes > 1:  # for what is started from here; mmengine would set 1, and warn
        os.environ.setdefault("OMP_NUM_THREADS", str(used))
        os.environ.setdefault("MKL_NUM_THREADS", str(used))
    return used


def run_guarded(command: Callable[[], object], debug: bool = False, what: str = "error") -> int:
    """Run `command`; bad input ends in one message on stderr and status 1, a bug keeps its traceback.

    In a job of many processes the message comes once: from the first process of each machine while they have not met,
    then from whichever fails first. A bug names its rank; a rank that fails because another one died says no more.
    """
    failed = False
    try:
        command()
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:  # sorted below: bad input is explained, all else is raised again
        failed = True
        line, explained = lifeline.current(), explain(error)
        if line is not None and (death := line.news(NEWS if _of_others(error) else 0.0)) is not None:
            to_rank_log(f"this rank ended because of another: {death}\n{traceback.format_exc()}")
            time.sleep(PATIENCE)
            return lifeline.STATUS
        if explained is None or debug:
            if line is None:
                raise
            _name_rank(line, error)
            return 1
        if line is not None:
            line.last_words(explained)
            to_rank_log(f"{what}: {explained}\n{traceback.format_exc()}")
        if _speaks():
            print(f"{what}: {explained}", file=sys.stderr, flush=True)
        else:
            time.sleep(PATIENCE)
        return 1
    finally:
        if not failed:
            lifeline.end()
        if dist.is_available() and dist.is_initialized():
            # What still holds the group (a DDP model in the runner's cycles) would keep gloo's threads beyond it, and
            # one that lets go of a Python tensor while the interpreter ends aborts the process, now and then.
            gc.collect()
            dist.destroy_process_group()


def _name_rank(line: lifeline.Lifeline, error: Exception) -> None:
    """A bug in one rank of several: told to the other ranks, to a person, to the rank's log and to torchrun."""
    line.last_words("".join(traceback.format_exception_only(error)).strip())
    text = f"error in rank {line.rank} of {line.world_size} (pid {os.getpid()}):\n{traceback.format_exc()}"
    print(text, file=sys.stderr, flush=True)
    to_rank_log(text)
    get_error_handler().record_exception(error)


def _of_others(error: Exception) -> bool:
    """Whether an error may come of a rank that left a collective."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in LEFT)


def _speaks() -> bool:
    if dist.is_available() and dist.is_initialized():
        store = dist.distributed_c10d._get_default_store()
        try:
            return store.add("bestiary-error-said", 1) == 1
        except RuntimeError:  # the process that held the store is gone
            return True
    for _, local_rank, _ in RANK_VARIABLES.values():
        if local_rank in os.environ:
            return os.environ[local_rank] == "0"
    return True


def explain(error: BaseException) -> str | None:
    """The message for a person if `error` comes of bad input, None if it may be a bug."""
    if isinstance(error, InputError):
        return _of_worker(str(error))
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = "writing" if error.filename is None else os.fsdecode(error.filename)
        return f"{where}: {error.strerror}; name another place, or mend that one"
    if isinstance(error, AssertionError) and "failed to load image: " in str(error):  # mmcv, where OpenCV gives up
        path = str(error).rpartition("failed to load image: ")[2].strip()
        return f"{path}: cannot be decoded as a picture; replace it, or take it out of the data set"
    if isinstance(error, RuntimeError) and "EADDRINUSE" in str(error):
        return (
            f"the port {os.environ.get('MASTER_PORT', '')} is in use by another process: give another, by MASTER_PORT "
            "or torchrun's --master_port"
        )
    if isinstance(error, RuntimeError) and re.search(r"file </?torch_\w+>", str(error)):
        return f"the shared memory is full: lower num_workers or the batch size, or enlarge it: {_first_line(error)}"
    if isinstance(error, RuntimeError) and (death := explain_death(error)) is not None:
        return death
    if isinstance(error, KeyError) and (found := re.search(r"(\S+) is not in the (\S+)::(.+?) registry", str(error))):
        name, scope, kind = found.groups()
        return f"config: {unknown_type(name, scope, kind)}"
    if isinstance(error, KeyError) and "must contain the key" in str(error):
        return f"config: {error.args[0].splitlines()[0]}"
    if isinstance(error, ModuleNotFoundError | ImportError) and "custom_imports" in _last_config_step(error):
        return f"config: custom_imports: {error}"
    return _refused_arguments(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _of_worker(text: str) -> str:
    """The message alone: a DataLoader's worker hands an error on with the text of its traceback as its message."""
    return text.rpartition(f"{InputError.__module__}.{InputError.__qualname__}: ")[2].strip()


def unknown_type(name: str, scope: str, kind: str) -> str:
    """That no registry of a kind, as 'model', has the name, and the nearest one that it has, in words."""
    kind = kind.removesuffix(" registry")
    names = sorted(set(_all_names(_root_of(kind, scope), scope)))
    near = difflib.get_close_matches(name.strip("'\"").split(".")[-1], [n.split(".")[-1] for n in names], n=1)
    full = [n for n in names if near and n.split(".")[-1] == near[0]]
    hint = f" (did you mean {full[0]!r}?)" if full else ""
    return f"type={name.strip(chr(39))!r} is in no {kind} registry{hint}; scope {scope!r} was asked"


def _root_of(kind: str, scope: str) -> Registry | None:
    """mmengine's registry of a kind; mmdet's and mmseg's children of it may call the kind otherwise."""
    for registry in vars(root).values():
        if isinstance(registry, Registry) and kind in (
            registry.name,
            *(child.name for child in registry.children.values() if child.scope == scope),
        ):
            return registry
    return None


def _all_names(registry: Registry | None, scope: str) -> list[str]:
    """Names in `registry` and below it; those of other scopes than `scope` with the scope before them."""
    if registry is None:
        return []
    registry.import_from_location()
    prefix = "" if registry.scope in (scope, "mmengine") else f"{registry.scope}."
    names = [prefix + name for name in registry.module_dict]
    for child in registry.children.values():
        names += _all_names(child, scope)
    return names


def _last_config_step(error: BaseException) -> str:
    return " ".join(frame.name for frame in traceback.extract_tb(error.__traceback__))


def _refused_arguments(error: BaseException) -> str | None:
    """A class that was built from the config did not take its arguments."""
    if not isinstance(error, TypeError | ValueError | AssertionError):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    building = [i for i, frame in enumerate(frames) if frame.name == "build_from_cfg"]
    if not building:
        return None
    inner = frames[building[-1] + 1 :]
    if isinstance(error, TypeError):  # only the call itself: a TypeError from deeper down may be a bug
        return f"config: {error}" if not inner else None
    if not inner or inner[0].name not in ("__init__", "get_instance", "__call__"):
        return None
    text = str(error) or f"it wants {inner[-1].line.removeprefix('assert ')}"
    return f"config: {_class_of(error)}{text}"


def _class_of(error: BaseException) -> str:
    """'FPN: ', from the frame of the constructor in which `error` was raised; empty if the text names it."""
    step, owner = error.__traceback__, None
    while step is not None:
        if step.tb_frame.f_code.co_name == "__init__" and "self" in step.tb_frame.f_locals:
            owner = type(step.tb_frame.f_locals["self"]).__name__
        step = step.tb_next
    return "" if owner is None or str(error).startswith(owner) else f"{owner}: "
