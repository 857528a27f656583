"""What a class can be given by a config: names, followed through `**kwargs`, and kinds of values."""

import ast
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from ...backbones.base import Backbone

_READS = ("pop", "get", "setdefault")


class Accepted(NamedTuple):
    """Parameters by name, and whether any other name is taken, too."""

    parameters: dict[str, inspect.Parameter]
    open: bool


@functools.cache
def accepted(receiver: Callable) -> Accepted:
    """What `receiver(**config)` takes.

    A constructor with `**kwargs` hands them to its base's: these are followed up the bases. One that does anything else
    with them is open to every name. Of `kwargs.pop("x")` the name is taken.
    """
    if not inspect.isclass(receiver):
        parameters, rest = _signature(receiver)
        return Accepted(parameters, rest is not None)
    found: dict[str, inspect.Parameter] = {}
    if not issubclass(receiver, nn.Module) and receiver.__init__ is object.__init__:
        return Accepted({}, True)  # mmdet's BaseReID, where mmpretrain is not installed
    if issubclass(receiver, Backbone):  # whose table of sizes is open to changes by name
        for names in (receiver.DEFAULTS, *receiver.ARCHS.values()):
            found |= {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names}
    skipped_to = None
    for cls in receiver.__mro__:
        if skipped_to is not None:  # super(FCOSHead, self).__init__ goes on behind FCOSHead
            skipped_to = None if cls.__name__ == skipped_to else skipped_to
            continue
        if "__init__" not in vars(cls):
            continue
        if cls in (object, nn.Module):
            break
        parameters, rest = _signature(cls.__init__)
        parameters = dict(list(parameters.items())[1:])  # without self
        found = parameters | found
        if rest is None:
            break
        if cls is Backbone:
            break
        read = _kwargs_read(cls.__init__, rest)
        if read is None:
            return Accepted(found, True)
        names, behind = read
        skipped_to = None if behind in (None, cls.__name__) else behind
        found |= {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names if name not in found}
    return Accepted(found, False)


def _signature(function: Callable) -> tuple[dict[str, inspect.Parameter], str | None]:
    """Named parameters, and the name of `**kwargs`, if there are; what has no signature takes anything."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}, "kwargs"
    rest = [name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_KEYWORD]
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {n: p for n, p in parameters.items() if p.kind not in variable}, rest[0] if rest else None


def _kwargs_read(constructor: Callable, rest: str) -> tuple[set[str], str | None] | None:
    """Names that a constructor takes out of its `**kwargs` on the way to its base; None if it does more with them.

    Beside the names the X of `super(X, self).__init__(**kwargs)`.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(constructor)))
    except (OSError, TypeError, SyntaxError):
        return None
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    names: set[str] = set()
    behind, used = None, False
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Name) and node.id == rest):
            continue
        parent, used = parents[node], True
        if isinstance(parent, ast.keyword) and parent.arg is None:
            call = parents[parent]
            if not (isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"):
                return None
            owner = call.func.value
            if isinstance(owner, ast.Call) and owner.args and isinstance(owner.args[0], ast.Name):
                behind = owner.args[0].id
            continue
        if isinstance(parent, ast.Attribute) and parent.attr in _READS and isinstance(parents[parent], ast.Call):
            key = parents[parent].args[0]
        elif isinstance(parent, ast.Subscript):
            key = parent.slice
        elif isinstance(parent, ast.Compare) and isinstance(parent.ops[0], ast.In | ast.NotIn):
            key = parent.left
        else:
            return None
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            return None
        names.add(key.value)
    return (names, behind) if used else None  # swallowed


def wrong_kind(value: Any, receiver: Callable, parameter: inspect.Parameter) -> str | None:
    """What was wanted in place of `value`, in words, where annotation or default say so plainly; or None."""
    given = _kind_of(value)
    wanted = _kinds(_annotation(receiver, parameter)) or _kinds_of_default(parameter)
    if given is None or wanted is None or given in wanted:
        return None
    if given == "text" and wanted <= {"number", "bool", "none"}:
        return "true or false" if wanted <= {"bool", "none"} else "a number"
    if given in ("number", "text") and wanted <= {"dict", "none"}:
        return "a dict"
    return None


def _annotation(receiver: Callable, parameter: inspect.Parameter) -> Any:
    """The parameter's annotation; as text where `from __future__ import annotations` leaves it so."""
    if isinstance(parameter.annotation, str):
        return dict(int=int, float=float, bool=bool, str=str, dict=dict).get(parameter.annotation)
    return parameter.annotation


def _kind_of(value: Any) -> str | None:
    for kind, classes in dict(bool=bool, number=int | float, text=str, dict=Mapping, list=list | tuple).items():
        if isinstance(value, classes):
            return kind
    return "none" if value is None else None


def _kinds_of_default(parameter: inspect.Parameter) -> set[str] | None:
    """What the default says, or the name: `num_classes`."""
    if isinstance(parameter.default, bool):
        return {"bool", "number"}
    if isinstance(parameter.default, int | float):
        return {"number"}
    counts = parameter.annotation is parameter.empty and parameter.name.startswith("num_")
    return {"number", "bool", "none"} if counts else None


def _kinds(annotation: Any) -> set[str] | None:
    """Kinds of value that an annotation allows; None if it says something else."""
    plain = {int: {"number"}, float: {"number"}, bool: {"bool", "number"}, str: {"text"}, dict: {"dict"}}
    if annotation in (None, type(None)):
        return {"none"} if annotation is type(None) else None
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and origin is None:
        return plain.get(annotation, {"list"} if annotation in (list, tuple) else None)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds(part) for part in typing.get_args(annotation)]
        return None if None in parts else set().union(*parts)
    if origin in (list, tuple):
        return {"list"}
    if origin in (dict, Mapping):
        return {"dict"}
    return {"list", "text"} if origin is Sequence else None
