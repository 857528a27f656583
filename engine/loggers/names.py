"""Loggers by the names of the command line, into a config."""

import difflib
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

from ...errors import InputError
from .base import Logger, need_package
from .mlflow import MLflowLogger
from .tensorboard import TensorboardLogger
from .wandb import WandbLogger

LOGGERS: dict[str, type[Logger]] = {kind.name: kind for kind in (WandbLogger, TensorboardLogger, MLflowLogger)}
# mmengine's own of the same service, which a config may name: where --log asks for ours, it takes their place.
MMENGINES = {"WandbVisBackend": "wandb", "TensorboardVisBackend": "tensorboard", "MLflowVisBackend": "mlflow"}
OURS = {kind.__name__: name for name, kind in LOGGERS.items()}


def _kind(backend: Any) -> str:
    return str(backend.get("type", "")).split(".")[-1] if isinstance(backend, dict) else type(backend).__name__


def loggers_of(text: str) -> list[str]:
    """`wandb,tensorboard` -> names.

    Raises:
        InputError: there is no such logger; the package of one is not installed.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in LOGGERS:
            near = difflib.get_close_matches(name, LOGGERS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"--log: no logger {name!r}{hint}; there are {', '.join(LOGGERS)}")
        need_package(name, LOGGERS[name].package)
    return names


def add_loggers(cfg: Config, names: Sequence[str] = (), job: str = "train", checkpoints: bool = False) -> list[str]:
    """Put loggers among the config's `vis_backends`, and the hook that feeds them beside its hooks.

    Args:
        cfg: changed in place.
        names: of `LOGGERS`, besides those that the config has.
        job: 'train' or 'test', for all of ours in it.
        checkpoints: whether wandb and MLflow are to keep checkpoints.

    Returns:
        What was done, in words.

    Raises:
        InputError: a package is not installed; checkpoints are asked for and nobody takes them.
    """
    if cfg.get("visualizer") is None:
        if not names:
            return []
        cfg.visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
    backends = list(cfg.visualizer.get("vis_backends") or ())
    for backend in backends:
        if (name := MMENGINES.get(_kind(backend))) is not None:
            need_package(name, LOGGERS[name].package)
    there = {OURS[_kind(backend)] for backend in backends if _kind(backend) in OURS}
    for name in names:
        if name in there:
            continue
        theirs = [backend for backend in backends if MMENGINES.get(_kind(backend)) == name]
        kept = {key: value for key, value in (theirs[0] if theirs else {}).items() if key == "init_kwargs"}
        backends = [backend for backend in backends if backend not in theirs]
        backends.append(dict(type=f"bestiary.{LOGGERS[name].__name__}", **kept))
    ours = [backend for backend in backends if _kind(backend) in OURS and isinstance(backend, dict)]
    if not ours:
        if checkpoints:
            raise InputError("--log-checkpoints: name the logger that keeps them, as --log wandb or --log mlflow")
        return []
    takers = [backend for backend in ours if OURS[_kind(backend)] != "tensorboard"]
    if checkpoints and not takers:
        raise InputError("--log-checkpoints: tensorboard keeps no checkpoints; wandb and mlflow do")
    for backend in ours:
        backend["job"] = job
    for backend in takers if checkpoints else ():
        backend["checkpoints"] = True
    cfg.visualizer.vis_backends = backends
    hooks = list(cfg.get("custom_hooks") or ())
    if not any(_kind(hook) == "LoggersHook" for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type="bestiary.LoggersHook")]
    return [f"logged by {', '.join(OURS[_kind(backend)] for backend in ours)}"]
