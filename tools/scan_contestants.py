"""Ways to compute the selective scan that `bestiary benchmark kernels --operator selective_scan` compares."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bestiary.kernels import scan_routes, selective_scan
from bestiary.kernels.selective_scan.reference import scan_routes_reference, selective_scan_reference

Scan = Callable[..., Tensor]


class Case(NamedTuple):
    """A layer: `side` ** 2 tokens in the order in which they lie, or along four routes of a map (`routes`)."""

    side: int
    channels: int  # of a route
    states: int
    routes: bool = False

    @property
    def name(self) -> str:
        form = f"4 routes of {self.channels}" if self.routes else f"{self.channels}"
        return f"{form} channels x {self.side**2} steps, N {self.states}"

    def table(self, device: torch.device) -> Tensor:
        """Rows, columns, and both backwards (VMamba's)."""
        tokens = torch.arange(self.side**2, device=device)
        ways = tokens, tokens.view(self.side, self.side).T.flatten()
        return torch.stack((*ways, *(way.flip(0) for way in ways)))


SETS = {
    "headline": [Case(56, 384, 1), Case(56, 384, 16), Case(56, 96, 1, True), Case(56, 96, 16, True)],
    "vmamba": [Case(56 >> stage, 96 << stage, states, True) for stage in range(4) for states in (1, 16)],
    "tiny": [Case(4, 6, 3), Case(4, 6, 3, True)],
}


def tensors(case: Case, batch: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """u, delta, A, B, C, D, delta_bias."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    length, own = case.side**2, (case.channels,)
    if case.routes:
        own = (4, *own)
        steps = normal(batch, length, 1, case.channels), normal(batch, length, *own)
        rows = [normal(batch, length, 4, case.states) for _ in "BC"]
    else:
        steps = normal(batch, *own, length), normal(batch, *own, length)
        rows = [normal(batch, 1, case.states, length) for _ in "BC"]
    A = -torch.rand(*own, case.states, device=device) * 8 - 0.1
    return [*steps, A, *rows, torch.randn(own, device=device), torch.randn(own, device=device) - 3]


def output(case: Case, given: list[Tensor]) -> Tensor:
    """A tensor like the output."""
    return given[1].detach()


def truth(case: Case, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """By the definition."""
    if case.routes:
        return scan_routes_reference(u, case.table(u.device), delta, A, B, C, D, bias, True)
    return selective_scan_reference(u, delta, A, B, C, D, None, bias, True, None)[0]


def _by(backend: str | None) -> Callable[[Case, torch.dtype, torch.device], Scan]:
    def prepare(case: Case, dtype: torch.dtype, device: torch.device) -> Scan:
        if case.routes:
            table = case.table(device)
            return lambda u, delta, A, B, C, D, bias: scan_routes(u, table, delta, A, B, C, D, bias, True, backend)
        return lambda u, delta, A, B, C, D, bias: selective_scan(
            u, delta, A, B, C, D, None, bias, True, backend=backend
        )

    return prepare


def _mamba_ssm(case: Case, dtype: torch.dtype, device: torch.device) -> Scan | str:
    """mamba-ssm's own function: its CUDA kernel, which takes sequences alone."""
    if case.routes:
        return "it has no routes"
    if device.type != "cuda":
        return "it takes CUDA tensors"
    if importlib.util.find_spec("mamba_ssm") is None or importlib.util.find_spec("selective_scan_cuda") is None:
        return "mamba_ssm with its CUDA build is not installed"
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return lambda u, delta, A, B, C, D, bias: selective_scan_fn(u, delta, A, B, C, D, None, bias, True)


CONTESTANTS: dict[str, Callable[[Case, torch.dtype, torch.device], Scan | str]] = {
    "ours": _by(None),
    "chunks in plain PyTorch": _by("chunked"),
    "a loop in Python": _by("reference"),
    "mamba-ssm": _mamba_ssm,
}
