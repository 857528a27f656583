"""The neck with finer levels against its definition, and inside mmdet."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from bestiary.backbones import SHViT
from bestiary.necks import SHViTNeck
from bestiary.registry import MODELS

SMALL = dict(depths=(1, 1, 1), dims=(16, 20, 24), partial_dims=(4, 5, 7))


def maps(batch, *sizes, channels=(3, 4, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, *size, generator=generator, dtype=torch.float64)
        for c, size in zip(channels, sizes, strict=True)
    ]


def conv_by_definition(x, conv):
    """A convolution with bias, stride 1, zeros all round; sums over the kernel's places."""
    reach = conv.kernel_size[0] // 2
    padded = torch.zeros(*x.shape[:2], x.shape[2] + 2 * reach, x.shape[3] + 2 * reach, dtype=x.dtype)
    padded[:, :, reach : reach + x.shape[2], reach : reach + x.shape[3]] = x
    out = conv.bias[:, None, None].expand(len(x), -1, *x.shape[2:]).clone()
    for u in range(2 * reach + 1):
        for v in range(2 * reach + 1):
            part = padded[:, :, u : u + x.shape[2], v : v + x.shape[3]]
            out = out + torch.einsum("bchw,dc->bdhw", part, conv.weight[:, :, u, v])
    return out


def doubled_by_definition(x, up):
    """A 2 x 2 transposed convolution: each pixel becomes four, by a matrix each."""
    out = torch.zeros(len(x), up.out_channels, 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    for u in range(2):
        for v in range(2):
            out[:, :, u::2, v::2] = torch.einsum("bchw,cd->bdhw", x, up.weight[:, :, u, v])
    return out + up.bias[:, None, None]


def nearest_by_definition(x, height, width):
    rows = [i * x.shape[2] // height for i in range(height)]
    columns = [j * x.shape[3] // width for j in range(width)]
    return x[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize("num_finer", [0, 1, 2])
@pytest.mark.parametrize("sizes", [((8, 4), (4, 2), (2, 1)), ((5, 7), (3, 4), (2, 2))])
def test_is_its_definition(num_finer, sizes):
    torch.manual_seed(0)
    neck = SHViTNeck((3, 4, 5), 6, num_finer, num_outs=num_finer + 4).double()
    inputs = maps(2, *sizes)
    kept = [x.clone() for x in inputs]
    fine, middle, coarse = (conv_by_definition(x, conv) for x, conv in zip(inputs, neck.laterals, strict=True))
    middle = middle + nearest_by_definition(coarse, *sizes[1])
    pyramid = [fine + nearest_by_definition(middle, *sizes[0]), middle, coarse]
    for up in neck.ups:
        pyramid.insert(0, doubled_by_definition(pyramid[0], up))
    expected = [conv_by_definition(x, conv) for x, conv in zip(pyramid, neck.convs, strict=True)]
    expected.append(expected[-1][:, :, ::2, ::2])
    got = neck(inputs)
    assert isinstance(got, tuple) and len(got) == num_finer + 4
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(x, before) for x, before in zip(inputs, kept, strict=True))


@pytest.mark.parametrize(("num_finer", "strides"), [(1, (8, 16, 32, 64, 128)), (2, (4, 8, 16, 32, 64))])
def test_strides_of_the_authors_detectors(num_finer, strides):
    backbone, neck = SHViT(SMALL).eval(), SHViTNeck(SMALL["dims"], 8, num_finer, num_outs=5)
    outs = neck(backbone(torch.randn(1, 3, 256, 128)))
    assert [tuple(x.shape) for x in outs] == [(1, 8, 256 // stride, 128 // stride) for stride in strides]


def test_size_at_the_authors_width():
    """S4's maps and 256 channels: the weights of laterals, of the 3 x 3 and of the 2 x 2 convolutions, and biases."""
    with torch.device("meta"):
        neck = SHViTNeck((224, 336, 448), 256, 2)
    expected = (224 + 336 + 448 + 3) * 256 + 5 * (9 * 256 + 1) * 256 + 2 * (4 * 256 + 1) * 256
    assert sum(p.numel() for p in neck.parameters()) == expected


def test_every_parameter_has_a_gradient():
    neck = SHViTNeck((3, 4, 5), 6, 2, num_outs=6).double()
    outs = neck(maps(1, (3, 5), (2, 3), (1, 2)))
    sum((x * torch.randn_like(x)).sum() for x in outs).backward()
    assert all(p.grad.abs().sum() > 0 for p in neck.parameters())


def test_initial_values():
    torch.manual_seed(0)
    neck = SHViTNeck((32, 32), 64, 1)
    neck.init_weights()
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5  # Xavier's uniform
    assert 0.97 * bound < neck.convs[0].weight.abs().max() <= bound
    assert abs(neck.ups[0].weight.std() / (2 / (4 * 64)) ** 0.5 - 1) < 0.05  # Kaiming's normal
    assert not any(layer.bias.any() for layer in (*neck.laterals, *neck.ups, *neck.convs))


def test_messages():
    with pytest.raises(ValueError, match="SHViTNeck: num_outs 4 is less than the 5 levels: 2 finer .* backbone's 3"):
        SHViTNeck((3, 4, 5), 6, 2, num_outs=4)
    with pytest.raises(ValueError, match="SHViTNeck: num_finer -1 must be 0 or more"):
        SHViTNeck((3, 4, 5), 6, -1)
    neck = SHViTNeck((3, 4, 5), 6).double()
    for inputs in (maps(1, (4, 4), (2, 2), channels=(3, 4)), maps(1, (4, 4), (2, 2), (1, 1), channels=(3, 4, 6))):
        with pytest.raises(ValueError, match=r"in_channels \[3, 4, 5\] do not fit .* \[3, 4.*: set model.neck"):
            neck(inputs)


def test_in_a_retinanet_of_mmdet():
    from mmdet.registry import MODELS as MMDET
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    assert MODELS.get("SHViTNeck") is SHViTNeck
    strides = [8, 16, 32, 64, 128]
    anchors = dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=strides)
    model = ConfigDict(
        type="RetinaNet",
        data_preprocessor=dict(type="DetDataPreprocessor", pad_size_divisor=32),
        backbone=dict(type="bestiary.SHViT", arch=SMALL, norm_eval=True),
        neck=dict(type="bestiary.SHViTNeck", in_channels=[16, 20, 24], out_channels=8, num_finer=1, num_outs=5),
        bbox_head=dict(
            type="RetinaHead", num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=anchors
        ),
        test_cfg=dict(nms_pre=50, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MMDET.build(model).eval()
        scores, boxes = detector(torch.randn(1, 3, 160, 96), mode="tensor")
    assert [tuple(x.shape[2:]) for x in scores] == [(20, 12), (10, 6), (5, 3), (3, 2), (2, 1)]
    assert all(x.shape[1] == 4 for x in boxes)
