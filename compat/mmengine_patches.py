"""mmengine 0.10 on current PyTorch, current setuptools, and machines without a GPU. Each function mends one thing."""

import contextlib
import functools
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from ..errors import InputError
from ..files import whole_file
from .imports import after_import, replace, target

# --- packages and configs ---------------------------------------------------------------------------------------------


@after_import("mmengine.utils.package_utils")
def packages_without_pkg_resources(module: ModuleType) -> None:
    """`_base_ = 'mmdet::...'` and `mmengine.hub` ask pkg_resources, which setuptools 82 no longer brings."""
    replace(module, "is_installed", is_installed)
    replace(module, "get_installed_path", get_installed_path)
    replace(module, "package2module", package2module)


def is_installed(package: str) -> bool:
    """Whether `package`, a distribution or else a module, is installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(package)
    except PackageNotFoundError:
        return _folder(package) is not None
    return True


def get_installed_path(package: str) -> str:
    """The folder of the module that the distribution `package` brings ('mmsegmentation': '.../mmseg').

    Raises:
        importlib.metadata.PackageNotFoundError: neither a distribution nor a module of that name.
    """
    folder = _folder(package) or _folder(package2module(package))
    if folder is None:
        raise RuntimeError(f"{package} is installed, but its module {package2module(package)!r} cannot be found")
    return folder


def package2module(package: str) -> str:
    """The first module that the distribution `package` brings ('mmsegmentation': 'mmseg')."""
    from importlib.metadata import distribution

    top_level = (distribution(package).read_text("top_level.txt") or "").split()
    return top_level[0] if top_level else package.replace("-", "_")


def _folder(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    return os.path.dirname(spec.origin) if spec is not None and spec.origin else None


@after_import("mmengine.config.utils")
def frozen_modules_are_builtin(module: ModuleType) -> None:
    """A lazy config that imports os or another module frozen into Python 3.11+ ends in a bare RuntimeError.

    mmengine knows the standard library by its files; frozen modules have none.
    """
    by_file = target(module, "_is_builtin_module")

    @functools.wraps(by_file)
    def _is_builtin_module(module_name: str) -> bool:
        return module_name.partition(".")[0] in sys.stdlib_module_names or by_file(module_name)

    replace(module, "_is_builtin_module", _is_builtin_module)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@after_import("mmengine.runner.checkpoint")
def checkpoints_load_safely(module: ModuleType) -> None:
    """torch.load unpickles only what is known to be safe, and mmengine's checkpoints hold more than tensors.

    The classes are named to torch; `weights_only` stays as it is, so a file with anything else in it is still refused.
    """
    import torch

    torch.serialization.add_safe_globals(checkpoint_globals())


def checkpoint_globals() -> list[Any]:
    """What mmengine's checkpoints hold beside tensors, for `torch.serialization.add_safe_globals`.

    The message hub's HistoryBuffers, the numbers and arrays of NumPy in them (under the module names of NumPy 1 and 2),
    and `getattr`, by which the methods of HistoryBuffer are written; under its name a function that gives only these.
    """
    import numpy
    from mmengine.logging.history_buffer import HistoryBuffer

    def history_buffer_getattr(owner: Any, name: str) -> Any:
        if owner is HistoryBuffer and name in ("mean", "max", "min", "current"):
            return getattr(HistoryBuffer, name)
        raise InputError(
            f"the checkpoint asks for getattr({owner!r}, {name!r}), which no checkpoint of mmengine's needs: "
            "it was not loaded; get it from a source that you trust"
        )

    core = numpy._core.multiarray
    dtypes = (getattr(numpy.dtypes, name) for name in numpy.dtypes.__all__)
    return [
        HistoryBuffer,
        (history_buffer_getattr, "builtins.getattr"),
        numpy.ndarray,
        numpy.dtype,
        *(dtype for dtype in dtypes if dtype is not numpy.dtypes.ObjectDType),
        *((core._reconstruct, f"numpy.{name}.multiarray._reconstruct") for name in ("_core", "core")),
        *((core.scalar, f"numpy.{name}.multiarray.scalar") for name in ("_core", "core")),
    ]


@after_import("mmengine.runner.checkpoint")
def checkpoint_text_is_not_run(module: ModuleType) -> None:
    """Resuming executes the text `meta['config']` of the checkpoint, as a config is Python.

    It is read for one warning, about `gpu_ids` of mmcv 1 times; mmengine itself writes `meta['cfg']`. So it is dropped.
    """
    load = target(module, "_load_checkpoint")

    @functools.wraps(load)
    def _load_checkpoint(*args, **kwargs):
        checkpoint = load(*args, **kwargs)
        meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict) and meta.pop("config", None) is not None:
            _log("the checkpoint's meta['config'] is Python code; it was dropped, not run")
        return checkpoint

    replace(module, "_load_checkpoint", _load_checkpoint)


@after_import("mmengine.runner.checkpoint")
def checkpoints_are_whole(module: ModuleType) -> None:
    """A checkpoint is written in place: a process that is killed meanwhile leaves half of one under its name."""
    save = target(module, "save_checkpoint")

    @functools.wraps(save)
    def save_checkpoint(checkpoint, filename, file_client_args=None, backend_args=None):
        if file_client_args is not None or backend_args is not None or "://" in str(filename):
            return save(checkpoint, filename, file_client_args, backend_args)
        import torch

        os.makedirs(os.path.dirname(os.path.abspath(filename)), exist_ok=True)
        with whole_file(filename) as file:
            torch.save(checkpoint, file)

    replace(module, "save_checkpoint", save_checkpoint)


@after_import("mmengine.fileio.backends.local_backend")
def local_files_are_whole(module: ModuleType) -> None:
    """The same for what `mmengine.dump` and the like write to a disk."""
    backend = target(module, "LocalBackend")

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        os.makedirs(os.path.dirname(os.path.abspath(filepath)), exist_ok=True)
        with whole_file(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = "utf-8") -> None:
        self.put(obj.encode(encoding), filepath)

    for name, method in ("put", put), ("put_text", put_text):
        functools.update_wrapper(method, target(backend, name))
        setattr(backend, name, method)


# --- distributed training without a GPU -------------------------------------------------------------------------------


@after_import("mmengine.dist.utils")
def launchers_without_cuda(module: ModuleType) -> None:
    """Every launcher sets a CUDA device, and every config says backend='nccl': both fail where there is no GPU.

    There gloo takes the place of nccl, and no device is set; RANK, WORLD_SIZE, LOCAL_RANK and so on are read as ever.
    """
    for name in ("_init_dist_pytorch", "_init_dist_mpi", "_init_dist_slurm"):
        replace(module, name, _on_gloo(target(module, name)))


def _on_gloo(init):
    @functools.wraps(init)
    def init_on_gloo(backend: str, **kwargs) -> None:
        if _has_accelerator():
            return init(backend, **kwargs)
        with _no_cuda_device_to_set():
            init("gloo" if backend == "nccl" else backend, **kwargs)
        if backend == "nccl":  # said now that mmengine knows the ranks: one process says it
            _log("no GPU on this machine: the process group runs on gloo instead of nccl")

    return init_on_gloo


def _has_accelerator() -> bool:
    from mmengine.device import get_device

    return get_device() not in ("cpu", "mps")  # mps has no collectives: gloo, too


@contextlib.contextmanager
def _no_cuda_device_to_set():
    import torch

    set_device, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = set_device


@after_import("mmengine.model.wrappers.distributed")
def ddp_on_cpu(module: ModuleType) -> None:
    """Runner and DDPStrategy hand every model wrapper a CUDA device, and SyncBatchNorm takes CUDA tensors only.

    A model on the CPU is wrapped without device ids, and its SyncBatchNorm layers become BatchNorm, as mmengine itself
    does where training is not distributed; a line in the log says so, for statistics are then a process's own.
    """
    wrapper = target(module, "MMDistributedDataParallel")
    init = wrapper.__init__

    @functools.wraps(init)
    def __init__(self, module, *args, **kwargs):
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs.pop("device_ids", None)
            module = batch_norm_for_cpu(module)
        init(self, module, *args, **kwargs)

    wrapper.__init__ = __init__


def batch_norm_for_cpu(model):
    """The model with BatchNorm in the place of SyncBatchNorm, and a line in the log if there was any."""
    import torch
    from mmengine.model import revert_sync_batchnorm

    # mmcv's own class counts as well, but can only be there if somebody imported it.
    kinds = [torch.nn.SyncBatchNorm]
    if mmcv_sync_bn := sys.modules.get("mmcv.ops.sync_bn"):
        kinds.append(mmcv_sync_bn.SyncBatchNorm)
    count = sum(isinstance(layer, tuple(kinds)) for layer in model.modules())
    if not count:
        return model
    _log(f"{count} SyncBatchNorm layers became BatchNorm: on CPUs statistics are not shared between processes")
    return revert_sync_batchnorm(model)


# --- mixed precision without a GPU ------------------------------------------------------------------------------------


@after_import("mmengine.optim.optimizer.amp_optimizer_wrapper")
def amp_on_cpu(module: ModuleType) -> None:
    """AmpOptimWrapper asserts an accelerator; CPUs autocast well to bfloat16, which needs no scaled loss.

    So on a machine without a GPU `dtype` None or bfloat16 trains so, whatever `loss_scale` says; float16 is refused.
    """
    wrapper = target(module, "AmpOptimWrapper")
    init, state_dict = wrapper.__init__, target(wrapper, "state_dict")

    @functools.wraps(init)
    def __init__(self, loss_scale="dynamic", dtype=None, use_fsdp=False, **kwargs):
        if _has_accelerator():
            return init(self, loss_scale, dtype, use_fsdp, **kwargs)
        import torch

        if dtype not in (None, "bfloat16", torch.bfloat16):
            raise InputError(
                f"AmpOptimWrapper: dtype {str(dtype).removeprefix('torch.')!r} does not train on a CPU; "
                "leave optim_wrapper.dtype out, or set it to 'bfloat16', or take type='OptimWrapper' for float32"
            )
        super(wrapper, self).__init__(**kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.cast_dtype = torch.bfloat16

    @functools.wraps(state_dict)
    def without_empty_scaler(self) -> dict:
        state = state_dict(self)  # a scaler that is switched off gives {}, which one that is on refuses to load
        if not state["loss_scaler"]:
            del state["loss_scaler"]
        return state

    wrapper.__init__, wrapper.state_dict = __init__, without_empty_scaler


def _log(message: str) -> None:
    import logging

    from mmengine.logging import print_log

    print_log(f"bestiary.compat: {message}", logger="current", level=logging.WARNING)
