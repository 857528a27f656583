"""A data worker that dies is named, with what it most likely means, and the run ends."""

import ctypes
import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from bestiary.compat.workers import explain_death
from bestiary.engine.launch import run_guarded


class Dying(Dataset):
    """One worker ends at the sixth sample."""

    def __init__(self, end):
        self.end = end

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 5:
            self.end()
        return torch.zeros(4)


def kill(number):
    return lambda: os.kill(os.getpid(), number)


DEATHS = {
    "SIGKILL": (kill(signal.SIGKILL), "was killed by SIGKILL: most likely the system ran out of memory"),
    "SIGBUS": (kill(signal.SIGBUS), "was killed by SIGBUS: most likely the shared memory is full"),
    "SIGSEGV": (lambda: ctypes.string_at(0), "was killed by SIGSEGV: a library that it used has crashed"),
    "exit": (lambda: os._exit(3), "has ended by itself"),
}


@pytest.mark.parametrize("case", DEATHS)
def test_one_message_and_the_end(case, capfd):
    end, words = DEATHS[case]
    dataset = Dying(end)

    def run():
        for _ in DataLoader(dataset, batch_size=2, num_workers=2):
            pass

    began = time.monotonic()
    assert run_guarded(run) == 1
    assert time.monotonic() - began < 60
    told = capfd.readouterr().err
    assert words in told and "Traceback" not in told and told.count("error: ") == 1, told
    assert "data worker " in told


def test_a_death_that_a_handler_tells_is_explained_too():
    error = RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. ")
    assert explain_death(error).startswith("data worker 77 was killed by SIGKILL: most likely the system ran out of")
    error = RuntimeError("DataLoader worker (pid(s) 78, 79) exited unexpectedly")
    assert explain_death(error).startswith("data worker 78 has ended by itself")
    assert explain_death(RuntimeError("shapes differ")) is None
