"""Checkpoints of a sharded model: a folder with a safetensors file a rank, what is no tensor beside them, a manifest.

The folder is written under another name; when every rank's bytes are on the disk, the first rank renames it: a folder
with the name of a checkpoint is whole. torch.distributed.checkpoint reads and writes the tensors, in its form for
safetensors, so that nothing of a tensor is pickled, and a job of another number of ranks can go on from them.
"""

import json
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from ...errors import InputError
from ...files import PART, flush_folder, whole_file, write_text
from ...inputs.check_files import digest

MANIFEST, REST = "manifest.json", "rest.pth"
FORMAT = "bestiary sharded checkpoint"
SUFFIX = ".sharded"  # of the folder's name


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Whether `path` is a folder that `save` has finished."""
    return Path(path).is_dir() and (Path(path) / MANIFEST).is_file()


def save(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, rest: Mapping[str, Any]) -> None:
    """Write a checkpoint; every rank calls it.

    Args:
        path: the folder to make; one of that name is replaced.
        model: sharded.
        optimizer: of its parameters; None leaves it out.
        rest: what is neither, of the first rank: counters, schedulers, random states. Tensors, numbers, text, lists and
            dicts, and what else mmengine's checkpoints hold.

    Raises:
        OSError: a rank could not write; raised in all of them, and a checkpoint of that name is untouched.
    """
    path, rank = Path(path), dist.get_rank()
    rough = path.with_name(path.name + PART)
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(rough, ignore_errors=True)
        rough.mkdir()
    dist.barrier()
    tensors = _of_model(model, rank)
    plain: dict[str, Any] = {}
    if optimizer is not None:
        of_optimizer, plain = _of_optimizer(model, optimizer)
        tensors |= of_optimizer
    try:
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(str(rough), save_distributed=True))
    except CheckpointException as error:  # raised in all ranks; what one of them met is what to tell
        raise next((e for e, _ in error.failures.values() if isinstance(e, OSError)), error) from error
    note: Any = None
    try:
        mine = sorted(rough.glob(f"shard-{rank + 1:05d}-*"))
        if rank == 0:
            with whole_file(rough / REST) as file:
                torch.save({"rest": dict(rest), "optimizer": plain, "world_size": dist.get_world_size()}, file)
            mine.append(rough / REST)
        note = {file.name: _flushed(file) for file in mine}
    except OSError as error:
        note = error
    notes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(notes, note)  # a barrier, too: all bytes are on the disk
    if trouble := next((note for note in notes if isinstance(note, OSError)), None):
        raise trouble
    if rank == 0:
        files = {name: entry for note in notes for name, entry in note.items()}
        manifest = {"format": FORMAT, "version": 1, "ranks": dist.get_world_size(), "files": files}
        write_text(rough / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        flush_folder(rough)
        if path.exists():
            old = path.with_name(f"{path.name}.old{PART}")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            rough.rename(path)
            shutil.rmtree(old)
        else:
            rough.rename(path)
        flush_folder(path.parent)
    dist.barrier()


def load(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Read into a sharded model and its optimizer, in place; returns `rest` of `save`. Every rank calls it.

    Raises:
        InputError: the folder is damaged, or of another model.
    """
    verify(path, together=True)
    path = Path(path)
    reader = dcp.HuggingFaceStorageReader(str(path))
    there = _read_headers(reader)
    saved = read_rest(path)
    rank = dist.get_rank()
    wanted = _of_model(model, rank if saved["world_size"] == dist.get_world_size() else 0)
    _need_same(path, wanted, there)
    by_name = _names(model)
    states: dict[str, dict[str, Tensor]] = {}
    if optimizer is not None:
        for key, entry in there.items():
            if key.startswith("optimizer."):
                _, slot, name = key.split(".", 2)
                states.setdefault(name, {})[slot] = _room(entry, by_name.get(name))
    of_optimizer = {f"optimizer.{slot}.{name}": t for name, slots in states.items() for slot, t in slots.items()}
    dcp.load(wanted | of_optimizer, storage_reader=reader)
    if optimizer is not None:
        _put_optimizer(optimizer, by_name, states, saved["optimizer"])
    return saved["rest"]


def verify(path: str | Path, together: bool = False) -> None:
    """Ask that a folder is a whole checkpoint: every file there, of the size and the SHA-256 that the manifest has.

    Args:
        path: the folder.
        together: all ranks call it, each reads a part of the files, and all learn of what is wrong; else one does all.

    Raises:
        InputError: it is not; the message names the file.
    """
    path = Path(path)
    if together:
        problems = [None] * dist.get_world_size()
        dist.all_gather_object(problems, _problem(path, dist.get_rank(), len(problems)))
    else:
        problems = [_problem(path, 0, 1)]
    if found := next((problem for problem in problems if problem), None):
        raise InputError(f"{path}: damaged: {found}")


def merged(path: str | Path) -> dict[str, Tensor]:
    """The whole weights and buffers of a checkpoint, on the CPU, in this process alone.

    Raises:
        InputError: it is damaged, or no checkpoint of this kind.
    """
    found = all_tensors(path, ("model.", "buffer.0."))
    return {name.removeprefix("model.").removeprefix("buffer.0."): value for name, value in found.items()}


def all_tensors(path: str | Path, kinds: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Whole tensors of a checkpoint by the names that they have in its files, those that begin with one of `kinds`.

    They are `model.NAME`, `buffer.RANK.NAME` and `optimizer.SLOT.NAME`; they are read in this process alone.

    Raises:
        InputError: as `merged`.
    """
    verify(path)
    reader = dcp.HuggingFaceStorageReader(str(path))
    targets = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in _read_headers(reader).items()
        if key.startswith(kinds)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(targets, storage_reader=reader, no_dist=True)
    return targets


def _read_headers(reader: dcp.HuggingFaceStorageReader) -> dict[str, TensorStorageMetadata]:
    """Names, shapes and places of the tensors, out of the safetensors files' own headers."""
    try:
        return reader.read_metadata().state_dict_metadata
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{reader.path}: a file of it is no shard of a checkpoint: {error}") from error


def read_rest(path: Path) -> dict[str, Any]:
    """What is no tensor of the model: never unpickled freely."""
    try:
        return torch.load(path / REST, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it asks for {found[1]!r}, which no checkpoint needs" if found else "it cannot be read"
        raise InputError(f"{path / REST}: {why}: it was not loaded") from error


def _names(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


def _of_model(model: nn.Module, rank: int) -> dict[str, Tensor]:
    """The model's tensors, each under the name that it has in a folder; buffers are every rank's own."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in _names(model).items()}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                tensors[f"buffer.{rank}.{prefix}.{name}" if prefix else f"buffer.{rank}.{name}"] = buffer
    return tensors


def _of_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors of the state by name, what is none: the groups and other entries)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{slot}.{names[parameter]}"] = value
            else:
                others.setdefault(names[parameter], {})[slot] = value
    groups = [
        {**group, "params": [names[parameter] for parameter in group["params"]]} for group in optimizer.param_groups
    ]
    return tensors, {"groups": groups, "others": others}


def _put_optimizer(
    optimizer: torch.optim.Optimizer,
    by_name: Mapping[str, nn.Parameter],
    states: Mapping[str, Mapping[str, Tensor]],
    saved: Mapping[str, Any],
) -> None:
    names = {parameter: name for name, parameter in by_name.items()}
    mine = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    theirs = [[name for name in group["params"]] for group in saved["groups"]]
    if [sorted(map(str, group)) for group in mine] != [sorted(map(str, group)) for group in theirs]:
        raise InputError(
            f"the checkpoint's optimizer has {len(theirs)} groups of {', '.join(str(len(group)) for group in theirs)} "
            f"parameters, this run's {len(mine)} of {', '.join(str(len(group)) for group in mine)}: give the config "
            "that it was trained with, or start from its weights with --load-from"
        )
    optimizer.state.clear()
    for name in {**states, **saved["others"]}:
        optimizer.state[by_name[name]] = {**saved["others"].get(name, {}), **states.get(name, {})}
    for group, entries in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({key: value for key, value in entries.items() if key != "params"})


def _room(entry: TensorStorageMetadata, parameter: nn.Parameter | None) -> Tensor:
    """A tensor to read into, spread as the parameter is if it has the parameter's shape."""
    if isinstance(parameter, DTensor) and entry.size == parameter.shape:
        return torch.empty_like(parameter, dtype=entry.properties.dtype, requires_grad=False)
    return torch.empty(entry.size, dtype=entry.properties.dtype)  # a counter: optimizers keep these on the CPU


def _need_same(path: Path, wanted: Mapping[str, Tensor], there: Mapping[str, TensorStorageMetadata]) -> None:
    saved = {name for name in there if name.startswith(("model.", "buffer.0."))}
    names = {f"buffer.0.{name.split('.', 2)[2]}" if name.startswith("buffer.") else name for name in wanted}
    problems = [f"missing {name.split('.', 1)[1]}" for name in sorted(names - saved)]
    problems += [f"unexpected {name.split('.', 1)[1]}" for name in sorted(saved - names)]
    problems += [
        f"{name.split('.', 1)[1]} {list(there[name].size)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in there and there[name].size != tensor.shape
    ]
    if problems:
        shown = ", ".join(problems[:4]) + (", ..." if len(problems) > 4 else "")
        raise InputError(f"{path}: a checkpoint of another model or another config: {len(problems)} misfits: {shown}")


def _problem(path: Path, rank: int, ranks: int) -> str | None:
    """What is wrong with the files that are this rank's to read."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"{MANIFEST} is of another kind of folder"
        files = sorted(manifest["files"].items())
        listed = {name for name, _ in files if name != REST}
        if listed != {file.name for file in path.glob("*.safetensors")}:
            return f"its safetensors files are not those of {MANIFEST}"
        for name, note in files[rank::ranks]:
            file = path / Path(name).name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != note["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {note['bytes']}: it was cut off"
            if digest(file) != note["sha256"]:
                return f"{name} is damaged: its SHA-256 is not that of {MANIFEST}"
    except FileNotFoundError:
        return f"no sharded checkpoint: there is no {MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} does not parse: {error!r}"
    return None


def _flushed(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file whose bytes are on the disk now."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest(file)}
