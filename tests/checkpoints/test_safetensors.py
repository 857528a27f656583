"""State dicts to safetensors and back: the same bits, no code, tensors that share memory."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

from bestiary.backbones.reading import read_checkpoint
from bestiary.checkpoints.writing import write_weights
from bestiary.errors import InputError
from bestiary.registry import MODELS


class Tied(nn.Module):
    """Two layers with one weight, and a view of a part of a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("whole", torch.arange(6.0).reshape(2, 3))
        self.register_buffer("part", self.whole[1:].mT)
        self.register_buffer("in_half", torch.rand(3).half())
        self.register_buffer("brain", torch.rand(3).bfloat16())
        self.register_buffer("count", torch.tensor(7))


def backbone():
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), layer_scale_init=1.0)
    return MODELS.build(dict(type="bestiary.PoolFormer", arch=arch))


@pytest.mark.parametrize("make", [Tied, backbone])
@pytest.mark.parametrize("steps", [("a.safetensors", "b.pth", "c.safetensors"), ("a.pth", "b.safetensors", "c.pt")])
def test_there_and_back(steps, make, tmp_path):
    model = make()
    weights = model.state_dict()
    for name in steps:
        write_weights(tmp_path / name, weights)
        weights = read_checkpoint(tmp_path / name)["state_dict"]
    expected = model.state_dict()
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        assert (
            value.dtype == weights[key].dtype and value.shape == weights[key].shape and torch.equal(value, weights[key])
        )
    make().load_state_dict(weights)


def test_the_file_says_whose_tensors_they_are(tmp_path):
    write_weights(tmp_path / "a.safetensors", Tied().state_dict())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # timm and transformers ask for it


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_cut_off(share, tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, Tied().state_dict())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        InputError, match=r"a\.safetensors: not a (safetensors file, or one that was cut off|checkpoint)"
    ):
        read_checkpoint(path)
