"""Which backend serves a call of an operator: the fastest that can, or the one that was named.

Every operator of this room has an `Operator` here. A backend says in words why it cannot serve, on this machine
(`unavailable`) or in this call (`why_not`); it is never left silently for one that gives other numbers.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ..errors import InputError

ENVIRONMENT = "BESTIARY_BACKEND"  # "cpu", or "neighborhood_attention=cpu,selective_scan=reference"
OPERATORS: dict[str, "Operator"] = {}


class Backend(NamedTuple):
    """One way to compute an operator."""

    run: Callable[..., Any]
    why_not: Callable[[Any], str | None]  # takes the operator's description of a call; None: it can serve
    unavailable: Callable[[], str | None] = lambda: None  # why it cannot run on this machine; None: it can


class BackendStatus(NamedTuple):
    """A line of `backends()`."""

    name: str
    usable: bool
    reason: str  # why not; empty where it is usable


class Operator:
    """The backends of one operator by name, and the order in which they are tried.

    Args:
        name: as in messages and in the environment variable.
        backends: by name; the last must be able to serve every call.
        rank: the names to try for a call, fastest first, the last one able to serve every call; backends that it leaves
            out are used by name only. None keeps the order of `backends`.
        standard: the names to try while a graph is made for ONNX: those that consist of PyTorch's own operators.
    """

    def __init__(
        self,
        name: str,
        backends: dict[str, Backend],
        rank: Callable[[Any], Sequence[str]] | None = None,
        standard: Sequence[str] = ("reference",),
    ) -> None:
        self.name, self.backends, self.standard = name, backends, standard
        self.rank = rank or (lambda call: tuple(backends))
        self.plans: dict[Any, Any] = {}  # what the operator keeps for calls it has seen; emptied when a force changes
        OPERATORS[name] = self

    def why_not(self, backend: str, call: Any) -> str | None:
        """Why `backend` cannot serve `call`, None if it can. Raises InputError for a name that is not there."""
        if backend not in self.backends:
            raise InputError(f"{self.name}: no backend {backend!r}; there are {', '.join(self.backends)}")
        # The call first: it costs nothing, the machine may have to compile before it can answer.
        return self.backends[backend].why_not(call) or _unavailable(self.name, backend)

    def forced(self) -> str | None:
        """The backend that the context manager or the environment insists on; for all operators: if it is one here."""
        if self.name in _forced:
            return _forced[self.name]
        everywhere = _forced.get("")
        if everywhere is not None and not any(everywhere in operator.backends for operator in OPERATORS.values()):
            names = sorted({name for operator in OPERATORS.values() for name in operator.backends})
            raise InputError(f"{ENVIRONMENT}: no backend {everywhere!r}; there are {', '.join(names)}")
        return everywhere if everywhere in self.backends else None

    def choose(self, call: Any, backend: str | None = None) -> str:
        """The name of the backend that serves `call`; `backend` (or a forced one) insists on that one."""
        backend = backend or self.forced()
        if backend is not None:
            if reason := self.why_not(backend, call):
                raise InputError(f"{self.name}: backend {backend!r} cannot serve this call: {reason}")
            return backend
        # ONNX knows none of the operators that this package defines.
        to_onnx = torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
        return next(
            name for name in (self.standard if to_onnx else self.rank(call)) if self.why_not(name, call) is None
        )


@torch.compiler.assume_constant_result
def _unavailable(operator: str, backend: str) -> str | None:
    return OPERATORS[operator].backends[backend].unavailable()


def backends(operator: str, call: Any = None) -> list[BackendStatus]:
    """The backends of `operator`, each with the reason where it cannot be used here (for `call`, if one is given)."""
    if operator not in OPERATORS:
        raise InputError(f"no operator {operator!r}; there are {', '.join(OPERATORS)}")
    found = OPERATORS[operator]
    lines = []
    for name, backend in found.backends.items():
        reason = backend.unavailable() or (backend.why_not(call) if call is not None else None)
        lines.append(BackendStatus(name, reason is None, reason or ""))
    return lines


@contextmanager
def use_backend(backend: str, operator: str | None = None) -> Iterator[None]:
    """Insist on one backend inside the `with` block, for one operator or (None) for all that have it.

    Holds for the whole process, other threads included. A call that the backend cannot serve raises InputError.
    """
    entry = operator or ""
    known = [OPERATORS[operator]] if operator in OPERATORS else list(OPERATORS.values())
    if operator is not None and operator not in OPERATORS:
        raise InputError(f"no operator {operator!r}; there are {', '.join(OPERATORS)}")
    if not any(backend in one.backends for one in known):
        names = sorted({name for one in known for name in one.backends})
        raise InputError(f"no backend {backend!r}; there are {', '.join(names)}")
    before = _forced.get(entry)
    _forced[entry] = backend
    _forget_plans()
    try:
        yield
    finally:
        if before is None:
            del _forced[entry]
        else:
            _forced[entry] = before
        _forget_plans()


def _forget_plans() -> None:
    for operator in OPERATORS.values():
        operator.plans.clear()


def _read_environment(text: str) -> dict[str, str]:
    """Operator (or "" for all) to backend."""
    forced = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        operator, _, backend = part.rpartition("=")
        forced[operator.strip()] = backend.strip()
    return forced


_forced = _read_environment(os.environ.get(ENVIRONMENT, ""))
