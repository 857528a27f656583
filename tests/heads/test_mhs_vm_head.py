"""The second half of MHS-VM's U-Net: published sizes, its definition, odd sizes, the keys of the authors' files."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import MHSVMEncoder
from bestiary.checkpoints.mhs_vm import unet_from_official, unet_to_official
from bestiary.errors import InputError
from bestiary.heads.mhs_vm_head import MHSVMHead, PatchExpand

SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 12, 16, 20))
SCAN = dict(patterns=["continuous", "spiral"], d_state=2)


@pytest.fixture(autouse=True)
def scope():
    """mmseg finds its losses in its own scope, as under its configs, whatever earlier tests have set."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


class UNet(nn.Module):
    """What mmseg's EncoderDecoder holds."""

    def __init__(self, backbone, decode_head):
        super().__init__()
        self.backbone, self.decode_head = backbone, decode_head

    def forward(self, x):
        return self.decode_head(self.backbone(x))


def unet(depths=(1, 1, 2, 1), classes=3):
    torch.manual_seed(0)
    encoder = MHSVMEncoder(SMALL, **SCAN)
    return UNet(encoder, MHSVMHead(encoder.feature_info.channels(), classes, depths, scan=SCAN)).eval()


@pytest.mark.parametrize(
    ("arch", "depths", "scan", "expected"),
    [
        ("small", (2, 2, 2, 1), {}, 17_257_129),
        ("small", (2, 2, 2, 1), dict(patterns=("continuous", "diagonal", "spiral")), 17_386_153),
        ("large", (2, 9, 2, 2), {}, 26_993_065),
        ("large", (2, 9, 2, 2), dict(patterns=("continuous", "diagonal", "spiral")), 27_208_105),
    ],
)
def test_parameters_are_the_authors(arch, depths, scan, expected):
    """One class: mmseg writes that as two classes with one output."""
    with torch.device("meta"):
        encoder = MHSVMEncoder(arch, **scan)
        head = MHSVMHead(
            encoder.feature_info.channels(), 2, depths, scan=scan, out_channels=1, threshold=0.5,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True),
        )  # fmt: skip
    assert sum(p.numel() for part in (encoder, head) for p in part.parameters()) == expected


def test_multiply_adds_are_the_authors():
    """3.32 G at 256 x 256, the scans not counted; here they count 9 a step and state."""
    depths = (2, 2, 2, 1)
    with torch.device("meta"):
        encoder = MHSVMEncoder("small")
        head = MHSVMHead(
            encoder.feature_info.channels(), 2, depths, out_channels=1, threshold=0.5,
            loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True),
        )  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            UNet(encoder, head).eval()(torch.empty(1, 3, 256, 256))
    blocks = [2 + 1, 2 + 2, 2 + 2, 2 + 2]  # a size of the map, on the way down and up
    tokens, dims = [4096, 1024, 256, 64], [96, 192, 384, 768]
    scans = sum(9 * b * n * 4 * c * 16 for b, n, c in zip(blocks, tokens, dims, strict=True))
    assert counter.get_total_flops() / 2e9 - scans / 1e9 == pytest.approx(3.32, rel=0.005)


def test_patch_expand_is_its_definition():
    layer = PatchExpand(6, 4, 2).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    wide = x @ layer.expand.weight.T
    grown = torch.empty(2, 6, 10, 4, dtype=torch.float64)
    for row in range(6):
        for column in range(10):
            first = ((row % 2) * 2 + column % 2) * 4
            grown[:, row, column] = wide[:, row // 2, column // 2, first : first + 4]
    torch.testing.assert_close(layer(x), F.layer_norm(grown, (4,)))


def test_maps_are_added_where_they_were_taken():
    model = unet(depths=(1, 1, 1, 1)).double()
    maps = [m.double() for m in model.backbone(torch.randn(2, 3, 64, 96, dtype=torch.float64))]
    tall = [m.permute(0, 2, 3, 1) for m in maps]
    stages = model.decode_head.stages
    x = stages[0].blocks(tall[4])
    for number in (1, 2, 3):
        x = stages[number].blocks(stages[number].upsample(x + tall[4 - number]))
    x = model.decode_head.final(x).permute(0, 3, 1, 2)
    expected = model.decode_head.conv_seg(x)
    assert expected.shape == (2, 3, 64, 96)
    torch.testing.assert_close(model.decode_head(tuple(maps)), expected)


@pytest.mark.parametrize("size", [(45, 71), (33, 64), (32, 64)])
def test_odd_sizes_and_gradients(size):
    model = unet().train()
    out = model(torch.randn(2, 3, *size))
    assert out.shape == (2, 3, *(4 * -(-side // 4) for side in size))
    (out * torch.randn_like(out)).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_drop_path_falls():
    head = MHSVMHead([8, 12, 16, 20, 20], 3, (1, 1, 2, 1), drop_path_rate=0.4, scan=SCAN)
    assert [b.drop_path.drop_prob for s in head.stages for b in s.blocks] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_the_authors_keys():
    model = unet()
    official = unet_to_official(model)
    block = "vmunet.layers.2.blocks.1."
    heads = [f"{block}self_attention.mhs.scanhead_{letter}.mambaeng." for letter in "CS"]
    for key, shape in {
        "vmunet.patch_embed.proj.weight": (8, 3, 4, 4),
        "vmunet.patch_embed.norm.bias": (8,),
        f"{block}ln_1.weight": (16,),
        f"{block}self_attention.in_proj.weight": (32, 16),
        f"{block}self_attention.conv2d.weight": (16, 1, 3, 3),
        f"{block}self_attention.conv2d.bias": (16,),
        f"{block}self_attention.out_norm.weight": (16,),
        f"{block}self_attention.mhs.x_ssproj.weight": (16, 16),
        f"{block}self_attention.mhs.cat_norm.bias": (16,),
        f"{block}self_attention.mhs.y_proj.weight": (16, 16),
        f"{heads[0]}x_proj_weight": (4, 1 + 2 * 2, 8),
        f"{heads[1]}dt_projs_weight": (4, 8, 1),
        f"{heads[1]}dt_projs_bias": (4, 8),
        f"{heads[0]}A_logs": (32, 2),
        f"{heads[1]}Ds": (32,),
        "vmunet.layers.0.downsample.norm.weight": (32,),
        "vmunet.layers.0.downsample.reduction.weight": (12, 32),
        "vmunet.layers_up.1.upsample.expand.weight": (4 * 16, 20),
        "vmunet.layers_up.3.upsample.norm.bias": (8,),
        "vmunet.layers_up.2.blocks.1.self_attention.mhs.scanhead_C.mambaeng.Ds": (24,),
        "vmunet.final_up.expand.weight": (32, 8),
        "vmunet.final_up.norm.weight": (2,),
        "vmunet.final_conv.weight": (3, 2, 1, 1),
        "vmunet.final_conv.bias": (3,),
    }.items():
        assert tuple(official[key].shape) == shape, key
    assert all(key.startswith("vmunet.") for key in official)
    # 4 of the stem, 2 of each of 3 mergings, 21 of each block, 3 each of 3 upsamplings, 3 and 2 at the end
    assert len(official) == 4 + 3 * 3 + 21 * (5 + 5) + 3 * 3 + 3 + 2
    # D of the second head's third route and fourth channel
    own = model.state_dict()["backbone.stages.2.blocks.1.token_mixer.heads.scan.D"]
    assert own[4 + 2, 3] == official[f"{heads[1]}Ds"][2 * 8 + 3]


def test_there_and_back():
    model = unet()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    official = unet_to_official(model)
    # Their files have the same tensors twice.
    again = {
        key.replace("mambaeng", "scanning.seq2seq_engine"): value for key, value in official.items() if "mamba" in key
    }
    again |= {
        key.removesuffix(".weight") + "_W": value for key, value in official.items() if key.endswith("x_ssproj.weight")
    }
    back = unet_from_official({**official, **again}, model)
    own = model.state_dict()
    assert back.keys() == own.keys() and all(torch.equal(back[key], own[key]) for key in own)
    for changed, message in (
        ({**official, "vmunet.extra": torch.ones(1)}, "1 unexpected keys, vmunet.extra; see that depths, patterns"),
        ({key: v for key, v in official.items() if "final_conv" not in key}, "2 missing keys, vmunet.final_conv.bias"),
    ):
        with pytest.raises(InputError, match=f"not weights of this MHS-VM U-Net: {message}"):
            unet_from_official(changed, model)


def test_messages():
    for arguments, message in (
        (dict(in_channels=[8, 12, 16, 20]), r"in_channels \[8, 12, 16, 20\] must be of MHSVMEncoder's five maps"),
        (dict(depths=(1, 1)), r"depths \[1, 1\] of four stages"),
        (dict(scan=dict(states=3)), "MHSVMHead: scan has no 'states'; there are patterns, d_state, threshold"),
        (dict(in_channels=[6, 12, 16, 20, 20]), "in_channels 6 of the first map must be a multiple of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            MHSVMHead(**{"in_channels": [8, 12, 16, 20, 20], "num_classes": 3, **arguments})
