"""Configs: found by path or by the name of one that ships, read, and changed by the command line."""

import ast
import difflib
import traceback
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..errors import InputError
from .safe_config import load_safely

SHIPPED = Path(__file__).resolve().parents[1] / "configs"


def shipped_configs() -> list[str]:
    """Names of the configs that come with the package, as `quickstart/mask_rcnn_poolformer_digits`; no bases."""
    names = (path.relative_to(SHIPPED).with_suffix("") for path in SHIPPED.rglob("*.py") if path.name != "__init__.py")
    return sorted(name.as_posix() for name in names if not name.parts[0].startswith("_"))


def find_config(name: str) -> Path:
    """The file of a config given by its path or by the name of one that ships, with or without `.py`.

    Raises:
        InputError: there is neither; it names the nearest ones that ship.
    """
    given = Path(name)
    if given.is_file():
        return given
    relative = given if given.suffix == ".py" else given.with_name(given.name + ".py")
    if relative.is_file():
        return relative
    if not given.is_absolute() and (shipped := SHIPPED / relative).is_file():
        return shipped
    if given.is_dir():
        raise InputError(f"{name}: a folder; a config is a .py file in it")
    names = shipped_configs()
    leaves = {leaf.rsplit("/", 1)[-1]: leaf for leaf in names}
    stem = given.name.removesuffix(".py")
    near = difflib.get_close_matches(name.removesuffix(".py"), names, n=2) or [
        leaves[leaf] for leaf in difflib.get_close_matches(stem, leaves, n=2)
    ]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    shipping = f"configs that ship: {len(names)}, in {SHIPPED}" if names else "no configs ship with this installation"
    raise InputError(f"{name}: no such config file{hint} ({shipping})")


def load_config(name: str, options: dict | None = None, safe: bool = False) -> Config:
    """Read a config and merge `--cfg-options` into it. A config is Python and is run: read only what you trust.

    Args:
        name: a path, or the name of one that ships.
        options: key with dots: value.
        safe: of a config from elsewhere: it and its bases have to be data, see `safe_config`; nothing runs before that
            is known. Types are then taken from the registries alone, for the rest of the process.

    Raises:
        InputError: the file is not there or does not parse (file and line are named), or an option does not fit; safe,
            and it is not.
    """
    path = find_config(name)
    _check_syntax(path)
    if safe and any(key.split(".")[0] == "custom_imports" for key in options or {}):
        raise InputError("--cfg-options custom_imports: not with --safe-config")
    # A config is a program of the user's and may raise anything; --debug shows the whole of it.
    try:
        cfg = load_safely(path) if safe else Config.fromfile(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{_place(path, error)}: the config does not load: {_words(error)}") from error
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError, AttributeError, AssertionError) as error:
            given = " ".join(f"{key}={value}" for key, value in options.items())
            raise InputError(f"{path}: --cfg-options {given} does not fit this config: {_words(error)}") from error
    return cfg


def _check_syntax(path: Path) -> None:
    """mmengine parses a copy and loses the name of the file."""
    try:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InputError(f"{path}{line}: not a config in Python: {_words(error)}") from error


def _place(path: Path, error: BaseException) -> str:
    """`file:line` of the innermost line of a config that took part in `error`, `path` alone if none did."""
    if isinstance(error, SyntaxError):  # in a base: mmengine does not say in which
        return f"{path}: line {error.lineno} of a file in _base_"
    steps = traceback.extract_tb(error.__traceback__)
    ours = [step for step in steps if step.name == "<module>" and _is_config(step.filename)]
    return f"{ours[-1].filename}:{ours[-1].lineno}" if ours else str(path)


def _is_config(filename: str) -> bool:
    """A file of the user's, or a config of an installed package: not the code of one."""
    return "site-packages" not in filename or f"{SHIPPED}/" in filename or "/.mim/configs/" in filename


def _words(error: BaseException) -> str:
    """An exception in one line: its kind, unless its text speaks for itself, and its text."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def base_dataset(dataset: dict | ConfigDict) -> dict | ConfigDict:
    """The innermost dataset of a config: RepeatDataset, ConcatDataset and the like hold others."""
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    return dataset
