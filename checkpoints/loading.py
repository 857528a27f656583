"""Weights out of a file and into a model: never unpickled freely, and nothing is skipped in silence."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint  # its import names to torch what checkpoints may hold
from torch import Tensor, nn

from ..errors import InputError

SHOWN = 4  # names in a message


@dataclass
class LoadReport:
    """How the keys of a file fitted a model: all empty if every one did."""

    missing: list[str] = field(default_factory=list)  # in the model, not in the file
    unexpected: list[str] = field(default_factory=list)  # in the file, not in the model
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=dict
    )  # shape in file, in model

    def __bool__(self) -> bool:
        """Whether something did not fit."""
        return bool(self.missing or self.unexpected or self.misshaped)

    def words(self) -> str:
        """The counts and the first names, in one line."""
        shapes = [
            f"{name} {list(got)} in the file, {list(want)} in the model" for name, (got, want) in self.misshaped.items()
        ]
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
            for kind, names in (("mis-shaped", shapes), ("missing", self.missing), ("unexpected", self.unexpected))
            if names
        ]
        return "; ".join(parts)

    def class_counts_differ(self) -> bool:
        """Whether all that does not fit are shapes that differ in their first number alone, as heads' do."""
        shapes = self.misshaped.values()
        return bool(shapes) and not self.missing and not self.unexpected and all(a[1:] == b[1:] for a, b in shapes)


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint as a dict with `state_dict`, and `meta` and so on where the file has them.

    Takes mmengine's files, plain state dicts, `{'model': state dict}`, `.safetensors`, and the addresses that mmengine
    takes (`https://`, `torchvision://`). Text in the file that mmengine would run as a config is dropped.

    Raises:
        InputError: no such file; not a checkpoint; a pickle that holds more than weights and plain data.
    """
    name = str(path)
    if "://" in name:
        return _with_state_dict(mmengine_checkpoint._load_checkpoint(name, map_location=map_location), name)
    if not Path(path).exists():
        raise InputError(f"{name}: no such checkpoint{_beside(Path(path))}")
    if Path(path).is_dir():
        raise InputError(f"{name}: a folder, not a checkpoint{_inside(Path(path))}")
    if Path(path).suffix == ".safetensors":
        return {"state_dict": _read_safetensors(path, map_location)}
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{name}: the file asks for {found[1]!r}, which no checkpoint of weights needs: it was not loaded"
            ) from error
        raise InputError(f"{name}: not a checkpoint that torch.load can read") from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, UnicodeDecodeError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: not a checkpoint, or one that was cut off: {_first_line(error)}") from error
    return _with_state_dict(loaded, name)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_safetensors(path: str | Path, map_location: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(map_location) if isinstance(map_location, str | torch.device) else "cpu")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from error


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
        raise InputError(
            f"{name}: there are no weights in it; its keys are {', '.join(map(str, list(loaded)[:SHOWN]))}"
        )
    return checkpoint


def _beside(path: Path) -> str:
    return _inside(path.parent) if path.parent.is_dir() else f"; there is no folder {path.parent} either"


def _inside(folder: Path) -> str:
    found = sorted(file.name for file in folder.iterdir() if file.suffix in (".pth", ".pt", ".safetensors"))
    return f"; {folder} has {', '.join(found[-SHOWN:])}" if found else f"; {folder} has none"


def compare_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> LoadReport:
    """Names and shapes of a state dict against those of `model`."""
    own = model.state_dict()
    return LoadReport(
        missing=[name for name in own if name not in weights],
        unexpected=[name for name in weights if name not in own],
        misshaped={
            name: (tuple(weights[name].shape), tuple(tensor.shape))
            for name, tensor in own.items()
            if name in weights and isinstance(tensor, Tensor) and weights[name].shape != tensor.shape
        },
    )


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str, strict: bool = True) -> LoadReport:
    """Copy a state dict into `model`, in place; a leading `module.` of DistributedDataParallel is taken off.

    Args:
        model: what receives the weights.
        weights: name: tensor.
        name: of the file, for messages.
        strict: every key must fit; otherwise those that fit are copied and the rest is in the report.

    Raises:
        InputError: strict, and a key is missing, unexpected or mis-shaped; or nothing at all fits.
    """
    weights = OrderedDict((key.removeprefix("module."), value) for key, value in weights.items())
    report = compare_weights(model, weights)
    fitting = {
        key: value for key, value in weights.items() if key not in report.unexpected and key not in report.misshaped
    }
    who = type(model).__name__
    if not fitting:
        raise InputError(f"{name}: a checkpoint of another model: no key of it fits this {who}: {report.words()}")
    if strict and report:
        why = "the class counts differ" if report.class_counts_differ() else "it is of another model or another config"
        raise InputError(
            f"{name}: does not fit this {who} ({why}): {report.words()}. Give the config that it was trained with; "
            "to start training from the part that fits, `bestiary train --load-partial`"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> tuple[LoadReport, dict[str, Any]]:
    """Read `path` into `model`; returns how the keys fitted, and the file's `meta` (empty where it has none).

    Raises:
        InputError: see `read_checkpoint` and `put_weights`.
    """
    checkpoint = read_checkpoint(path)
    return put_weights(model, checkpoint["state_dict"], str(path), strict), checkpoint.get("meta") or {}
