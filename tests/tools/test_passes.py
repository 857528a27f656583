"""Passes that are made ready to be timed."""

import functools

import pytest
import torch
from torch import nn

from bestiary.tools.passes import PASSES, compiled_afresh, turn


class Deep(nn.Module):
    """Code that all models of a family share, another depth each."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(depth)))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("sizes", [(4,), (4, 5, 6)])
def test_whatever_is_timed_as_compiled_was_compiled(sizes, monkeypatch):
    """More models of one family than PyTorch keeps compilations of one code; each size as itself."""
    seen = []

    def note(graph, inputs):
        seen.append([one.shape for one in inputs if isinstance(one, torch.Tensor) and one.shape[-1] in sizes])
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=note))
    limit = 8  # PyTorch's own; another test may have it raised
    with torch._dynamo.config.patch(recompile_limit=limit):
        for size in sizes:
            models = [Deep(depth) for depth in range(1, limit + 2)]
            picture = torch.randn(2, 3, size, size)
            runs = compiled_afresh(models)
            for which in PASSES:
                for run, model in zip(runs, models, strict=True):
                    count = len(seen)
                    turn(run, model, picture, which)()
                    assert len(seen) == count + 1 and seen[-1] == [picture.shape]
                    assert all(isinstance(side, int) for side in seen[-1][0])
