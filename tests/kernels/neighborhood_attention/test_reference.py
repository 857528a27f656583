"""The reference against the definition by plain loops, its special cases, and its derivatives."""

import itertools
import sys

import pytest
import torch
import torch.nn.functional as F

from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window, axis_keys

BORDERS = [  # length, k, s, d: one-token groups, groups of unequal length, n = k, n = k + 1, n < 2k, n > 2k
    (1, 1, 1, 1), (5, 1, 1, 5), (7, 1, 1, 3), (4, 2, 1, 2), (5, 2, 2, 2), (9, 2, 2, 4), (7, 7, 1, 1), (8, 7, 3, 1),
    (13, 7, 1, 1), (20, 7, 4, 1), (20, 6, 6, 1), (23, 4, 3, 3), (19, 5, 5, 3), (16, 3, 2, 5), (29, 7, 2, 4),
]  # fmt: skip


def tensors(spatial, heads=2, kv_heads=1, channels=3, values=2, bias_for=None, extra=None, batch=2, **options):
    """query, key, value, bias, additional keys and values: unit normal, no zeros."""
    generator = torch.Generator().manual_seed(hash((spatial, heads, channels)) % 2**31)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, **options)

    bias = None if bias_for is None else normal(heads, *(2 * k - 1 for k in bias_for))
    more = (None, None)
    if extra is not None:
        more = normal(batch, extra, kv_heads, channels), normal(batch, extra, kv_heads, values)
    q, k = normal(batch, *spatial, heads, channels), normal(batch, *spatial, kv_heads, channels)
    return [q, k, normal(batch, *spatial, kv_heads, values), bias, *more]


def window(axes, k, s=1, d=1, causal=False):
    return Window(*(tuple(v) if isinstance(v, tuple) else (v,) * axes for v in (k, s, d, causal)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "k", "s", "d"), BORDERS)
def test_an_axis_follows_the_rule_in_words(axis_keys_by_words, length, k, s, d, causal):
    found = axis_keys(length, k, s, d, causal)
    for i in range(length):
        wanted = axis_keys_by_words(i, length, k, s, d, causal)
        assert found.index[i][found.seen[i]].tolist() == wanted
        assert found.offset[i][found.seen[i]].tolist() == [(j - i) // d + k - 1 for j in wanted]
        assert all(j in wanted for j in found.index[i].tolist())  # what is not seen repeats what is
        assert i in wanted


@pytest.mark.parametrize(
    ("spatial", "where", "bias", "extra"),
    [
        ((9,), window(1, 4, 3, 2), True, None),
        ((9,), window(1, 3, 2, 2, True), False, 2),
        ((5, 7), window(2, (3, 2), 1, (1, 3)), True, 1),
        ((6, 5), window(2, (4, 3), (2, 3), 1, (False, True)), False, None),
        ((1, 7), window(2, (1, 3)), True, None),
        ((2, 5, 4), window(3, (1, 3, 2), (1, 2, 1), (2, 1, 2)), True, 1),
        ((3, 2, 4), window(3, (3, 2, 2), 1, 1, (True, False, True)), False, None),
    ],
)
def test_agrees_with_plain_loops(brute_force, dense, spatial, where, bias, extra):
    inputs = tensors(spatial, 4, 2, bias_for=where.kernel_size if bias else None, extra=extra)
    out, lse = neighborhood_attention_reference(*inputs, where, 0.7)
    for by in brute_force, dense:
        wanted_out, wanted_lse = by(*inputs, where, 0.7)
        torch.testing.assert_close(out, wanted_out, rtol=0, atol=1e-13)
        torch.testing.assert_close(lse, wanted_lse, rtol=0, atol=1e-13)


def test_slices_of_a_large_map_agree_with_the_whole(monkeypatch):
    inputs, where = tensors((7, 9), bias_for=(3, 4), extra=1), window(2, (3, 4), 2, (2, 1))
    whole = neighborhood_attention_reference(*inputs, where, 0.7)
    monkeypatch.setattr(sys.modules[neighborhood_attention_reference.__module__], "GATHERED_ELEMENTS", 1000)
    torch.testing.assert_close(neighborhood_attention_reference(*inputs, where, 0.7), whole, rtol=0, atol=1e-14)


def plain(q, k, v, scale=0.7, **options):
    """Scaled dot product attention over (B, N, H, D)."""
    out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), scale=scale, **options)
    return out.transpose(1, 2)


def test_a_window_over_everything_is_plain_attention():
    q, k, v, *none = tensors((3, 5), kv_heads=2)
    out, _ = neighborhood_attention_reference(q, k, v, *none, window(2, (3, 5)), 0.7)
    torch.testing.assert_close(out.flatten(1, 2), plain(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)))


def test_a_window_over_one_whole_axis():
    q, k, v, *none = tensors((4, 6), kv_heads=2)
    out, _ = neighborhood_attention_reference(q, k, v, *none, window(2, (4, 1)), 0.7)
    for column in range(6):
        torch.testing.assert_close(out[:, :, column], plain(q[:, :, column], k[:, :, column], v[:, :, column]))


def test_causal_over_the_whole_axis_is_plain_causal_attention():
    q, k, v, *none = tensors((11,), kv_heads=2)
    out, _ = neighborhood_attention_reference(q, k, v, *none, window(1, 11, causal=True), 0.7)
    torch.testing.assert_close(out, plain(q, k, v, is_causal=True))


def test_a_stride_of_the_kernel_size_is_attention_in_blocks():
    q, k, v, *none = tensors((6, 8), kv_heads=2)
    out, _ = neighborhood_attention_reference(q, k, v, *none, window(2, (3, 4), (3, 4)), 0.7)
    for x, y in itertools.product((slice(0, 3), slice(3, 6)), (slice(0, 4), slice(4, 8))):
        block = [t[:, x, y].flatten(1, 2) for t in (q, k, v)]
        torch.testing.assert_close(out[:, x, y].flatten(1, 2), plain(*block))


def test_the_last_block_slides_inward():
    q, k, v, *none = tensors((7,), kv_heads=2)
    out, _ = neighborhood_attention_reference(q, k, v, *none, window(1, 3, 3), 0.7)
    torch.testing.assert_close(out[:, 6:], plain(q[:, 6:], k[:, 4:], v[:, 4:]))


@pytest.mark.parametrize("spatial", [(9, 8), (10, 7)])  # d divides an axis, or does not
def test_dilation_is_every_group_alone(spatial):
    inputs = tensors(spatial, bias_for=(2, 3), extra=2)
    (q, k, v, bias, *extra), d = inputs, (3, 2)
    out, lse = neighborhood_attention_reference(*inputs, window(2, (2, 3), 1, d), 0.7)
    for x, y in itertools.product(range(d[0]), range(d[1])):
        group = [t[:, x :: d[0], y :: d[1]] for t in (q, k, v)]
        alone = neighborhood_attention_reference(*group, bias, *extra, window(2, (2, 3)), 0.7)
        torch.testing.assert_close((out[:, x :: d[0], y :: d[1]], lse[:, x :: d[0], y :: d[1]]), alone)


def test_the_largest_dilation_is_attention_inside_groups():
    q, k, v, *none = tensors((12,), kv_heads=2)
    out, _ = neighborhood_attention_reference(q, k, v, *none, window(1, 4, 1, 3), 0.7)
    for group in range(3):
        torch.testing.assert_close(out[:, group::3], plain(q[:, group::3], k[:, group::3], v[:, group::3]))


def test_a_kernel_of_one_gives_the_values():
    q, k, v, *none = tensors((5, 3), kv_heads=2)
    out, lse = neighborhood_attention_reference(q, k, v, *none, window(2, 1), 0.7)
    torch.testing.assert_close(out, v)
    torch.testing.assert_close(lse, 0.7 * (q * k).sum(-1))


def test_axes_of_length_one_change_nothing():
    inputs = tensors((8,), extra=1)
    out, lse = neighborhood_attention_reference(*inputs, window(1, 3, 2), 0.7)
    for axis in 1, 2:
        wide = [t.unsqueeze(axis) for t in inputs[:3]]
        where = Window(*([1, v] if axis == 1 else [v, 1] for v in (3, 2, 1)), (False, False))
        wide_out, wide_lse = neighborhood_attention_reference(*wide, *inputs[3:], where, 0.7)
        torch.testing.assert_close((wide_out.squeeze(axis), wide_lse.squeeze(axis)), (out, lse))


def test_two_halves_merge_by_their_lse():
    """Additional tokens as a pass of their own, merged, are additional tokens in one pass."""
    inputs = tensors((6, 5), extra=3)
    out, lse = neighborhood_attention_reference(*inputs, window(2, 3), 0.7)
    q, k, v, _, extra_k, extra_v = inputs
    one, one_lse = neighborhood_attention_reference(q, k, v, None, None, None, window(2, 3), 0.7)
    scores = torch.einsum("bxyhd,bmd->bxyhm", q, extra_k.squeeze(2)) * 0.7
    other, other_lse = torch.einsum("bxyhm,bme->bxyhe", scores.softmax(-1), extra_v.squeeze(2)), scores.logsumexp(-1)
    sigma = torch.sigmoid(other_lse - one_lse)[..., None]
    torch.testing.assert_close(out, one - sigma * (one - other))
    torch.testing.assert_close(lse, one_lse - F.logsigmoid(one_lse - other_lse))


def test_heads_share_keys_in_a_row():
    inputs = tensors((7,), heads=6, kv_heads=2)
    q, k, v, *none = inputs
    out, lse = neighborhood_attention_reference(*inputs, window(1, 3), 0.7)
    repeated = k.repeat_interleave(3, 2), v.repeat_interleave(3, 2)
    torch.testing.assert_close((out, lse), neighborhood_attention_reference(q, *repeated, *none, window(1, 3), 0.7))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_lower_precision(dtype, bound):
    inputs = [None if t is None else t.to(dtype) for t in tensors((7, 6), channels=8, bias_for=(3, 3), extra=1)]
    out, lse = neighborhood_attention_reference(*inputs, window(2, 3), 0.7)
    true_out, true_lse = neighborhood_attention_reference(
        *(None if t is None else t.double() for t in inputs), window(2, 3), 0.7
    )
    assert out.dtype == dtype and lse.dtype == torch.float32
    assert (out.double() - true_out).abs().max() < bound
    assert (lse.double() - true_lse).abs().max() < 4e-6  # computed in float32, and not rounded to 16 bits


@pytest.mark.parametrize(("batch", "heads"), [(0, 2), (2, 0)])
def test_nothing_in_nothing_out(batch, heads):
    inputs = tensors((4, 5), batch=batch, heads=heads, kv_heads=heads, bias_for=(3, 3), extra=2)
    inputs = [t.requires_grad_() for t in inputs]
    out, lse = neighborhood_attention_reference(*inputs, window(2, 3), 0.7)
    assert out.shape == (batch, 4, 5, heads, 2) and lse.shape == (batch, 4, 5, heads)
    grads = torch.autograd.grad(out.sum() + lse.sum(), inputs)
    assert all(grad.shape == t.shape and not grad.any() for grad, t in zip(grads, inputs, strict=True))


DERIVED = [  # small, so that every entry can be varied
    ((5,), window(1, 3, 2), True, 1),
    ((6,), window(1, 2, 2, 2, True), False, None),
    ((4, 3), window(2, (3, 2), 1, (1, 1)), True, None),
    ((3, 4), window(2, (2, 2), (1, 2), (1, 2), (True, False)), False, 1),
]


@pytest.mark.parametrize(("spatial", "where", "bias", "extra"), DERIVED)
def test_first_and_second_derivatives(spatial, where, bias, extra):
    inputs = tensors(spatial, 2, 1, 2, 1, where.kernel_size if bias else None, extra, 1, requires_grad=True)

    def run(*given):
        given = iter(given)
        return neighborhood_attention_reference(*(None if t is None else next(given) for t in inputs), where, 0.7)

    some = [t for t in inputs if t is not None]
    assert torch.autograd.gradcheck(run, some, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, some)


def test_forward_mode():
    inputs, where = tensors((5, 4), bias_for=(3, 2), extra=1), window(2, (3, 2), 1, (1, 2))
    along = [torch.randn_like(t) for t in inputs]
    step = 1e-6
    _, (d_out, d_lse) = torch.func.jvp(
        lambda *given: neighborhood_attention_reference(*given, where, 0.7), tuple(inputs), tuple(along)
    )
    ends = [
        neighborhood_attention_reference(*(t + sign * step * a for t, a in zip(inputs, along, strict=True)), where, 0.7)
        for sign in (1, -1)
    ]
    torch.testing.assert_close(d_out, (ends[0][0] - ends[1][0]) / (2 * step), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(d_lse, (ends[0][1] - ends[1][1]) / (2 * step), rtol=1e-6, atol=1e-7)


def test_the_inverse_neighborhood_is_one_interval(axis_keys_by_words):
    """What a gathering backward relies on: the queries of a group that see a key stand in a row, at every stride."""
    for k, n, causal in itertools.product(range(1, 7), range(1, 16), (False, True)):
        for s in range(1, k + 1) if k <= n else ():
            sees = [axis_keys_by_words(i, n, k, s, 1, causal) for i in range(n)]
            for j in range(n):
                queries = [i for i in range(n) if j in sees[i]]
                assert queries == list(range(queries[0], queries[-1] + 1))
                if s == 1 and not causal:
                    assert queries[0] == (0 if j < k else j - k + 1 + k // 2)
                    assert queries[-1] == (n - 1 if j >= n - k else j + k // 2)
