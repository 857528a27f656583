"""MHS-VM's backbones and its U-Net's encoder: published sizes, the block, the maps that go in and out."""

import pytest
import torch
from networks import count
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import MHSVM, MHSVMEncoder
from bestiary.backbones.mhs_vm import ScanBlock
from bestiary.backbones.mixers import MultiHeadScan
from bestiary.heads import make_classifier

THREE = ("continuous", "diagonal", "spiral")


@pytest.mark.parametrize(
    ("arch", "changes", "expected"),
    [
        ("small", {}, 8_644_128),
        ("small", dict(patterns=THREE), 8_708_640),
        ("large", {}, 13_482_528),
        ("large", dict(patterns=THREE), 13_590_048),
        ("small", dict(token_mixers=["SS2D"] * 4), 13_752_480),  # VM-UNet
        ("large", dict(token_mixers=["SS2D"] * 4), 22_122_912),
    ],
)
def test_parameters_of_the_encoders(arch, changes, expected):
    """Counted from the authors' code."""
    with torch.device("meta"):
        assert count(MHSVMEncoder(arch, **changes)) == expected


@pytest.mark.parametrize(("name", "millions"), [("mhsvm_tiny", 30.4), ("mhsvm_small", 50.7), ("mhsvm_base", 88.8)])
def test_sizes_of_the_classifiers(name, millions):
    with torch.device("meta"):
        assert count(make_classifier(name)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_multiply_adds_of_the_scan_are_the_usual_estimate():
    """9 a step and state: 4 C channels of 4 routes, 16 states."""
    with torch.device("meta"):
        counts = []
        for states in (16, 1):
            with FlopCounterMode(display=False) as counter:
                MHSVM("tiny", d_state=states, out_norm=False)(torch.empty(1, 3, 224, 224))
            counts.append(counter.get_total_flops() / 2)
    tokens = [(224 // stride) ** 2 for stride in (4, 8, 16, 32)]
    dims, depths = (128, 256, 512, 1024), (2, 2, 14, 2)
    scans = [d * 9 * n * 4 * c for d, n, c in zip(depths, tokens, dims, strict=True)]
    projections = [d * n * 4 * 2 * c for d, n, c in zip(depths, tokens, dims, strict=True)]  # to B and C, a state
    assert counts[0] - counts[1] == 15 * sum(scans) + 15 * sum(projections)


def test_block_is_its_definition():
    block = ScanBlock(8, MultiHeadScan(8, d_state=2)).double()
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x), x + block.token_mixer(normed))


def test_the_encoder_gives_what_goes_into_each_stage_and_what_comes_out():
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 2, 1), dims=(8, 12, 16, 20), d_state=2)
    encoder, plain = MHSVMEncoder(arch).eval(), MHSVM(arch, out_norm=False).eval()
    plain.load_state_dict(encoder.state_dict())
    seen = []
    for stage in plain.stages:
        stage.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].permute(0, 3, 1, 2)))
    x = torch.randn(2, 3, 45, 71)
    last = plain(x)[-1]
    expected = [*seen, last]
    maps = encoder(x)
    assert [m.shape[1] for m in maps] == encoder.feature_info.channels() == [8, 12, 16, 20, 20]
    assert encoder.feature_info.reduction() == [4, 8, 16, 32, 32]
    assert [tuple(m.shape[2:]) for m in maps] == [(12, 18), (6, 9), (3, 5), (2, 3), (2, 3)]
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other)
    recomputing = MHSVMEncoder(arch, with_cp=True)
    recomputing.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(recomputing(x)[-1], maps[-1])


def test_initial_values():
    torch.manual_seed(0)
    backbone = MHSVM(dict(depths=(1, 1, 1, 1), dims=(64, 64, 64, 64)))
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            assert 0.0185 < module.weight.std() < 0.0215, name
            assert module.bias is None
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5


def test_any_mixer_in_the_body():
    mixers = ["Pooling", "ss2d", dict(type="multi_head_scan", patterns=["spiral"], d_state=3), "self_attention"]
    backbone = MHSVM(dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32)), token_mixers=mixers, d_state=2)
    kinds = [type(stage.blocks[0].token_mixer).__name__ for stage in backbone.stages]
    assert kinds == ["Pooling", "SS2D", "MultiHeadScan", "SelfAttention"]
    assert backbone.stages[1].blocks[0].token_mixer.scan.d_state == 2
    third = backbone.stages[2].blocks[0].token_mixer
    assert third.heads.patterns == ("spiral",) and third.heads.scan.d_state == 3
    assert [m.shape[1] for m in backbone(torch.randn(1, 3, 70, 61))] == [8, 16, 16, 32]


def test_messages():
    for build, message in (
        (lambda: MHSVM("tiny", patterns=["zigzag"]), "MultiHeadScan: no scan pattern 'zigzag'; there are continuous"),
        (lambda: MHSVM("tiny", dims=(10, 20, 40, 80)), "MultiHeadScan: dim 10 must be a multiple of the 4 patterns"),
        (lambda: MHSVM("tinny"), "MHSVM: no arch 'tinny'.*did you mean 'tiny'"),
        (lambda: MHSVMEncoder("small", out_indices=(0, 1)), r"MHSVMEncoder: out_indices \(0, 1\) must be all stages"),
    ):
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            build()
