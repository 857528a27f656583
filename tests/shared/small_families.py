"""A small network of every family, and what the tests over all of them share."""

import pytest
import torch

from bestiary.backbones import Backbone
from bestiary.backbones.names import FAMILIES

NAT_TINY = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), num_heads=(1, 2, 4, 2), mlp_ratio=2.0, kernel_size=3)
ISOTROPIC_TINY = dict(depths=(3,), dims=(16,), num_heads=(2,), mlp_ratio=2.0, kernel_size=3)
METAFORMER_TINY = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20))
TINY = {  # a small arch of each family; scales of 1, so that every branch shows in the output
    "biformer": dict(depths=(1, 2, 1, 1), dims=(8, 16, 24, 32), topk=(1, 4, 5, -2), n_win=3, head_dim=4),
    "davit": dict(depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), num_heads=(1, 2, 4, 2), window_size=3),
    "dinat": NAT_TINY,
    "dinat_isotropic": ISOTROPIC_TINY,
    "dinat_s": NAT_TINY | dict(depths=(1, 2, 1, 1), mlp_ratio=2.0),
    "focalnet": dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), focal_levels=(3, 2, 2, 1), layer_scale_init=1.0),
    "nat": NAT_TINY,
    "nat_isotropic": ISOTROPIC_TINY,
    "maxvit": dict(
        depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), stem_dims=(4, 8), table_window=2, head_dim=4, full_drop_path=True
    ),
    "poolformer": dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), layer_scale_init=1.0),
    "mhsvm": dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), d_state=2),
    "mobilenetv2": dict(
        depths=(1, 2, 2, 1), dims=(8, 12, 16, 20), stem_dims=(8, 8), expand_ratio=2, attn="ela_b", attn_place="hidden"
    ),
    "resnet": dict(depths=(1, 2, 1, 1), dims=(16, 24, 32, 40), stem_dims=(8, 8, 8), avg_down=True, attn="eca"),
    "shvit": dict(depths=(1, 2, 2), dims=(16, 20, 24), partial_dims=(4, 5, 6), zero_init_residual=False),
    "vitrpb": ISOTROPIC_TINY,
    "caformer": METAFORMER_TINY,
    "convformer": METAFORMER_TINY,
    "identityformer": METAFORMER_TINY,
    "metaformer": METAFORMER_TINY,
    "poolformerv2": METAFORMER_TINY,
    "randformer": METAFORMER_TINY,
}
ONE_SIZE = {"randformer"}  # of pictures of one size, the `img_size` that they are built for
# Built of another family's code with other numbers: their turn comes with the slow tests.
KIN = {"convformer", "dinat", "dinat_isotropic", "identityformer", "metaformer", "nat_isotropic", "poolformerv2"}
by_family = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.NAME, marks=[pytest.mark.slow] if family.NAME in KIN else [])
        for family in FAMILIES
    ],
)


def tiny(family, seed=0, size=(45, 71), **kwargs) -> Backbone:
    """A small one; it is told the pictures' size if that is how the family is built."""
    torch.manual_seed(seed)
    return family(TINY[family.NAME], **sized(family, size), **kwargs)


def sized(family, size):
    return dict(img_size=size) if family.NAME in ONE_SIZE else {}


def picture(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(maps):
    """A sum with random weights: a plain one has no gradient through a norm."""
    return sum((x * picture(*x.shape, seed=index)).sum() for index, x in enumerate(maps))
