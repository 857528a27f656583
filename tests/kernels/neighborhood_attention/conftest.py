"""The definition of neighborhood attention once more, by plain loops, and plain PyTorch to be compared with."""

import functools
import itertools
import math

import pytest
import torch


def _axis_keys(i: int, length: int, k: int, s: int, d: int, causal: bool) -> list[int]:
    """The tokens of one axis that token i sees, by the rule in words; nothing is taken from the package."""
    group = [token for token in range(length) if token % d == i % d]
    place, n = group.index(i), len(group)
    strides = [range(first, first + s) for first in range(0, n, s)]
    mine = next(places for places in strides if place in places)
    if causal:
        leader = min(mine[-1], n - 1)
        return [group[p] for p in range(n) if leader - k < p <= place]
    leader = min(mine[s // 2], n - 1)
    window = [p for p in range(leader - k // 2, leader - k // 2 + k)]
    while window[0] < 0:
        window = [p + 1 for p in window]
    while window[-1] >= n:
        window = [p - 1 for p in window]
    return [group[p] for p in window]


def _neighborhoods(spatial, window):
    """For every query in row-major order its keys, as lists of (token's number, bias index per axis)."""
    per_axis = []
    for length, k, s, d, causal in zip(spatial, *window, strict=True):
        keys = [_axis_keys(i, length, k, s, d, causal) for i in range(length)]
        per_axis.append([[(j, (j - i) // d + k - 1) for j in keys[i]] for i in range(length)])
    for query in itertools.product(*(range(length) for length in spatial)):
        found = []
        for choice in itertools.product(*(axis[i] for axis, i in zip(per_axis, query, strict=True))):
            number = 0
            for (j, _), length in zip(choice, spatial, strict=True):
                number = number * length + j
            found.append((number, tuple(offset for _, offset in choice)))
        yield found


def _brute_force(query, key, value, bias, extra_keys, extra_values, window, scale):
    """Output and LSE in float64, one score at a time."""
    batch, *spatial, heads, _ = query.shape
    ratio = heads // key.shape[-2]
    q, k, v = (t.double().flatten(1, -3) for t in (query, key, value))
    out = torch.full((*q.shape[:-1], v.shape[-1]), float("nan"), dtype=torch.float64)
    lse = torch.full(q.shape[:-1], float("nan"), dtype=torch.float64)
    for i, keys in enumerate(_neighborhoods(spatial, window)):
        for b, h in itertools.product(range(batch), range(heads)):
            g = h // ratio
            scores, values = [], []
            for j, offsets in keys:
                shift = 0.0 if bias is None else bias[(h, *offsets)].double()
                scores.append(scale * torch.dot(q[b, i, h], k[b, j, g]) + shift)
                values.append(v[b, j, g])
            for m in range(0 if extra_keys is None else extra_keys.shape[1]):
                scores.append(scale * torch.dot(q[b, i, h], extra_keys[b, m, g].double()))
                values.append(extra_values[b, m, g].double())
            top = max(float(score) for score in scores)
            weights = [math.exp(float(score) - top) for score in scores]
            out[b, i, h] = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
            lse[b, i, h] = top + math.log(sum(weights))
    return out.unflatten(1, spatial), lse.unflatten(1, spatial)


@functools.cache
def _axis_table(length: int, k: int, s: int, d: int, causal: bool):
    """One axis as two (length, length): does token i see token j, and the bias index of the pair where it does."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    offset = torch.zeros(length, length, dtype=torch.int64)
    for i in range(length):
        for j in _axis_keys(i, length, k, s, d, causal):
            seen[i, j], offset[i, j] = True, (j - i) // d + k - 1
    return seen, offset


def _dense(query, key, value, bias, extra_keys, extra_values, window, scale):
    """Plain PyTorch in the dtype of the input: all scores, a mask, softmax. Differentiable."""
    spatial, heads = query.shape[1:-2], query.shape[-2]
    ratio = heads // key.shape[-2]
    seen, offset = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64)
    for axis in zip(spatial, *window, strict=True):
        axis_seen, axis_offset = (t[None, :, None, :] for t in _axis_table(*axis))
        size = seen.shape[0] * axis[0]
        seen = (seen[:, None, :, None] & axis_seen).reshape(size, size)
        offset = (offset[:, None, :, None] * (2 * axis[1] - 1) + axis_offset).reshape(size, size)
    seen, offset = seen.to(query.device), offset.to(query.device)
    q, k, v = (t.flatten(1, -3).transpose(1, 2) for t in (query, key, value))  # B H N D
    k, v = k.repeat_interleave(ratio, 1), v.repeat_interleave(ratio, 1)
    scores = (q * scale) @ k.mT
    if bias is not None:
        scores = scores + bias.to(scores.dtype).flatten(1)[:, offset]
    scores = scores.masked_fill(~seen, float("-inf"))
    if extra_keys is not None:
        extra_k, extra_v = (t.transpose(1, 2).repeat_interleave(ratio, 1) for t in (extra_keys, extra_values))
        scores = torch.cat([scores, (q * scale) @ extra_k.mT], -1)
        v = torch.cat([v, extra_v], 2)
    out, lse = scores.softmax(-1) @ v, scores.logsumexp(-1)
    return out.transpose(1, 2).unflatten(1, spatial), lse.transpose(1, 2).unflatten(1, spatial)


@pytest.fixture(scope="session")
def axis_keys_by_words():
    return _axis_keys


@pytest.fixture(scope="session")
def brute_force():
    return _brute_force


@pytest.fixture(scope="session")
def dense():
    return _dense
