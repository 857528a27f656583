"""Scan routes, the multi-head scan and SS2D against their definitions."""

import math
import statistics

import pytest
import torch
from networks import randomised
from torch import nn

from bestiary.backbones.layers.routes import PATTERNS, scan_table
from bestiary.backbones.mixers import MultiHeadScan, build_mixer
from bestiary.backbones.mixers.multi_head_scan import ScanCoefficients, route_attention
from bestiary.kernels import use_backend

CPU = torch.device("cpu")


def route_by_words(pattern, second, height, width):
    """Walked square by square, as the authors' table has it."""
    cells = []
    if pattern == "raster":
        cells = [(i, j) for i in range(height) for j in range(width)]
        if second:
            cells = [(i, j) for j in range(width) for i in range(height)]
    elif pattern == "continuous" and not second:
        for i in range(height):
            cells += [(i, j) for j in range(width)][:: 1 if i % 2 == 0 else -1]
    elif pattern == "continuous":
        for j in range(width):
            cells += [(i, j) for i in range(height)][:: 1 if j % 2 == 0 else -1]
    elif pattern == "diagonal":
        for number in range(height + width - 1):
            of_this = [(i, number - i) for i in range(height) if 0 <= number - i < width]
            cells += of_this[::-1] if (number + 1) % 2 == 1 else of_this
        if second:
            cells = [(i, width - 1 - j) for i, j in cells]
    else:
        (i, j), (di, dj), seen = (0, 0), (0, 1), set()
        while len(cells) < height * width:
            cells.append((i, j))
            seen.add((i, j))
            ahead = i + di, j + dj
            if not (0 <= ahead[0] < height and 0 <= ahead[1] < width) or ahead in seen:
                di, dj = dj, -di  # to the right
            i, j = i + di, j + dj
        if second:
            cells = [(height - 1 - i, j) for i, j in cells]
    return [i * width + j for i, j in cells]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_routes_are_permutations_and_the_authors(pattern):
    for height in range(1, 13):
        for width in range(1, 13):
            table = scan_table((pattern,), height, width, CPU)
            assert table.dtype == torch.int64 and table.shape == (4, height * width)
            assert torch.equal(table.sort(dim=1).values, torch.arange(height * width).expand(4, -1))
            first, second = (route_by_words(pattern, second, height, width) for second in (False, True))
            assert table.tolist() == [first, first[::-1], second, second[::-1]], (height, width)


def test_tables_are_kept_and_stand_side_by_side():
    one = scan_table(("spiral", "raster"), 5, 7, CPU)
    assert scan_table(("spiral", "raster"), 5, 7, CPU) is one
    assert torch.equal(one[:4], scan_table(("spiral",), 5, 7, CPU))
    assert torch.equal(one[4:], scan_table(("raster",), 5, 7, CPU))


def test_a_table_made_in_inference_serves_training():
    mixer = MultiHeadScan(4, d_state=2)
    x = torch.randn(1, 11, 13, 4)
    with torch.inference_mode():
        mixer(x)
    mixer(x).pow(2).sum().backward()
    assert mixer.heads.scan.A_log.grad.abs().sum() > 0


def linear(x, weight):
    return torch.einsum("...c,dc->...d", x, weight)


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def silu(x):
    return x / (1 + torch.exp(-x))


def convolve(x, conv):
    """3 x 3, a channel by itself, zeros all round."""
    batch, height, width, _ = x.shape
    out = torch.zeros_like(x) + conv.bias
    for i in range(height):
        for j in range(width):
            for k in range(3):
                for m in range(3):
                    if 0 <= i + k - 1 < height and 0 <= j + m - 1 < width:
                        out[:, i, j] += conv.weight[:, 0, k, m] * x[:, i + k - 1, j + m - 1]
    return out


def scan_by_steps(tokens, scan, r):
    """One route's walk: tokens (L, D) in its order -> (L, D)."""
    rank, states = scan.dt_rank, scan.d_state
    A = -torch.exp(scan.A_log[r])
    h, outs = torch.zeros_like(A), []
    for token in tokens:
        x = scan.x_proj[r] @ token
        raw = scan.dt_proj[r] @ x[:rank] + scan.dt_bias[r]
        dt = torch.log1p(torch.exp(raw))
        h = torch.exp(dt[:, None] * A) * h + (dt * token)[:, None] * x[rank : rank + states]
        outs.append(h @ x[rank + states :] + scan.D[r] * token)
    return torch.stack(outs)


def four_walks(tokens, scan, first, routes):
    """(L, D) -> four (L, D), each put back."""
    walks = []
    for r, route in enumerate(routes):
        out = torch.zeros_like(tokens)
        out[route] = scan_by_steps(tokens[route], scan, first + r)
        walks.append(out)
    return walks


def four_routes(pattern, height, width):
    first, second = (route_by_words(pattern, second, height, width) for second in (False, True))
    return first, first[::-1], second, second[::-1]


def test_scan_route_attention():
    y = torch.randn(3, 5, 4, 2, dtype=torch.float64)
    for threshold in (0.0, 0.4, 0.9, 1.5):
        out = route_attention(y, threshold)
        for index in ((0, 0, 0), (1, 4, 1), (2, 3, 0)):
            values = [float(y[(*index[:2], r, index[2])]) for r in range(4)]
            mean = sum(value - min(values) for value in values) / 4
            variation = statistics.stdev(values) / (mean + 1e-5)
            assert float(out[index]) == pytest.approx(sum(values) * max(variation - threshold, 0.0), abs=1e-12)
    same = torch.ones(2, 4, 3, dtype=torch.float64, requires_grad=True)
    route_attention(same, 0.0).sum().backward()
    assert not route_attention(same, 0.0).any() and torch.isfinite(same.grad).all()  # the deviation's root at 0


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(
    ("patterns", "with_proj", "size"),
    [
        (("continuous", "diagonal", "spiral"), True, (3, 5)),
        (("continuous", "diagonal", "spiral", "raster"), False, (4, 3)),
        (("spiral",), True, (1, 1)),
    ],
)
def test_multi_head_scan_is_its_definition(patterns, with_proj, size, gated):
    dim = 12
    mixer = randomised(MultiHeadScan(dim, patterns, d_state=3, threshold=0.7, with_proj=with_proj, gated=gated))
    x = torch.randn(2, *size, dim, dtype=torch.float64)
    tokens, gate = linear(x, mixer.in_proj.weight).chunk(2, -1) if gated else (x, None)
    tokens = linear(silu(convolve(tokens, mixer.conv)), mixer.heads.split.weight).flatten(1, 2)
    width = dim // len(patterns)
    joined = torch.zeros_like(tokens)
    for picture in range(2):
        for head, pattern in enumerate(patterns):
            part = slice(head * width, (head + 1) * width)
            walks = four_walks(tokens[picture, :, part], mixer.heads.scan, 4 * head, four_routes(pattern, *size))
            walks = torch.stack(walks)
            mean = (walks - walks.min(0).values).mean(0)
            deviation = ((walks - walks.mean(0)).square().sum(0) / 3).sqrt()
            joined[picture, :, part] = walks.sum(0) * (deviation / (mean + 1e-5) - 0.7).clamp_min(0)
    out = joined.view_as(x)
    if with_proj:
        out = linear(layer_norm(out, mixer.heads.norm), mixer.heads.proj.weight)
    out = layer_norm(out, mixer.norm)
    out = out * silu(gate) if gated else out
    torch.testing.assert_close(mixer(x), out, rtol=1e-9, atol=1e-9)


def test_ss2d_is_its_definition():
    mixer = randomised(build_mixer("ss2d", 6, d_state=3))
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    tokens, gate = linear(x, mixer.in_proj.weight).chunk(2, -1)
    tokens = silu(convolve(tokens, mixer.conv)).flatten(1, 2)
    rows, columns = (route_by_words("raster", second, 3, 4) for second in (False, True))
    routes = rows, columns, rows[::-1], columns[::-1]
    out = torch.stack([sum(four_walks(picture, mixer.scan, 0, routes)) for picture in tokens]).view_as(gate)
    expected = linear(layer_norm(out, mixer.norm) * silu(gate), mixer.out_proj.weight)
    torch.testing.assert_close(mixer(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["multi_head_scan", "ss2d"])
def test_backends_agree(name):
    mixer, x = randomised(build_mixer(name, 8, d_state=4)), torch.randn(2, 9, 7, 8, dtype=torch.float64)
    weight = torch.randn_like(x)
    results = []
    for backend in ("chunked", "reference"):
        with use_backend(backend, "scan_routes"):
            y = mixer(x)
        results.append((y, *torch.autograd.grad((y * weight).sum(), list(mixer.parameters()))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_initial_values():
    torch.manual_seed(0)
    scan = ScanCoefficients(routes=4, dim=64, d_state=16, dt_rank=4).requires_grad_(False)
    steps = nn.functional.softplus(scan.dt_bias)
    assert 0.00099 < steps.min() < 0.002 and 0.05 < steps.max() < 0.101
    assert float(steps.log().std()) == pytest.approx(math.log(100) / 12**0.5, rel=0.1)
    torch.testing.assert_close(scan.A_log.exp(), torch.arange(1.0, 17.0).expand(4, 64, 16))
    assert (scan.D == 1).all()
    assert 0.98 / 8 < scan.x_proj.abs().max() <= 1 / 8
    assert float(scan.x_proj.std()) == pytest.approx(12**-0.5 / 4, rel=0.03)
    assert 0.95 / 2 < scan.dt_proj.abs().max() <= 1 / 2
    assert scan.x_proj.shape == (4, 36, 64) and scan.dt_proj.shape == (4, 64, 4)


def test_messages():
    for build, message in (
        (lambda: MultiHeadScan(8, ("continuous", "spirl")), "MultiHeadScan: no scan pattern 'spirl'.*mean 'spiral'"),
        (lambda: MultiHeadScan(8, ()), "MultiHeadScan: no scan pattern given; there are continuous, diagonal"),
        (lambda: MultiHeadScan(10), "MultiHeadScan: dim 10 must be a multiple of the 4 patterns continuous, diagonal"),
        (lambda: MultiHeadScan(8, d_state=0), "MultiHeadScan: d_state 0 must be at least 1"),
        (lambda: build_mixer("ss2d", 8, expand=0.0), "SS2D: expand 0.0 of 8 channels and d_state 16 must give"),
    ):
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            build()
