"""Hostile files: each is shown to work against the bare library, and to do nothing here.

A canary tells: a folder that the planted code would make, or a file that an archive would write outside of its folder.
"""

import contextlib
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mmengine
import numpy as np
import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, registry

from bestiary.backbones.reading import read_checkpoint
from bestiary.engine.configs import load_config
from bestiary.inputs.unpack import unpack


class Attack(NamedTuple):
    """`plant` writes the file; `bare` and `ours` read it, both given its path."""

    name: str
    plant: Callable[[Path, Path], Path]
    bare: Callable[[Path], object]
    ours: Callable[[Path], object]


class Result(NamedTuple):
    """Whether the attack reached its canary by the bare library and by ours, and what ours said."""

    name: str
    bare: bool
    ours: bool
    said: str


class _Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def _code(canary: Path) -> str:
    return f"__import__('os').mkdir({str(canary)!r})"


def _checkpoint(folder: Path, canary: Path) -> Path:
    path = folder / "evil.pth"
    torch.save({"state_dict": {"w": torch.zeros(2)}, "extra": _Calls(os.mkdir, str(canary))}, path)
    return path


def _cached(folder: Path, canary: Path) -> Path:
    """A download that is in torch's cache already."""
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    return _checkpoint(folder / "hub" / "checkpoints", canary)


def _checkpoint_with_text(folder: Path, canary: Path) -> Path:
    path, text = folder / "text.pth", f"x = {_code(canary)}"
    hub = {"runtime_info": {"cfg": text}}
    torch.save({"state_dict": {"w": torch.zeros(2)}, "meta": {"config": text, "cfg": text}, "message_hub": hub}, path)
    return path


def _pickled(folder: Path, canary: Path) -> Path:
    path = folder / "evil.pkl"
    path.write_bytes(pickle.dumps({"results": _Calls(os.mkdir, str(canary))}))
    return path


def _pickled_twice(folder: Path, canary: Path) -> Path:
    """In the bytes of a tensor's storage, which torch unpickles by itself."""
    inner = io.BytesIO()
    torch.save(_Calls(os.mkdir, str(canary)), inner)
    path = folder / "evil.pkl"
    path.write_bytes(pickle.dumps(_Calls(torch.storage._load_from_bytes, inner.getvalue())))
    return path


def _tagged(folder: Path, canary: Path) -> Path:
    path = folder / "evil.yaml"
    path.write_text(f"a: !!python/object/apply:os.mkdir [{str(canary)!r}]\n", encoding="utf-8")
    return path


def _objects(folder: Path, canary: Path) -> Path:
    path = folder / "evil.npy"
    np.save(path, np.array([_Calls(os.mkdir, str(canary))], dtype=object), allow_pickle=True)
    return path


def _tar(*members: tuple[str, bytes | str, bytes]) -> Callable[[Path, Path], Path]:
    """(name, content or target of a link, kind); `CANARY` stands for the canary's name beside the folder."""

    def plant(folder: Path, canary: Path) -> Path:
        path = folder / "evil.tar"
        with tarfile.open(path, "w") as tar:
            for name, what, kind in members:
                info = tarfile.TarInfo(name.replace("CANARY", canary.name))
                info.type = kind
                if isinstance(what, str):
                    info.linkname = what.replace("CANARY", canary.name)
                    tar.addfile(info)
                else:
                    info.size = len(what)
                    tar.addfile(info, io.BytesIO(what))
        return path

    return plant


def _bomb(folder: Path, canary: Path) -> Path:
    path = folder / "evil.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open(f"{canary.name}", "w") as file:
        for _ in range(96):
            file.write(bytes(2**20))
    return path


def _unpack_bare(path: Path) -> None:
    (path.parent / "out").mkdir()
    with tarfile.open(path) as tar:
        tar.extractall(path.parent / "out", filter="fully_trusted")


def _unpack_bomb(path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        packed.extractall(path.parent)  # where the canary is looked for


def _unpack_links(path: Path) -> None:
    """As a shell's tar does with -P: a file is written to where the link of its name leads."""
    with tarfile.open(path) as tar:
        for member in tar:
            target = path.parent / "out" / member.name
            if member.isfile():
                target.write_bytes(tar.extractfile(member).read())
            else:
                tar.extract(member, path.parent / "out", filter="fully_trusted")


def _config(text: str, base: str = "") -> Callable[[Path, Path], Path]:
    def plant(folder: Path, canary: Path) -> Path:
        (folder / "base.py").write_text(base.replace("CODE", _code(canary)), encoding="utf-8")
        (folder / "planted.py").write_text(_code(canary), encoding="utf-8")
        path = folder / "evil.py"
        path.write_text(text.replace("CODE", _code(canary)).replace("CANARY", str(canary)), encoding="utf-8")
        return path

    return plant


def _import_beside(path: Path) -> None:
    import sys

    sys.path.insert(0, str(path.parent))
    try:
        Config.fromfile(path)
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("planted", None)


def _build_hook(cfg: Config) -> None:
    HOOKS.build(cfg.custom_hooks[0])


def _text(folder: Path, canary: Path) -> Path:
    path = folder / "evil.txt"
    path.write_text(_code(canary), encoding="utf-8")
    return path


def _nms(path: Path, bare: bool) -> None:
    from mmcv.ops.nms import batched_nms

    run = batched_nms.__wrapped__ if bare else batched_nms
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    run(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64), dict(type=path.read_text(), iou_threshold=0.5))


def _warp_mode(path: Path, bare: bool) -> None:
    from mmdet.models.task_modules.tracking import CameraMotionCompensation as Part

    (Part.__init__.__wrapped__ if bare else Part.__init__)(SimpleNamespace(), path.read_text())


def _search(path: Path, bare: bool) -> None:
    from mmcv.cnn.rfsearch.search import RFSearchHook as Hook

    hook = SimpleNamespace(config=dict(search=dict(skip_layer=None)), verbose=False)
    run = Hook.wrap_model.__wrapped__ if bare else Hook.wrap_model
    run(hook, torch.nn.Sequential(torch.nn.ReLU()), f"Conv2d if {path.read_text()} else None")


def _inferencer(path: Path, bare: bool) -> None:
    from mmengine.infer import BaseInferencer

    init = BaseInferencer._init_model
    (init.__wrapped__ if bare else init)(SimpleNamespace(), ConfigDict(), str(path))


def _by_address(path: Path, bare: bool) -> None:
    from mmengine.runner.checkpoint import CheckpointLoader

    torch.hub.set_dir(str(path.parents[1]))
    try:
        if bare:
            torch.hub.load_state_dict_from_url(f"https://localhost/{path.name}")  # what mmengine calls
        else:
            CheckpointLoader.load_checkpoint(f"https://localhost/{path.name}")
    finally:
        torch.hub._hub_dir = None


def _with_variable(path: Path, bare: bool) -> None:
    from mmengine.runner.checkpoint import CheckpointLoader

    with _environment("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"):
        torch.load(path) if bare else CheckpointLoader.load_checkpoint(str(path))


def _timm(path: Path) -> None:
    from timm.models import load_state_dict

    load_state_dict(str(path), weights_only=False)


def _resume_text(path: Path) -> None:
    from mmengine.runner.checkpoint import _load_checkpoint

    meta = _load_checkpoint(str(path))["meta"]
    if "config" in meta:  # as Runner.resume does
        Config.fromstring(meta["config"], ".py")


def _data_from_bytes(path: Path) -> None:
    from mmseg.utils import datafrombytes

    datafrombytes(path.read_bytes(), "pickle")


def _class_tree(path: Path) -> None:
    from mmdet.datasets import openimages

    openimages.np.load(str(path), allow_pickle=True)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _safely(path: Path) -> Config:
    return load_config(str(path), safe=True)


FREE = dict(weights_only=False)
FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
ATTACKS = [
    Attack("checkpoint with code", _checkpoint, lambda p: torch.load(p, **FREE), read_checkpoint),
    Attack(
        "the same, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1",
        _checkpoint,
        lambda p: _with_variable(p, True),
        lambda p: _with_variable(p, False),
    ),
    Attack("the same, by https://", _cached, lambda p: _by_address(p, True), lambda p: _by_address(p, False)),
    Attack("the same, by timm, weights_only=False", _checkpoint, lambda p: torch.load(p, **FREE), _timm),
    Attack(
        "checkpoint: text in meta, resumed",
        _checkpoint_with_text,
        lambda p: Config.fromstring(torch.load(p, weights_only=True)["meta"]["config"], ".py"),
        _resume_text,
    ),
    Attack(
        "checkpoint: text, inferencer",
        _checkpoint_with_text,
        lambda p: _inferencer(p, True),
        lambda p: _inferencer(p, False),
    ),
    Attack("pickle of results", _pickled, lambda p: pickle.loads(p.read_bytes()), mmengine.load),
    Attack("pickle in a tensor's bytes", _pickled_twice, lambda p: pickle.loads(p.read_bytes()), mmengine.load),
    Attack("pickle as a picture (mmseg)", _pickled, lambda p: pickle.loads(p.read_bytes()), _data_from_bytes),
    Attack("NumPy file of objects (OpenImages)", _objects, lambda p: np.load(p, allow_pickle=True), _class_tree),
    Attack("YAML tag", _tagged, lambda p: yaml.load(p.read_text(), Loader=yaml.Loader), mmengine.load),
    Attack("tar: ../", _tar(("../CANARY", b"x", FILE)), _unpack_bare, lambda p: unpack(p, p.parent / "out")),
    Attack(
        "tar: through a symbolic link",
        _tar(("l", "..", LINK), ("l/CANARY", b"x", FILE)),
        _unpack_bare,
        lambda p: unpack(p, p.parent / "out"),
    ),
    Attack(
        "tar: two links, each harmless",
        _tar(("d/e/up", "../..", LINK), ("l", "d/e/up/../CANARY", LINK), ("l", b"x", FILE)),
        _unpack_links,
        lambda p: unpack(p, p.parent / "out"),
    ),
    Attack("zip bomb", _bomb, _unpack_bomb, lambda p: unpack(p, p.parent / "out")),
    Attack("config with code", _config("a = CODE"), Config.fromfile, _safely),
    Attack("code in its base", _config("_base_ = 'base.py'", "a = CODE"), Config.fromfile, _safely),
    Attack("code in a default of the environment", _config("a = '{{$NOT_SET:'+CODE+'}}'"), Config.fromfile, _safely),
    Attack(
        "custom_imports of another module",
        _config("custom_imports = dict(imports=['planted'])"),
        _import_beside,
        _safely,
    ),
    Attack(
        "type that is a path to import",
        _config("custom_hooks = [dict(type='os.mkdir', path='CANARY')]"),
        lambda p: _build_hook(Config.fromfile(p)),
        lambda p: _build_hook(_safely(p)),
    ),
    Attack("text that is evaluated: nms.type", _text, lambda p: _nms(p, True), lambda p: _nms(p, False)),
    Attack("text that is evaluated: warp_mode", _text, lambda p: _warp_mode(p, True), lambda p: _warp_mode(p, False)),
    Attack("text that is evaluated: search_op", _text, lambda p: _search(p, True), lambda p: _search(p, False)),
]


def attempt(attack: Attack, folder: Path) -> Result:
    """Plant it twice below `folder`, and read it by the bare library and by ours."""
    reached, said = [], ""
    imports = registry.get_object_from_string
    for name, read in (("bare", attack.bare), ("ours", attack.ours)):
        place = folder / name
        place.mkdir(parents=True)
        canary = place / "canary"
        path = attack.plant(place, canary)
        try:
            read(path)
            said = "read, nothing run"
        except Exception as error:  # a refusal, or what follows when the code has run
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        finally:
            registry.get_object_from_string = imports  # --safe-config sets it for the process
        reached.append(canary.exists())
    return Result(attack.name, *reached, said.replace(str(folder), "").replace("/ours/", ""))


def hostile(folder: Path, say: Callable[[str], None] = print) -> list[Result]:
    """All of them, below `folder`."""
    results = []
    for number, attack in enumerate(ATTACKS, 1):
        results.append(attempt(attack, folder / str(number)))
        say(f"hostile {number}/{len(ATTACKS)}: {attack.name}: {'REACHED' if results[-1].ours else 'does nothing'}")
    return results
