"""ViTDet's pyramid of one map."""

import pytest
import torch
import torch.nn.functional as F

from bestiary.necks import SimpleFeaturePyramid
from bestiary.registry import MODELS


def norm(x, layer):
    """Layer norm over the channels of (B, C, H, W), by its formula."""
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + layer.eps).sqrt()
    return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]


def by_definition(neck, x):
    scales, outs = [level[0] for level in neck.levels], []
    first, between, _, second = scales[0]
    finest = F.gelu(norm(F.conv_transpose2d(x, first.weight, first.bias, stride=2), between))
    inputs = [
        F.conv_transpose2d(finest, second.weight, second.bias, stride=2),
        F.conv_transpose2d(x, scales[1].weight, scales[1].bias, stride=2),
        x,
        F.max_pool2d(x, 2),
    ]
    for level, y in zip(neck.levels, inputs, strict=True):
        y = norm(F.conv2d(y, level[1].weight), level[2])
        outs.append(norm(F.conv2d(y, level[3].weight, padding=1), level[4]))
    return outs


@pytest.mark.parametrize("size", [(2, 3), (7, 5), (8, 8)])
def test_is_its_definition(size):
    torch.manual_seed(0)
    config = dict(type="bestiary.SimpleFeaturePyramid", in_channels=[8], out_channels=6, num_outs=5)
    neck = MODELS.build(config).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    outs, expected = neck((x,)), by_definition(neck, x)
    assert len(outs) == 5
    for out, right in zip(outs[:4], expected, strict=True):
        torch.testing.assert_close(out, right)
    torch.testing.assert_close(outs[4], expected[3][:, :, ::2, ::2])
    rows, columns = size
    sides = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), size, (rows // 2, columns // 2)]
    assert [tuple(out.shape[2:]) for out in outs[:4]] == sides


def test_bad_input():
    with pytest.raises(ValueError, match=r"in_channels \[8, 16\] must be of one map"):
        SimpleFeaturePyramid([8, 16], 6)
    with pytest.raises(ValueError, match="in_channels 10 must be a multiple of 4"):
        SimpleFeaturePyramid(10, 6)
    with pytest.raises(ValueError, match="num_outs 3 is less than the 4 levels"):
        SimpleFeaturePyramid(8, 6, num_outs=3)
    with pytest.raises(ValueError, match="takes one map, got 2"):
        SimpleFeaturePyramid(8, 6)((torch.randn(1, 8, 4, 4),) * 2)
