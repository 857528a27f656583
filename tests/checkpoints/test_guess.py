"""Weights of another family: told by their names, and said."""

import pytest
import torch

from bestiary.backbones import NAT
from bestiary.backbones.names import FAMILIES
from bestiary.checkpoints import build_classifier, convert_state_dict, load_classifier
from bestiary.checkpoints.guess import looks_like
from bestiary.errors import InputError
from bestiary.heads import make_classifier


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.NAME)
def test_every_family_is_told_by_its_names(family):
    """By its deepest arch, whose numbers the guess has not seen; families with the same names may stand for another."""
    name = family.name_of(max(family.ARCHS, key=lambda arch: sum(family.ARCHS[arch]["depths"])))
    with torch.device("meta"):
        own = make_classifier(name).state_dict()
    found = looks_like(own)
    assert found is not None
    guessed = found.partition(" ")[0]
    same = [other.NAME for other in FAMILIES if other.__module__ == family.__module__]
    assert guessed in same


def test_other_layouts_are_told():
    with torch.device("meta"):
        weights = make_classifier("dinat_s_tiny").state_dict()
        assert looks_like(convert_state_dict(weights, "dinat_s_tiny", "bestiary", "official")) == (
            "dinat_s (official names)"
        )
        weights = make_classifier("poolformer_s24").state_dict()
        assert looks_like(convert_state_dict(weights, "poolformer_s24", "bestiary", "official")) == (
            "poolformer (official names)"
        )
    assert looks_like(["encoder.layer.0.weight", "encoder.layer.1.weight"]) is None


def test_a_backbone_and_a_classifier_say_whose_weights_they_got(tmp_path):
    path = str(tmp_path / "other.pth")
    small = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    torch.save(build_classifier("poolformer_s12", 5, **small).state_dict(), path)
    message = "other.pth: the weights look like those of poolformer .*, not of NAT: name the backbone that they are of"
    with pytest.raises(InputError, match=message):
        NAT(
            dict(small, num_heads=(1,) * 4, mlp_ratio=2.0), init_cfg=dict(type="Pretrained", checkpoint=path)
        ).init_weights()
    with pytest.raises(
        InputError, match="not weights of nat_mini in any known layout: .*they look like those of poolf"
    ):
        load_classifier(build_classifier("nat_mini", 5), "nat_mini", path)
