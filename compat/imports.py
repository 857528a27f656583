"""Mend a module at the moment that it is imported, or at once if it is there already. Imports nothing itself.

A patch is a function of one module, registered by `after_import`. It runs right after the module, before anybody could
copy from it by `from module import thing`; where the module was loaded before us, `replace` mends the copies too.
"""

import importlib.abc
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]

PATCHES: dict[str, list[Patch]] = {}  # full name of a module: what to do to it, in order
COPIERS = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain")  # packages in which `replace` looks for copies


class TargetMissing(Exception):
    """The library has not got what a patch mends."""


class CompatibilityWarning(UserWarning):
    """A patch does not fit the installed version of a library and was left out."""


def after_import(*names: str) -> Callable[[Patch], Patch]:
    """Register the decorated function for the modules `names`; each call gets one of them."""

    def register(patch: Patch) -> Patch:
        for name in names:
            PATCHES.setdefault(name, []).append(patch)
        return patch

    return register


def target(owner: Any, name: str) -> Any:
    """`owner.name`, a module's or a class's.

    Raises:
        TargetMissing: there is none; the runner of patches turns it into a warning.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        raise TargetMissing(f"{owner.__name__} has no {name}") from None


def replace(module: ModuleType, name: str, new: Any) -> None:
    """Put `new` in the place of `module.name`, and of the copies that OpenMMLab's modules hold under that name."""
    old = target(module, name)
    setattr(module, name, new)
    for other_name, other in list(sys.modules.items()):
        if other_name.startswith(COPIERS) and getattr(other, "__dict__", {}).get(name) is old:
            setattr(other, name, new)


def mend(module: ModuleType) -> None:
    """Run the patches of a module; one that does not fit is left out, and a warning says so."""
    for patch in PATCHES.get(module.__name__, ()):
        try:
            patch(module)
        except TargetMissing as missing:
            package = sys.modules.get(module.__name__.partition(".")[0])
            warnings.warn(
                f"bestiary.compat: {missing} in {package.__name__} {getattr(package, '__version__', '(no version)')}; "
                f"the fix {patch.__name__!r} was left out. bestiary's constraints.txt names the versions that fit",
                CompatibilityWarning,
                stacklevel=2,
            )


class MendingFinder(importlib.abc.MetaPathFinder):
    """Lets the other finders find the module, and has `mend` follow its execution."""

    def find_spec(self, name: str, path: Any = None, target: Any = None):
        if name not in PATCHES:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _mend_after_exec(spec.loader)
                return spec
        return None


def _mend_after_exec(loader: Any) -> None:
    # On the loader that there is, not by a loader of ours: inspect and importlib.resources ask for its type.
    exec_module = loader.exec_module
    if hasattr(exec_module, "mends"):
        return

    def exec_and_mend(module: ModuleType) -> None:
        exec_module(module)
        mend(module)

    exec_and_mend.mends = True
    loader.exec_module = exec_and_mend


def arm() -> None:
    """Mend what is loaded, and from now on what will be. A second call does nothing."""
    if any(isinstance(finder, MendingFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, MendingFinder())
    for name in PATCHES:
        if name in sys.modules:
            mend(sys.modules[name])
