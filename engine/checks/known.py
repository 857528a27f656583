"""What configs say: names of entries that occur in the configs of mmdet, mmseg and here, or are read by their code.

Entries such as `model.test_cfg.score_thr` are read by name, deep in a head: no signature lists them. The configs that
ship with the packages do, and so does the code that asks for them.
"""

import ast
import functools
import re
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..configs import SHIPPED

_PACKAGES = ("mmdet", "mmseg")
_READ = re.compile(r"""cfg(?:\.get\(\s*|\.pop\(\s*|\[)?\.?["']?([A-Za-z_]\w*)""")
_TAKEN = re.compile(r"""\.pop\(\s*["']([A-Za-z_]\w*)""")


class Known(NamedTuple):
    """Names at the top of configs; name of an entry -> names in it; values of `type`; names that code reads from a
    `cfg`, or takes out of any dict before it builds it."""

    top: frozenset[str]
    inside: dict[str, frozenset[str]]
    types: frozenset[str]
    read: frozenset[str]
    taken: frozenset[str]


@functools.cache
def known() -> Known:
    """Read the configs of mmdet, mmseg and this package as text, and the code of the first two; some seconds."""
    top: set[str] = set()
    types: set[str] = set()
    inside: dict[str, set[str]] = defaultdict(set)
    for folder in [_home(name) / ".mim" / "configs" for name in _PACKAGES] + [SHIPPED]:
        for path in sorted(folder.rglob("*.py")):
            _note(path, top, types, inside)
    read: set[str] = set()
    taken: set[str] = set()
    for name in _PACKAGES:
        for path in _home(name).rglob("*.py"):
            if ".mim" not in path.parts:
                text = path.read_text(encoding="utf-8")
                read.update(_READ.findall(text))
                taken.update(_TAKEN.findall(text))
    names = defaultdict(frozenset, {name: frozenset(keys) for name, keys in inside.items()})
    return Known(frozenset(top), names, frozenset(types), frozenset(read), frozenset(taken))


def _home(package: str) -> Path:
    return Path(find_spec(package).origin).parent


def _note(path: Path, top: set[str], types: set[str], inside: dict[str, set[str]]) -> None:
    """Add what a config has. Only its text is read: a base may be missing, or import what is not installed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign):
            pairs = [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
            top.update(name for name, _ in pairs)
        elif isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]
        elif isinstance(node, ast.Dict):
            pairs = [
                (key.value, value)
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            ]
        else:
            continue
        types.update(
            v.value for n, v in pairs if n == "type" and isinstance(v, ast.Constant) and isinstance(v.value, str)
        )
        for name, value in pairs:
            for part in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
                inside[name].update(_keys(part))


def _keys(node: ast.AST) -> list[str]:
    """Keys of `dict(a=...)` or `{"a": ...}`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return [keyword.arg for keyword in node.keywords if keyword.arg]
    if isinstance(node, ast.Dict):
        return [key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return []
