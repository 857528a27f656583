"""na1d, na2d, na3d: NATTEN's signature, and agreement with NATTEN where it is installed."""

import inspect
import random

import pytest
import torch

from bestiary.kernels import na1d, na2d, na3d, neighborhood_attention
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window

FUNCTIONS = {1: na1d, 2: na2d, 3: na3d}
NATTEN_SIGNATURE = (  # natten 0.21.7
    "query key value kernel_size stride dilation is_causal scale additional_keys additional_values attention_kwargs "
    "backend q_tile_shape kv_tile_shape backward_q_tile_shape backward_kv_tile_shape backward_kv_splits "
    "backward_use_pt_reduction run_persistent_kernel kernel_schedule torch_compile return_lse"
).split()


@pytest.mark.parametrize("axes", FUNCTIONS)
def test_signature(axes):
    parameters = inspect.signature(FUNCTIONS[axes]).parameters
    assert list(parameters) == NATTEN_SIGNATURE
    assert FUNCTIONS[axes].__name__ == f"na{axes}d"
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    ours = dict(stride=1, dilation=1, is_causal=False, backward_use_pt_reduction=False, run_persistent_kernel=True)
    assert defaults == dict.fromkeys(NATTEN_SIGNATURE[4:]) | ours | dict(torch_compile=False, return_lse=False)


@pytest.mark.parametrize("axes", FUNCTIONS)
def test_positional_arguments_in_nattens_order(axes):
    spatial, k, s, d = (9, 8, 7)[:axes], (4, 3, 2)[:axes], (3, 2, 1)[:axes], (2, 1, 3)[:axes]
    causal = (False, True, False)[-axes:]
    q, k_, v = (torch.randn(2, *spatial, 2, 5) for _ in range(3))
    extra = torch.randn(2, 3, 2, 5), torch.randn(2, 3, 2, 5)
    found = FUNCTIONS[axes](q, k_, v, k, s, d, causal, 0.3, *extra, return_lse=True, backend="reference")
    wanted = neighborhood_attention_reference(q, k_, v, None, *extra, Window(k, s, d, causal), 0.3)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_what_steers_nattens_kernels_changes_nothing():
    q, k, v = (torch.randn(1, 6, 7, 2, 8) for _ in range(3))
    steering = dict(
        attention_kwargs={"backend": "cutlass-fmha"}, q_tile_shape=(8, 8), kv_tile_shape=(8, 8), kernel_schedule="coop",
        backward_q_tile_shape=(8, 8), backward_kv_tile_shape=(8, 8), backward_kv_splits=(1, 1), torch_compile=True,
        backward_use_pt_reduction=True, run_persistent_kernel=False,
    )  # fmt: skip
    assert torch.equal(na2d(q, k, v, 3, is_causal=None, **steering), neighborhood_attention(q, k, v, 3))


def test_a_scale_of_zero_is_a_scale():
    q, k, v = (torch.randn(1, 7, 2, 4) for _ in range(3))
    mean = torch.stack([v[:, max(0, min(i - 1, 4)) :][:, :3].mean(1) for i in range(7)], dim=1)
    torch.testing.assert_close(na1d(q, k, v, 3, scale=0.0), mean)


def test_the_number_of_axes_is_the_names():
    q = torch.randn(1, 5, 5, 2, 4)
    with pytest.raises(ValueError, match=r"na1d takes query as \(B, L, heads, D\), got \(1, 5, 5, 2, 4\)"):
        na1d(q, q, q, 3)
    with pytest.raises(ValueError, match=r"na3d takes query as \(B, X, Y, Z, heads, D\), got \(1, 5, 5, 2, 4\)"):
        na3d(q, q, q, 3)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("flex-fna", "flex"), ("cutlass-fna", "natten"), ("hopper-fna", "natten"), ("blackwell-fna", "natten")],
)
def test_nattens_backends_are_ours(theirs, ours):
    q = torch.randn(1, 5, 5, 2, 4, dtype=torch.float64)  # which neither serves
    with pytest.raises(ValueError, match=f"backend '{ours}' cannot serve this call: it takes float32"):
        na2d(q, q, q, 3, backend=theirs)
    with pytest.raises(ValueError, match="no backend 'nvfuser'"):
        na2d(q, q, q, 3, backend="nvfuser")


def natten_cases(count):
    """Random calls that NATTEN's FlexAttention backend can compute on a CPU."""
    draw = random.Random(0)
    for number in range(count):
        axes = draw.choice((1, 2, 2, 3))
        k = [draw.randint(2, (9, 7, 4)[axes - 1]) for _ in range(axes)]
        d = [draw.randint(1, 3) for _ in range(axes)]
        spatial = [a * b + draw.choice((0, 1, 2, b, a)) for a, b in zip(k, d, strict=True)]
        s = [draw.randint(1, a) for a in k]
        causal = [draw.random() < 0.3 for _ in range(axes)]
        if axes == 1 and causal[0] and k[0] == spatial[0]:
            causal = [False]
        heads, ratio = draw.randint(1, 2), draw.randint(1, 2)
        yield number, spatial, k, s, d, causal, heads * ratio, heads, draw.choice((8, 16)), draw.choice((0, 0, 1, 3))


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_agrees_with_natten(count):
    pytest.importorskip("natten", reason="NATTEN is not installed")
    from natten import functional

    theirs = {1: functional.na1d, 2: functional.na2d, 3: functional.na3d}
    for number, spatial, k, s, d, causal, heads, kv_heads, channels, extra in natten_cases(count):
        generator = torch.Generator().manual_seed(number)
        shapes = [(1, *spatial, h, channels) for h in (heads, kv_heads, kv_heads)] + [
            (1, extra, kv_heads, channels)
        ] * 2
        q, key, v, *more = (torch.randn(*shape, generator=generator) for shape in shapes)
        more = more if extra else [None, None]
        k, s, d, causal = (tuple(entry) for entry in (k, s, d, causal))
        call = q, key, v, k, s, d, causal, None, *more
        wanted = theirs[len(spatial)](*call, return_lse=True, backend="flex-fna")
        found = FUNCTIONS[len(spatial)](*call, return_lse=True)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other.float(), rtol=0, atol=5e-6, msg=lambda m, c=call[3:7]: f"{c}: {m}")
