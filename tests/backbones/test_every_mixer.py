"""Every mixer of the registry stands in every body that alternates a mixer and an MLP: built, trained, exported."""

from itertools import cycle, islice

import pytest
import torch

from bestiary.backbones import BiFormer, DaViT, MetaFormer, build_backbone
from bestiary.backbones.mixers import build_mixer
from bestiary.backbones.nat import NAT
from bestiary.registry import MIXERS

ALL = sorted(MIXERS.module_dict)
FOURS = [list(islice(cycle(ALL), first, first + 4)) for first in range(0, len(ALL), 4)]
SIZE = (96, 128)
WITH_HEADS = dict(depths=(1, 1, 1, 1), dims=(32, 32, 64, 64), num_heads=(1, 1, 2, 2))
BODIES = {
    "metaformer": lambda **more: MetaFormer(dict(depths=(1, 1, 1, 1), dims=(32, 32, 64, 64)), img_size=SIZE, **more),
    "davit": lambda **more: DaViT(WITH_HEADS, **more),
    "nat": lambda **more: NAT(WITH_HEADS | dict(mlp_ratio=2.0), **more),
    "biformer": lambda **more: BiFormer(dict(depths=(1, 1, 1, 1), dims=(32, 32, 64, 64), head_dim=4), **more),
}


def with_mixers(body, names):
    """A small body with a mixer a stage; RandomMixing is told the tokens where the body does not offer them."""
    mixers = [
        dict(type=name, num_tokens=(SIZE[0] // stride) * (SIZE[1] // stride)) if name == "RandomMixing" else name
        for name, stride in zip(names, (4, 8, 16, 32), strict=True)
    ]
    torch.manual_seed(0)
    return BODIES[body](token_mixers=mixers)


def mixers_of(backbone):
    """The first of each stage; DaViT's stages have blocks of two."""
    kinds = tuple(MIXERS.module_dict.values())
    return [next(module for module in stage.modules() if isinstance(module, kinds)) for stage in backbone.stages]


@pytest.mark.parametrize("names", FOURS, ids="-".join)
@pytest.mark.parametrize("body", BODIES)
def test_it_is_built_and_trained(body, names):
    backbone = with_mixers(body, names).train()
    assert [type(mixer).__name__ for mixer in mixers_of(backbone)] == names
    maps = backbone(torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    assert [tuple(x.shape[2:]) for x in maps] == [(24, 32), (12, 16), (6, 8), (3, 4)]
    sum(x.square().mean() for x in maps).backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("names", FOURS, ids="-".join)
def test_it_is_exported(names):
    backbone = with_mixers("metaformer", names).eval()
    x = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    exported = torch.export.export(backbone, (x,)).module()
    with torch.no_grad():
        for one, other in zip(exported(x), backbone(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_users_example():
    """By name, with nothing but the names of four mixers."""
    names = ["neighborhood", "bi_level_routing", "focal_modulation", "self_attention"]
    backbone = build_backbone("metaformer_s18", token_mixers=names, depths=(1, 1, 1, 1))
    for stage, name in zip(backbone.stages, names, strict=True):
        assert type(stage.blocks[0].token_mixer) is type(build_mixer(name, 64))
    maps = backbone(torch.randn(1, 3, 64, 96))
    sum(x.mean() for x in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())
