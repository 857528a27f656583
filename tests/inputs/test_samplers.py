"""Samplers."""

from collections import Counter

import pytest

from bestiary.inputs.samplers import RepeatAugmentSampler
from bestiary.registry import DATA_SAMPLERS


@pytest.mark.parametrize("size", [5, 256, 700])
def test_each_picture_comes_as_often_as_asked(size, monkeypatch):
    """On as many processes as repeats, every one sees a picture once; an epoch has no more steps than without."""
    chosen = []
    for rank in range(3):
        monkeypatch.setattr("bestiary.inputs.samplers.get_dist_info", lambda rank=rank: (rank, 3))
        sampler = DATA_SAMPLERS.build(dict(type="RepeatAugmentSampler", dataset=range(size), seed=3))
        assert isinstance(sampler, RepeatAugmentSampler)
        indices = list(sampler)
        assert len(indices) == len(sampler) and len(set(indices)) == len(indices)
        chosen += indices
    counts = Counter(chosen)
    assert max(counts.values()) == 3 and sum(n == 3 for n in counts.values()) >= len(counts) - 2
    assert len(chosen) <= size + 2


def test_the_order_is_the_seeds_and_the_epochs():
    def order(seed, epoch):
        sampler = RepeatAugmentSampler(range(300), seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2**31 - 1) for epoch in (0, 1)}) == 6
