"""Ways to compute bi-level routed attention that `bestiary benchmark kernels --operator bi_level_routing` compares."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bestiary.kernels import bi_level_routing_attention
from bestiary.kernels.bi_level_routing import Routing
from bestiary.kernels.bi_level_routing.reference import bi_level_routing_attention_reference
from bestiary.kernels.bi_level_routing.regions import from_regions, to_regions

Attention = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """A layer: its map, heads, regions that each attends to, regions a side."""

    size: tuple[int, int]
    heads: int
    topk: int
    n_win: int
    channels: int = 32  # of a head

    @property
    def name(self) -> str:
        return f"{self.size[0]}x{self.size[1]},h{self.heads},top{self.topk},n_win{self.n_win},D{self.channels}"

    @property
    def grid(self) -> tuple[int, int]:
        return self.n_win, self.n_win

    @property
    def scale(self) -> float:
        return (self.heads * self.channels) ** -0.5

    def routing(self, batch: int, device: torch.device) -> Routing:
        """Regions chosen at random, each another; the same at every call."""
        return Routing(_chosen(batch, self.n_win**2, self.topk).to(device))


@functools.cache
def _chosen(batch: int, regions: int, topk: int) -> Tensor:
    order = torch.rand(batch, regions, regions, generator=torch.Generator().manual_seed(0)).argsort(-1)
    return order[..., :topk].contiguous()


# BiFormer-S; its fourth stage attends globally. In detection 800 x 1333 is padded to what n_win divides.
AT_224 = [Case((56, 56), 2, 1, 7), Case((28, 28), 4, 4, 7), Case((14, 14), 8, 16, 7)]
DETECTION = [Case((208, 336), 2, 1, 16), Case((112, 176), 4, 4, 16), Case((64, 96), 8, 16, 16)]
SETS = {"headline": AT_224, "detection": DETECTION, "tiny": [Case((6, 9), 2, 2, 3, 5)]}


def tensors(case: Case, batch: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """q, k and v as views of one packed tensor, and lepe."""
    packed = torch.randn(batch, *case.size, 3, case.heads, case.channels, device=device).to(dtype)
    return [*packed.unbind(3), torch.randn(batch, *case.size, case.heads, case.channels, device=device).to(dtype)]


def output(case: Case, given: list[Tensor]) -> Tensor:
    """A tensor like the output."""
    return given[3].detach()


def truth(case: Case, q: Tensor, k: Tensor, v: Tensor, lepe: Tensor) -> Tensor:
    """By the definition."""
    routing = case.routing(len(q), q.device)
    return bi_level_routing_attention_reference(q, k, v, lepe, None, routing, case.grid, case.scale)


def _by(backend: str | None) -> Callable[[Case, torch.dtype, torch.device], Attention]:
    def prepare(case: Case, dtype: torch.dtype, device: torch.device) -> Attention:
        return lambda q, k, v, lepe: bi_level_routing_attention(
            q, k, v, case.grid, case.topk, case.scale, lepe, None, case.routing(len(q), device), backend
        )

    return prepare


def _as_released(case: Case, dtype: torch.dtype, device: torch.device) -> Attention:
    """Keys and values of the chosen regions copied by torch.gather, then once more heads first; two products."""

    def attention(q: Tensor, k: Tensor, v: Tensor, lepe: Tensor) -> Tensor:
        index = case.routing(len(q), device).index
        queries, keys, values = (to_regions(x.flatten(3), case.grid) for x in (q, k, v))  # B R T C
        both = torch.cat((keys, values), -1)[:, None].expand(-1, index.shape[1], -1, -1, -1)
        gathered = torch.gather(both, 2, index[..., None, None].expand(-1, -1, -1, *both.shape[3:])).flatten(2, 3)
        # (B R) N T D, and transposed for the keys.
        queries, keys, values = (
            x.unflatten(-1, (case.heads, case.channels)).flatten(0, 1).transpose(1, 2).contiguous()
            for x in (queries, *gathered.chunk(2, -1))
        )
        weights = ((queries * case.scale) @ keys.mT.contiguous()).softmax(-1)
        out = (weights @ values).transpose(1, 2).unflatten(0, index.shape[:2])
        return from_regions(out, case.grid, case.size).contiguous() + lepe

    return attention


CONTESTANTS: dict[str, Callable[[Case, torch.dtype, torch.device], Attention | str]] = {
    "ours": _by(None),
    "gather, some regions at a time": _by("gather"),
    "torch.gather as released": _as_released,
}
