"""Batches of training data: their order, what seeds a sample, and how an epoch is begun in its middle."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, Dataset, IterableDataset

from bestiary.engine.training.batches import make_exact
from bestiary.engine.training.seeds import seed_generators, seed_of
from bestiary.errors import InputError
from bestiary.inputs.samplers import RepeatAugmentSampler

SIZE, BATCH, SEED = 11, 3, 7


class Noisy(Dataset):
    """Of each sample its index and a number of each of the three generators; counts what is read in this process."""

    def __init__(self) -> None:
        self.read = []

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> tuple:
        self.read.append(index)
        return index, random.random(), np.random.random(), torch.rand(()).item()


def loader(sampler=DefaultSampler, workers=0, rank=0, world_size=1, **arguments):
    data = Noisy()
    made = sampler(data, seed=SEED, **arguments)
    made.rank, made.world_size = rank, world_size
    if sampler is DefaultSampler:
        made.num_samples = -(-SIZE // world_size)
        made.total_size = made.num_samples * world_size
    reader = DataLoader(data, BATCH, sampler=made, num_workers=workers, collate_fn=list)
    batches = make_exact(reader, SEED)
    batches.rank, batches.world_size = rank, world_size
    return reader, batches


def epoch(reader, batches, number, skip=0):
    batches.start(number, skip)
    return list(reader)


def test_workers_change_nothing():
    found = [[epoch(*pair, number) for number in (0, 1)] for pair in (loader(), loader(workers=1), loader(workers=3))]
    assert found[0] == found[1] == found[2]
    samples = [sample for batch in found[0][0] for sample in batch]
    assert sorted(sample[0] for sample in samples) == list(range(SIZE))
    assert len({value for sample in samples for value in sample[1:]}) == 3 * SIZE


def test_an_epoch_looks_another_way_and_can_be_had_again():
    first, second = (epoch(*loader(), number) for number in (0, 1))
    assert [s[0] for b in first for s in b] != [s[0] for b in second for s in b]
    by_index = [{sample[0]: sample[1:] for batch in batches for sample in batch} for batches in (first, second)]
    assert all(by_index[0][index] != by_index[1][index] for index in range(SIZE))
    assert epoch(*loader(), 1) == second


@pytest.mark.parametrize("skip", range(5))
def test_the_rest_of_an_epoch_reads_nothing_of_its_beginning(skip):
    whole = epoch(*loader(), 2)
    reader, batches = loader()
    assert epoch(reader, batches, 2, skip) == whole[skip:]
    assert len(reader.dataset.read) == sum(map(len, whole[skip:]))
    assert epoch(reader, batches, 2) == whole  # it is left out once


def test_an_endless_sampler_goes_on_too():
    def take(count, skip=0):
        reader, batches = loader(InfiniteSampler)
        batches.start(0, skip)
        return [batch for _, batch in zip(range(count), reader, strict=False)]

    whole = take(12)
    assert take(5, skip=7) == whole[7:]
    looks = {}
    for batch in whole:
        for index, *values in batch:
            looks.setdefault(index, []).append(tuple(values))
    assert all(len(set(values)) == len(values) >= 3 for values in looks.values())  # another look in each pass


def test_a_sample_looks_alike_on_one_process_and_on_two():
    def looks(rank, world_size):
        return {s[0]: s[1:] for batch in epoch(*loader(rank=rank, world_size=world_size), 1) for s in batch}

    one = looks(0, 1)
    for rank in (0, 1):
        part = looks(rank, 2)
        same = [index for index in part if part[index] == one[index]]
        assert len(same) >= len(part) - 1  # the one that evens the parts out is seen a second time, and anew


def test_repeated_augmentation_looks_another_way_each_time():
    data = Noisy()
    reader = DataLoader(data, BATCH, sampler=RepeatAugmentSampler(data, 3, seed=SEED), collate_fn=list)
    samples = [sample for batch in epoch(reader, make_exact(reader, SEED), 0) for sample in batch]
    assert len({s[0] for s in samples}) < len(samples) == len({s[1] for s in samples})


def test_the_main_process_keeps_its_generators():
    reader, batches = loader()
    batches.start(0)
    stream = iter(reader)  # which draws a seed for its workers, if it has any or not
    torch.manual_seed(3), np.random.seed(4), random.seed(5)
    wanted = torch.rand(2), np.random.random(2), random.random()
    torch.manual_seed(3), np.random.seed(4), random.seed(5)
    list(stream)
    assert torch.equal(torch.rand(2), wanted[0])
    assert np.array_equal(np.random.random(2), wanted[1]) and random.random() == wanted[2]


def test_seeds_are_those_of_their_parts():
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)
    many = {seed_of(*parts) for parts in [(1, 2, 3), (1, 3, 2), (1, 2), (0, 1, 2, 3), (1, 2, 4), (2**63, 2, 3)]}
    assert len(many) == 6
    drawn = []
    for _ in range(2):
        seed_generators(1, 2)
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(InputError, match="Stream gives a stream"):
        make_exact(DataLoader(Stream(), 2), 0)
