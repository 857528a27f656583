"""RoIAlign, RoIPool and deformable RoI pooling against loops over bins and samples in float64, and their gradients."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import bestiary  # noqa: F401  (it installs the provider)

# picture, x1, y1, x2, y2: inside, over each border, outside, thin, turned inside out
ROIS = [
    [0, 3.3, 2.1, 21.7, 15.2],
    [1, -9.0, -6.5, 8.4, 9.9],
    [1, 15.0, 11.0, 45.5, 33.0],
    [0, -30.0, -30.0, -20.0, -22.0],
    [1, 7.2, 4.4, 7.9, 25.0],
    [0, 11.0, 12.5, 11.0, 12.5],
]
SCALE = 0.25  # a power of 2: mmcv rounds the scale to float32


def features(dtype=torch.float64, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, 7, 9, generator=generator, dtype=torch.float64).to(dtype)


def rois(dtype=torch.float64):
    return torch.tensor(ROIS, dtype=dtype)


def at(plane, y, x):
    """Bilinear value; up to a pixel outside the border value, then zero."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    total = 0.0
    for row in {math.floor(y), min(math.floor(y) + 1, height - 1)}:
        for column in {math.floor(x), min(math.floor(x) + 1, width - 1)}:
            total += max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * plane[row, column]
    return total


def samples(low, high, bins, ratio, shift=0.0):
    """For each bin of [low, high] the positions of its samples."""
    size = (high - low) / bins
    count = ratio if ratio > 0 else math.ceil(size)
    return [[low + shift + b * size + (i + 0.5) * size / count for i in range(count)] for b in range(bins)]


def roi_align_by_hand(maps, regions, size, ratio, aligned, mode="avg"):
    out = np.zeros((len(regions), maps.shape[1], *size))
    for k, (picture, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (side * SCALE - 0.5 * aligned for side in box)
        if not aligned:
            x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        for p, ys in enumerate(samples(y1, y2, size[0], ratio)):
            for q, xs in enumerate(samples(x1, x2, size[1], ratio)):
                for c in range(maps.shape[1]):
                    values = [at(maps[int(picture), c].numpy(), y, x) for y in ys for x in xs]
                    if values:
                        out[k, c, p, q] = max(values) if mode == "max" else sum(values) / len(values)
    return out


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(ratio, aligned, mode):
    from mmcv.ops import RoIAlign, roi_align

    maps, size = features(), (3, 4)
    regions = rois()[:5] if mode == "max" else rois()  # the last has no extent: max has no sample there
    got = roi_align(maps, regions, size, SCALE, ratio, mode, aligned)
    np.testing.assert_allclose(got, roi_align_by_hand(maps, regions, size, ratio, aligned, mode), atol=1e-12)
    layer = RoIAlign(size, SCALE, ratio, mode, aligned)
    assert torch.equal(layer(maps, regions), got)
    single = layer(maps.float(), regions.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), got, atol=1e-5)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_gradient(aligned, mode):
    from mmcv.ops import roi_align

    maps = features(channels=2).requires_grad_()
    assert gradcheck(lambda t: roi_align(t, rois()[:5], (2, 3), SCALE, 0, mode, aligned), maps)


def test_roi_align_max_of_nothing():
    """A region without extent has no sample: compiled CUDA code then gives the lowest number, and no gradient."""
    from mmcv.ops import roi_align

    maps = features(torch.float32).requires_grad_()
    out = roi_align(maps, rois(torch.float32)[5:], (2, 2), SCALE, 0, "max", True)
    assert (out == torch.finfo(torch.float32).min).all()
    assert not torch.autograd.grad(out.sum(), maps)[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_roi_align_in_half_precision(dtype):
    from mmcv.ops import roi_align

    maps = features(dtype).requires_grad_()
    regions = rois(dtype)
    out = roi_align(maps, regions, (3, 4), SCALE, 2, "avg", True)
    wide = maps.detach().double().requires_grad_()
    wanted = roi_align(wide, regions.double(), (3, 4), SCALE, 2, "avg", True)
    assert out.dtype == dtype and torch.allclose(out.double(), wanted, atol=1e-2)
    grads = [torch.autograd.grad(o.sum(), i)[0] for o, i in ((out, maps), (wanted, wide))]
    assert grads[0].dtype == dtype and torch.allclose(grads[0].double(), grads[1], atol=2e-2)


def roi_pool_by_hand(maps, regions, size):
    """The maximum of all pixels that a bin touches; the region ends behind its last pixel."""
    out = np.zeros((len(regions), maps.shape[1], *size))
    height, width = maps.shape[2:]
    for k, (picture, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = box[0] * SCALE, box[1] * SCALE, (box[2] + 1) * SCALE, (box[3] + 1) * SCALE
        if x2 <= x1 or y2 <= y1:
            continue
        for p in range(size[0]):
            for q in range(size[1]):
                rows = range(
                    max(0, math.floor(y1 + p * (y2 - y1) / size[0])),
                    min(height, math.ceil(y1 + (p + 1) * (y2 - y1) / size[0])),
                )
                columns = range(
                    max(0, math.floor(x1 + q * (x2 - x1) / size[1])),
                    min(width, math.ceil(x1 + (q + 1) * (x2 - x1) / size[1])),
                )
                if rows and columns:
                    plane = maps[int(picture)].numpy()
                    out[k, :, p, q] = plane[:, rows.start : rows.stop, columns.start : columns.stop].max(axis=(1, 2))
    return out


@pytest.mark.parametrize("size", [(3, 4), (7, 7), (1, 1)], ids=str)
def test_roi_pool(size):
    from mmcv.ops import RoIPool, roi_pool

    maps = features()
    regions = torch.cat([rois(), torch.tensor([[1, 20.0, 5, 12, 9]], dtype=torch.float64)])  # and one inside out
    got = roi_pool(maps, regions, size, SCALE)
    np.testing.assert_array_equal(got, roi_pool_by_hand(maps, regions, size))
    assert torch.equal(RoIPool(size, SCALE)(maps.float(), regions.float()), got.float())


def test_roi_pool_gradient():
    from mmcv.ops import roi_pool

    maps = features(channels=2).requires_grad_()
    regions = torch.cat([rois(), torch.tensor([[1, 20.0, 5, 12, 9]], dtype=torch.float64)])
    assert gradcheck(lambda t: roi_pool(t, regions, (2, 3), SCALE), maps)


def deform_roi_pool_by_hand(maps, regions, offset, size, ratio, gamma):
    out = np.zeros((len(regions), maps.shape[1], *size))
    for k, (picture, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (side * SCALE - 0.5 for side in box)
        for p in range(size[0]):
            for q in range(size[1]):
                dx, dy = (0, 0) if offset is None else offset[k, :, p, q].tolist()
                ys = samples(y1, y2, size[0], ratio, gamma * (y2 - y1) * dy)[p]
                xs = samples(x1, x2, size[1], ratio, gamma * (x2 - x1) * dx)[q]
                for c in range(maps.shape[1]):
                    values = [at(maps[int(picture), c].numpy(), y, x) for y in ys for x in xs]
                    out[k, c, p, q] = sum(values) / max(len(values), 1)
    return out


@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "none"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool(ratio, with_offset):
    from mmcv.ops import DeformRoIPool

    maps, size = features(), (3, 4)
    offset = torch.randn(len(ROIS), 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    offset = offset if with_offset else None
    layer = DeformRoIPool(size, SCALE, ratio, gamma=0.4)
    got = layer(maps, rois(), offset)
    np.testing.assert_allclose(got, deform_roi_pool_by_hand(maps, rois(), offset, size, ratio, 0.4), atol=1e-12)


@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool_gradient(ratio):
    """Regions inside of the map: at the border mmcv's gradient is not the derivative, see the next test."""
    from mmcv.ops import deform_roi_pool

    regions = torch.tensor([[0, 8.0, 9, 27, 21], [1, 9.5, 7.2, 23, 15]], dtype=torch.float64)
    offset = 0.3 * torch.randn(2, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    inputs = features(channels=2).requires_grad_(), offset.requires_grad_()
    assert gradcheck(lambda t, o: deform_roi_pool(t, regions, o, (2, 3), SCALE, ratio, 0.2), inputs)
    assert gradcheck(lambda t: deform_roi_pool(t, rois(), None, (2, 3), SCALE, ratio, 0.2), inputs[:1])


def test_deform_roi_pool_gradient_at_the_border():
    """The compiled formula, sample by sample: corners drawn back to the map, shares of the position as it was."""
    from mmcv.ops import deform_roi_pool

    maps, size, gamma = features(channels=2), (2, 3), 0.3
    generator = torch.Generator().manual_seed(3)
    offset = torch.randn(len(ROIS), 2, *size, dtype=torch.float64, generator=generator).requires_grad_()
    grad = torch.randn(len(ROIS), 2, *size, dtype=torch.float64, generator=generator)
    (got,) = torch.autograd.grad(deform_roi_pool(maps, rois(), offset, size, SCALE, 2, gamma), offset, grad)
    wanted, height, width = np.zeros(offset.shape), *maps.shape[2:]
    for k, (picture, *box) in enumerate(ROIS):
        x1, y1, x2, y2 = (side * SCALE - 0.5 for side in box)
        for p in range(size[0]):
            for q in range(size[1]):
                dx, dy = offset[k, :, p, q].tolist()
                for y in samples(y1, y2, size[0], 2, gamma * (y2 - y1) * dy)[p]:
                    for x in samples(x1, x2, size[1], 2, gamma * (x2 - x1) * dx)[q]:
                        if not (-1 <= y <= height and -1 <= x <= width):
                            continue
                        top, left = (min(int(max(v, 0)), n - 1) for v, n in ((y, height), (x, width)))
                        down, right = min(top + 1, height - 1), min(left + 1, width - 1)
                        for c in range(2):
                            plane, g = maps[picture, c], grad[k, c, p, q].item() / 4 * gamma
                            across = (down - y) * (plane[top, right] - plane[top, left])
                            across += (y - top) * (plane[down, right] - plane[down, left])
                            along = (right - x) * (plane[down, left] - plane[top, left])
                            along += (x - left) * (plane[down, right] - plane[top, right])
                            wanted[k, 0, p, q] += g * (x2 - x1) * across.item()
                            wanted[k, 1, p, q] += g * (y2 - y1) * along.item()
    np.testing.assert_allclose(got, wanted, atol=1e-12)


@pytest.mark.parametrize("name", ["RoIAlign", "RoIPool", "DeformRoIPool", "RoIAlign max"])
def test_no_regions(name):
    import mmcv.ops

    name, _, mode = name.partition(" ")
    layer = getattr(mmcv.ops, name)((3, 4), SCALE, **({"pool_mode": mode} if mode else {}))
    maps = features(torch.float32).requires_grad_()
    out = layer(maps, torch.zeros(0, 5))
    assert out.shape == (0, 3, 3, 4)
    assert not torch.autograd.grad(out.sum(), maps)[0].any()


def test_the_packs_learn_their_offsets():
    from mmcv.ops import DeformRoIPoolPack, ModulatedDeformRoIPoolPack

    torch.manual_seed(0)
    for pack in (DeformRoIPoolPack, ModulatedDeformRoIPoolPack):
        layer = pack((3, 3), 3, deform_fc_channels=8, spatial_scale=SCALE)
        layer(features(torch.float32), rois(torch.float32)).square().sum().backward()
        assert layer.offset_fc[-1].bias.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["RoIPool", "RoIAlign max"])
def test_regions_go_through_in_parts(name, monkeypatch):
    """What bounds the memory changes no number."""
    import mmcv.ops

    from bestiary.compat.ops import roi

    name, _, mode = name.partition(" ")
    layer = getattr(mmcv.ops, name)((3, 4), SCALE, **({"pool_mode": mode} if mode else {}))
    whole = layer(features(), rois())
    monkeypatch.setattr(roi, "CHUNK", 1)
    assert torch.equal(layer(features(), rois()), whole)


@pytest.mark.parametrize("name", ["RoIPool", "DeformRoIPool", "RoIAlign max"])
def test_a_region_that_is_no_number_does_not_touch_the_others(name):
    import mmcv.ops

    name, _, mode = name.partition(" ")
    layer = getattr(mmcv.ops, name)((3, 4), SCALE, **({"pool_mode": mode} if mode else {}))
    broken = rois()
    broken[2, 1:] = float("nan")
    out = layer(features(), broken)
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(out[rest], layer(features(), rois()[rest])) and out[rest[:2]].abs().sum() > 0


def test_under_torch_compile():
    from mmcv.ops import deform_roi_pool, roi_align, roi_pool

    maps, regions = features(torch.float32).requires_grad_(), rois(torch.float32)

    def pooled(t):
        parts = roi_align(t, regions, (2, 2), SCALE, 2), roi_pool(t, regions, (2, 2), SCALE)
        return (*parts, deform_roi_pool(t * 2, regions, None, (2, 2), SCALE, 2, 0.1))

    plain, compiled = (
        (*out, *torch.autograd.grad(sum(o.square().sum() for o in out), maps))
        for out in (pooled(maps), torch.compile(pooled, backend="aot_eager")(maps))
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, compiled, strict=True))
