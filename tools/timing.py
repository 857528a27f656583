"""Timing of several ways to compute one thing, in turns within one run, so that all meet the same machine."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

TURN = 0.03  # seconds: a fast contestant is called until so much time has passed, a slow one once


class Sample(NamedTuple):
    """Seconds of one call: by the clock, and of the processor, which do not count while other processes have it."""

    wall: float
    processor: float | None = None  # of all threads together; None for work on a GPU


class Timing(NamedTuple):
    """Seconds of one call, over all turns."""

    median: float
    best: float
    calls: int
    processor: float | None = None  # median


class Load(NamedTuple):
    """The system's load averages of one minute before and after; more than the threads in use: others were at work."""

    before: float
    after: float


def on_cpu(call: Callable[[], Any], turn: float = TURN) -> list[Sample]:
    """Seconds of every call of one turn, but of a first one, in which caches still hold what others have left there."""
    call()
    taken: list[Sample] = []
    while not taken or sum(sample.wall for sample in taken) < turn:
        processor, start = time.process_time(), time.perf_counter()
        call()
        end = time.perf_counter()
        taken.append(Sample(end - start, time.process_time() - processor))
    return taken


class OnGpu:
    """Calls on a GPU, captured in one CUDA graph where that is possible: no launch is waited for.

    Args:
        calls: the same work on different buffers, together larger than the cache.
    """

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self.count = len(calls)
        self.calls = calls
        self.kept: list[Any] = []
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # a capture asks for a call before it, on another stream
            for call in calls[:2]:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.graph: torch.cuda.CUDAGraph | None = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                self.kept = [call() for call in calls]
        except RuntimeError:  # something in it waits for the GPU, or allocates past PyTorch
            self.graph = None
            torch.cuda.synchronize()

    def __call__(self) -> list[Sample]:
        """Seconds of one call, as the mean of one round over the buffers."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        if self.graph is not None:
            self.graph.replay()
        else:
            for call in self.calls:
                call()
        end.record()
        end.synchronize()
        return [Sample(begin.elapsed_time(end) / 1e3 / self.count)]


def in_turns(
    contestants: dict[str, Callable[[], list[Sample]]], seconds: float, least: int = 3, most: int = 1000
) -> tuple[dict[str, Timing], Load]:
    """Let all take their turns, in another order each round, until the time is up.

    Args:
        contestants: by name, a function that runs one turn and gives the seconds of each of its calls.
        seconds: for all of them together.
        least: rounds that are run in any case.
        most: rounds that are enough.
    """
    names = list(contestants)
    taken: dict[str, list[Sample]] = {name: [] for name in names}
    before, start = os.getloadavg()[0], time.perf_counter()
    for number in range(most):
        if number >= least and time.perf_counter() - start > seconds:
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name] += contestants[name]()
    return {name: _timing(samples) for name, samples in taken.items()}, Load(before, os.getloadavg()[0])


def _timing(samples: list[Sample]) -> Timing:
    walls = [sample.wall for sample in samples]
    processor = [sample.processor for sample in samples if sample.processor is not None]
    return Timing(statistics.median(walls), min(walls), len(walls), statistics.median(processor) if processor else None)
