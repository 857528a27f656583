"""Weights out of a file: whatever its form, and never unpickled freely."""

import errno
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint  # its import names to torch what checkpoints may hold
from torch import Tensor

from ..errors import InputError
from ..registry import MODELS

SHOWN = 4  # names in a message
HUB = "hf-hub:"


def is_address(name: str) -> bool:
    """Whether a checkpoint's name is not a path: `https://...`, `timm://...`, `hf-hub:owner/name`."""
    return "://" in name or name.startswith(HUB)


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """A checkpoint as a dict with `state_dict`, and `meta` and so on where the file has them.

    Takes mmengine's files, plain state dicts, `{'model': state dict}`, `.safetensors`, our `timm://` and `hf-hub:`, and
    the addresses that mmengine takes (`https://`, `torchvision://`). Text in the file that mmengine would run as a
    config is dropped.

    Args:
        path: of a file, or an address.
        map_location: where its tensors go, as `torch.load` has it.
        mmap: leave the tensors in the file until they are used: quick where only the rest is wanted.

    Raises:
        InputError: no such file or address; not a checkpoint; a pickle that holds more than weights and plain data.
    """
    name = str(path)
    if is_address(name):
        return _with_state_dict(_fetch(name, map_location), name)
    need_checkpoint(name)
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        return {"state_dict": _read_safetensors(path, map_location)}
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{name}: the file asks for {found[1]!r}, which no checkpoint of weights needs: it was not loaded"
            ) from error
        raise InputError(f"{name}: not a checkpoint that torch.load can read; give another file") from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, IndexError, OSError) as error:
        if isinstance(error, InputError):  # of a global that `compat` refuses
            raise InputError(f"{name}: {error}") from error
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which torch gives for some cut places
            raise
        raise InputError(
            f"{name}: not a checkpoint, or one that was cut off ({path.stat().st_size} bytes): give another file"
        ) from error
    return _with_state_dict(loaded, name)


def need_checkpoint(name: str) -> None:
    """Ask that a checkpoint given by path is a file with something in it; addresses pass.

    Raises:
        InputError: it is not; the message has what lies beside it.
    """
    path = Path(name).expanduser()
    if is_address(name):
        return
    if not path.exists():
        raise InputError(f"{name}: no such checkpoint{_beside(path)}")
    if path.is_dir():
        sharded = ": make one file of it by `bestiary merge`" if (path / "manifest.json").is_file() else _inside(path)
        raise InputError(f"{name}: a folder, not a checkpoint{sharded}")
    if not path.stat().st_size:
        raise InputError(f"{name}: not a checkpoint: the file is empty; give another file")


def _fetch(address: str, map_location: Any) -> Any:
    MODELS.import_from_location()  # so that our schemes are known, though nothing may have been built from a config yet
    try:
        return mmengine_checkpoint._load_checkpoint(address, map_location=map_location)
    except FileNotFoundError as error:  # mmengine takes an address of unknown scheme for a path
        raise InputError(
            f"{address}: nothing is there, or no reader for {address.partition('://')[0]}:// is known; "
            "give the path of a local file, or an address of https://, timm:// or hf-hub:"
        ) from error
    except OSError as error:
        raise InputError(
            f"{address}: could not be fetched: {_first_line(error)}; give the path of a local file"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_safetensors(path: str | Path, map_location: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(map_location) if isinstance(map_location, str | torch.device) else "cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file, or one that was cut off: {error}; give another") from error


def _with_state_dict(loaded: Any, name: str) -> dict[str, Any]:
    if not isinstance(loaded, Mapping):
        raise InputError(f"{name}: it holds a {type(loaded).__name__}, expected a checkpoint: a dict of named tensors")
    checkpoint = dict(loaded)
    if isinstance(meta := checkpoint.get("meta"), dict):
        meta.pop("config", None)
    if "state_dict" not in checkpoint:
        inner = checkpoint.get("model")
        checkpoint = {"state_dict": inner if isinstance(inner, Mapping) else loaded}
    weights = checkpoint["state_dict"]
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        keys = f"its keys are {', '.join(map(str, list(loaded)[:SHOWN]))}" if loaded else "it is an empty dict"
        raise InputError(f"{name}: there are no weights in it, {keys}; give a checkpoint")
    return checkpoint


def _beside(path: Path) -> str:
    return _inside(path.parent) if path.parent.is_dir() else f"; there is no folder {path.parent} either"


def _inside(folder: Path) -> str:
    found = sorted(file.name for file in folder.iterdir() if file.suffix in (".pth", ".pt", ".safetensors"))
    where = "this folder" if folder == Path() else str(folder)
    return f"; {where} has {', '.join(found[-SHOWN:])}" if found else f"; {where} has none"
