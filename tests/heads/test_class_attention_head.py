"""Class attention against its formula, in loops over heads."""

import pytest
import torch
from torch import nn

from bestiary.heads import ClassAttentionHead


def head(**kwargs):
    torch.manual_seed(0)
    made = ClassAttentionHead(12, 5, num_heads=3, layer_scale_init=0.7, **kwargs).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


def by_definition(made, x):
    """(C, H, W) of one picture -> logits: CaiT's equations 6 to 9, token first."""
    tokens = x.flatten(1).T
    token = made.cls_token[0, 0]
    for block in made.blocks:
        u = norm(torch.cat([token[None], tokens]), block.norm1)
        parts = []
        for index in range(3):
            rows = slice(4 * index, 4 * index + 4)
            q = u[0] @ block.attn.q.weight[rows].T + block.attn.q.bias[rows]
            k = u @ block.attn.k.weight[rows].T + block.attn.k.bias[rows]
            v = u @ block.attn.v.weight[rows].T + block.attn.v.bias[rows]
            parts.append(torch.softmax(k @ q / 2, 0) @ v)
        token = token + block.gamma_1 * (torch.cat(parts) @ block.attn.proj.weight.T + block.attn.proj.bias)
        hidden = norm(token, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        token = token + block.gamma_2 * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    return norm(token, made.norm) @ made.fc.weight.T + made.fc.bias


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_is_its_definition(size, depth):
    made = head(depth=depth)
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    torch.testing.assert_close(made((x,)), torch.stack([by_definition(made, picture) for picture in x]))
    made(x).sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_initial_values():
    made = ClassAttentionHead(16, 3, num_heads=2)
    assert (made.blocks[0].gamma_1 == 0.1).all() and len(made.blocks) == 2
    assert (made.blocks[1].attn.proj.bias == 0).all() and 0.01 < made.blocks[0].attn.q.weight.std() < 0.03
    with pytest.raises(ValueError, match="num_heads 5 does not divide in_channels 16"):
        ClassAttentionHead(16, 3, num_heads=5)
