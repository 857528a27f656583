"""Batches whose order and randomness depend on seed and epoch alone, begun anywhere in an epoch."""

import atexit
import multiprocessing
import multiprocessing.util  # noqa: F401  (its own work at exit is to come after ours, so it is registered first)
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...errors import InputError
from ...inputs.bad_samples import BadSamples, SampleReader
from .seeds import SAMPLE, generators_kept, seed_generators

ONCE_A_PASS = (DefaultSampler, InfiniteSampler)  # samplers that take every sample once before they take one again


class Draw(NamedTuple):
    """A sample that a batch asks for, and what its randomness is seeded by."""

    index: int
    seeds: tuple[int, ...]


class ExactBatches:
    """A batch sampler that numbers what another one gives, and leaves out batches that an earlier run has done.

    Leaving out costs the sampler's indices alone: nothing is read or decoded.

    A sample is seeded by (seed, epoch, pass over the data, index): the same on one process as on several. Samplers that
    take a sample more than once in a pass (repeated augmentation, balanced classes) have it seeded by its place in the
    order of its process, for each time it is to look another way.

    Args:
        batches: the batch sampler.
        seed: of the run.
        size: samples in the data set.
    """

    def __init__(self, batches: Any, seed: int, size: int) -> None:
        self.batches, self.seed, self.size = batches, seed, size
        self.rank, self.world_size = get_dist_info()
        self.epoch = self.skip = 0

    def __getattr__(self, name: str) -> Any:
        if name == "batches":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.batches, name)

    def __len__(self) -> int:
        return len(self.batches)

    def start(self, epoch: int, skip: int = 0) -> None:
        """Make the next iteration that of `epoch`, without its first `skip` batches."""
        self.epoch, self.skip = epoch, skip
        for sampler in (self.batches, getattr(self.batches, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, skip, place = self.epoch, self.skip, 0
        once = isinstance(getattr(self.batches, "sampler", None), ONCE_A_PASS)
        for number, batch in enumerate(self.batches):
            if number >= skip:
                yield [
                    Draw(int(index), self._seeds(epoch, place + k, int(index), once)) for k, index in enumerate(batch)
                ]
            place += len(batch)

    def _seeds(self, epoch: int, place: int, index: int, once: bool) -> tuple[int, ...]:
        if once:
            return SAMPLE, self.seed, epoch, (place * self.world_size + self.rank) // self.size, index
        return SAMPLE, self.seed, epoch, place, index, self.rank


class SeededFetch:
    """What a DataLoader asks a data set for: the samples of a batch, each read with generators of its own seed.

    Args:
        dataset: see `SampleReader`.
        bad: what to do with samples that cannot be read; None ends the run at the first.
    """

    def __init__(self, dataset: Any, bad: BadSamples | None = None) -> None:
        self.read = SampleReader(dataset, bad, seed_generators)

    def __call__(self, draws: Sequence[Draw]) -> list[Any]:
        if get_worker_info() is not None:  # a process of its own: nobody else draws from its generators
            return [self._read(draw) for draw in draws]
        with generators_kept():
            return [self._read(draw) for draw in draws]

    def _read(self, draw: Draw) -> Any:
        seed_generators(*draw.seeds)
        return self.read(draw.index, draw.seeds)


class NamingFetch:
    """The samples of a batch of an evaluation; one that cannot be read ends it, named by its file."""

    def __init__(self, dataset: Any) -> None:
        self.read = SampleReader(dataset)

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        return [self.read(index) for index in indices]


class WorkerStart:
    """What a data worker does first: leave signals to the main process, then what the config says.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach every process of a job; a worker that died of them would take
    the batches along that the last checkpoint waits for. Workers end when their loader does, or with the main
    process (`_kill_daemons`).
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def make_exact(loader: DataLoader, seed: int, bad: BadSamples | None = None) -> ExactBatches:
    """Give a loader of training data the batches and the reading of this file; returns its batch sampler.

    The data set and the sampler stay what they are, for hooks that look them up in the loader.

    Raises:
        InputError: the data set is a stream, or the config has no batches: neither has places to go on from.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        raise InputError(
            f"train_dataloader: {type(loader.dataset).__name__} gives a stream, or samples without batches; "
            "a run needs a data set with a length and a batch_size, to go on in the middle of an epoch"
        )
    batches = ExactBatches(loader.batch_sampler, seed, len(loader.dataset))
    # Past DataLoader's own __setattr__, which forbids it because the loader's other attributes might not fit.
    object.__setattr__(loader, "batch_sampler", batches)
    loader.dataset.__getitems__ = SeededFetch(loader.dataset, bad)
    return batches


def name_unreadable(loader: DataLoader) -> None:
    """Have a loader of an evaluation name the file of a sample that cannot be read."""
    if not isinstance(loader.dataset, IterableDataset) and not hasattr(loader.dataset, "__getitems__"):
        loader.dataset.__getitems__ = NamingFetch(loader.dataset)


def leave_signals_to_main(loader: DataLoader) -> None:
    """Have the workers of a loader ignore SIGINT and SIGTERM; see `WorkerStart`."""
    if not isinstance(loader.worker_init_fn, WorkerStart):
        loader.worker_init_fn = WorkerStart(loader.worker_init_fn)


def close_workers(loader: Any, iterator: Any = None) -> None:
    """End the workers of a loader that keeps them, and of an iterator over it."""
    for reader in (iterator, getattr(loader, "_iterator", None)):
        if hasattr(reader, "_shutdown_workers"):
            reader._shutdown_workers()
    if getattr(loader, "_iterator", None) is not None:
        loader._iterator = None


@atexit.register
def _kill_daemons() -> None:
    # Before multiprocessing sends them SIGTERM, which our workers ignore, and waits for them without a limit.
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes the death of a worker for an accident
    for process in left:
        process.kill()
