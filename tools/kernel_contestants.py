"""Ways to compute neighborhood attention that `bestiary benchmark kernels` compares: ours, and what else there is."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bestiary.kernels import neighborhood_attention
from bestiary.kernels.neighborhood_attention import flex, natten
from bestiary.kernels.neighborhood_attention.arguments import Call, check
from bestiary.kernels.neighborhood_attention.dispatch import BACKENDS, OPERATOR
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window, axis_keys, neighbors
from bestiary.tools.timing import on_cpu


class Case(NamedTuple):
    """One layer: a square or oblong map, and the window on it."""

    spatial: tuple[int, int]
    heads: int
    dilation: int
    kernel_size: int = 7
    channels: int = 32

    @property
    def name(self) -> str:
        return (
            f"{self.spatial[0]}x{self.spatial[1]} h{self.heads} d{self.dilation}"
            + (f" k{self.kernel_size}" if self.kernel_size != 7 else "")
            + (f" D{self.channels}" if self.channels != 32 else "")
        )

    @property
    def window(self) -> Window:
        return Window((self.kernel_size,) * 2, (1, 1), (self.dilation,) * 2, (False, False))


class Problem(NamedTuple):
    """A case with all that a measurement needs to know."""

    case: Case
    batch: int
    dtype: torch.dtype
    device: torch.device
    backward: bool
    bias: bool

    def tensors(self, seed: int = 0) -> list[Tensor | None]:
        """query, key, value, rel_pos_bias (None without) and the gradient of the output; leaves for the backward."""
        generator = torch.Generator(self.device).manual_seed(seed)
        case = self.case
        shape = (self.batch, *case.spatial, case.heads, case.channels)

        def tensor(*size: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.randn(size, generator=generator, device=self.device).to(dtype)

        table = (case.heads, *(2 * k - 1 for k in case.window.kernel_size))
        leaves = [tensor(*shape) for _ in range(3)] + [tensor(*table, dtype=torch.float32) if self.bias else None]
        return [None if t is None else t.requires_grad_(self.backward) for t in leaves] + [tensor(*shape)]

    def call(self) -> Call:
        q, k, v, bias, _ = self._replace(batch=1).tensors()
        case = self.case
        return check(
            q, k, v, case.kernel_size, case.dilation, 1, False, bias, None, None, None, self.backward, False, False
        )._replace(batch=self.batch)


Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # query, key, value, bias: the output


class Contestant(NamedTuple):
    """A way to compute it: `prepare` gives the function for one problem, or says in words why there is none."""

    name: str
    prepare: Callable[[Problem], Attention | str]
    changes: dict[str, Any] = {}  # to the problem: ours without bias, or in float32, beside ours
    whole: bool = False  # it attends to the whole map, and is judged by that


def same_in_float32_and_without_bias() -> list[Contestant]:
    """Ours on another problem, for ratios between our own figures."""
    ours = of_backend()
    return [
        ours._replace(name="ours without bias", changes=dict(bias=False)),
        ours._replace(name="ours in float32", changes=dict(dtype=torch.float32)),
    ]


def run(attention: Attention, tensors: list[Tensor | None], backward: bool) -> tuple[Tensor, ...]:
    """The output, and with `backward` the gradients of query, key, value and the bias."""
    *leaves, d_out = tensors
    if not backward:
        with torch.no_grad():
            return (attention(*leaves),)
    out = attention(*leaves)
    return out, *torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], d_out)


def truth(problem: Problem, tensors: list[Tensor | None], whole: bool = False) -> tuple[Tensor, ...]:
    """`run` by the reference in float64, one item of the batch after the other; `whole`: plain attention to all."""

    def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        if whole:
            q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
            out = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
            return out.transpose(1, 2).unflatten(1, problem.case.spatial)
        window = problem.case.window
        return neighborhood_attention_reference(q, k, v, bias, None, None, window, q.shape[-1] ** -0.5)[0]

    *leaves, d_out = [None if t is None else t.detach().double() for t in tensors]
    parts = []
    for i in range(problem.batch):
        some = [t[i : i + 1].clone() for t in leaves[:3]] + [leaves[3]]
        some = [None if t is None else t.detach().requires_grad_(problem.backward) for t in some]
        parts.append(run(attention, [*some, d_out[i : i + 1]], problem.backward))
    whole = [torch.cat(part) for part in list(zip(*parts, strict=True))[:4]]
    if problem.backward and problem.bias:
        whole.append(torch.stack([part[4] for part in parts]).sum(dim=0))
    return tuple(whole)


def error(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The largest deviation of any result, as a part of the largest value of that result; infinite for a NaN."""
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return math.inf
    pairs = [(g.detach(), w.detach()) for g, w in zip(got, wanted, strict=True)]
    parts = [float((g.double() - w).abs().max() / w.abs().max()) for g, w in pairs]
    return math.inf if any(math.isnan(part) for part in parts) else max(parts)


def of_backend(name: str | None = None) -> Contestant:
    """One of our backends, or the one that the dispatch takes."""

    def prepare(problem: Problem) -> Attention | str:
        call = problem.call()
        if name is not None and (reason := OPERATOR.why_not(name, call)):
            return reason
        case = problem.case
        return lambda q, k, v, bias: neighborhood_attention(
            q, k, v, case.kernel_size, case.dilation, rel_pos_bias=bias, backend=name
        )

    return Contestant("ours" if name is None else f"ours: {name}", prepare)


def _flex(block_size: int | None) -> Callable[[Problem], Attention | str]:
    """Compiled FlexAttention with one block size; None: as it comes, with a mask alone."""

    def prepare(problem: Problem) -> Attention | str:
        if reason := flex.why_not(problem.call()):
            return reason
        size = flex.BLOCK_SIZE if block_size is None else block_size
        window = problem.case.window
        return lambda q, k, v, bias: flex.run(q, k, v, bias, None, None, window, q.shape[-1] ** -0.5, block_size=size)[
            0
        ]

    return prepare


def of_flex(block_sizes: tuple[int, ...]) -> Contestant:
    """Compiled FlexAttention at the best of several block sizes, tried one after the other beforehand."""

    def prepare(problem: Problem) -> Attention | str:
        tokens = math.prod(problem.case.spatial)
        best, fastest = math.inf, None
        tensors = problem.tensors()
        for size in [size for size in block_sizes if size < 2 * tokens] or block_sizes[:1]:
            attention = _flex(size)(problem)
            if isinstance(attention, str):
                return attention
            try:
                run(attention, tensors, problem.backward)
            except (RuntimeError, ValueError) as failure:  # a block size that its kernels do not take
                last = str(failure).splitlines()[0]
                continue
            seconds = _seconds(lambda f=attention: run(f, tensors, problem.backward), problem.device)
            if seconds < best:
                best, fastest = seconds, attention
        return fastest or f"no block size of {block_sizes} works: {last}"

    return Contestant("FlexAttention, best block size", prepare)


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, roughly: the best of a few."""

    def waited() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return min(sample.wall for _ in range(3) for sample in on_cpu(waited))


def masked(problem: Problem, bias: Tensor | None) -> Tensor:
    """The additive mask of scaled_dot_product_attention: bias inside the window, -inf outside; (heads or 1, N, N)."""
    case, device = problem.case, problem.device
    index, _, offset = neighbors(case.spatial, case.window, device)  # no axis is causal: all are seen
    tokens = math.prod(case.spatial)
    heads = 1 if bias is None else case.heads
    mask = torch.full((heads, tokens, tokens), -math.inf, device=device)
    entries = torch.zeros((), device=device) if bias is None else bias.flatten(1)[:, offset]
    return mask.scatter(2, index.expand(heads, -1, -1), entries.expand(heads, *index.shape)).to(problem.dtype)


def of_sdpa(limit: float = 4e9) -> Contestant:
    """scaled_dot_product_attention with an additive mask, made beforehand unless the bias has to get a gradient."""

    def prepare(problem: Problem) -> Attention | str:
        tokens = math.prod(problem.case.spatial)
        size = tokens**2 * 4 * (problem.case.heads if problem.bias else 1)
        if size > limit:
            return f"its mask takes {size / 1e9:.1f} GB"
        ready = None if problem.bias and problem.backward else masked(problem, problem.tensors()[3])

        def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
            mask = masked(problem, bias) if ready is None else ready
            q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
            return out.transpose(1, 2).unflatten(1, problem.case.spatial)

        return attention

    return Contestant("SDPA with a mask", prepare)


def of_windows() -> Contestant:
    """Plain PyTorch: a view of all windows, of which each query picks its own; then products."""

    def prepare(problem: Problem) -> Attention | str:
        case = problem.case
        k, d = case.kernel_size, case.dilation
        rows, columns = (axis_keys(length, k, 1, d, False, problem.device) for length in case.spatial)
        first = [axis.index[:, 0] for axis in (rows, columns)]
        offset = (rows.offset[:, None, :, None] * (2 * k - 1) + columns.offset[None, :, None]).flatten(2)  # X Y K

        def windows(x: Tensor) -> Tensor:  # B X Y H K D
            batch, height, width, heads, channels = x.shape
            x = x.contiguous()
            b, i, j, h, c = x.stride()
            sizes = batch, height - (k - 1) * d, width - (k - 1) * d, heads, k, k, channels
            every = x.as_strided(sizes, (b, i, j, h, i * d, j * d, c))
            return every[:, first[0][:, None], first[1][None]].flatten(4, 5)

        def attention(q: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
            logits = torch.einsum("bxyhd,bxyhkd->bxyhk", q * q.shape[-1] ** -0.5, windows(key))
            if bias is not None:
                logits = logits + bias.flatten(1)[:, offset].permute(1, 2, 0, 3).to(logits.dtype)
            return torch.einsum("bxyhk,bxyhkd->bxyhd", logits.softmax(dim=-1), windows(value))

        return attention

    return Contestant("windows by as_strided", prepare)


def of_gather() -> Contestant:
    """Plain PyTorch: keys and values gathered by index, as our reference does it."""

    def prepare(problem: Problem) -> Attention | str:
        window = problem.case.window
        return lambda q, k, v, bias: neighborhood_attention_reference(
            q, k, v, bias, None, None, window, q.shape[-1] ** -0.5
        )[0]

    return Contestant("gather", prepare)


def of_dense(limit: float = 8e9) -> Contestant:
    """scaled_dot_product_attention without a mask: it attends to the whole map, which is another function."""

    def prepare(problem: Problem) -> Attention | str:
        if problem.bias:
            return "it takes no bias"
        size = math.prod(problem.case.spatial) ** 2 * problem.case.heads * 8
        if size > limit:
            return f"checking it takes {size / 1e9:.1f} GB"

        def attention(q: Tensor, k: Tensor, v: Tensor, bias: None) -> Tensor:
            q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(1, problem.case.spatial)

        return attention

    return Contestant("SDPA to the whole map", prepare, whole=True)


def of_natten(kernel: str | None = None) -> Contestant:
    """The installed NATTEN, by the kernel that it chooses, or by another one beside that."""

    def prepare(problem: Problem) -> Attention | str:
        call = problem.call()
        if reason := natten.why_not(call) or BACKENDS["natten"].unavailable():
            return reason
        if kernel is not None and (not natten.library_for(call.device.type) or natten.kernel(call) == kernel):
            return "it is what NATTEN chooses, or not there"
        window = problem.case.window
        return lambda q, k, v, bias: natten.run(q, k, v, None, None, None, window, q.shape[-1] ** -0.5, backend=kernel)[
            0
        ]

    return Contestant(f"NATTEN, {kernel}" if kernel else "NATTEN", prepare)


def peers(device: torch.device) -> list[Contestant]:
    """All that ours is compared with."""
    # Smaller blocks waste less of a window, larger ones run better.
    sizes = (32, 64, 128, 256) if device.type == "cpu" else (64, 128, 256)
    flexible = [of_flex(sizes), Contestant("FlexAttention as it comes", _flex(None))]
    found = [*flexible, of_sdpa(), of_windows(), of_gather(), of_natten()]
    return found if device.type == "cpu" else [*found, of_natten("cutlass-fna"), of_dense()]
