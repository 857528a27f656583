"""A rank that dies is heard of by the others: connections between processes, without a model."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch.distributed as dist

from bestiary.engine.parallel import lifeline

SOON = 20.0  # seconds, for what takes one or two


def rank(number, ranks, port, out, act):
    """A process of the job: connects, acts, and notes what it hears."""
    sys.stderr = open(out / f"err{number}", "w")
    lifeline.GRACE = 1.0
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    line = lifeline.Lifeline(number, ranks, store, one_machine=True, log=f"rank{number}.log")
    act(line, number)
    (out / f"heard{number}").write_text(line.death or "nothing")
    os._exit(0)


def job(tmp_path, act, ranks=3):
    """Exit codes of the ranks, what each heard, and what each said."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=rank, args=(n, ranks, store.port, tmp_path, act)) for n in range(ranks)]
    for process in processes:
        process.start()
    end = time.monotonic() + SOON
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    notes = [tmp_path / f"heard{n}" for n in range(ranks)]
    heard = [note.read_text() if note.exists() else None for note in notes]
    return codes, heard, [(tmp_path / f"err{n}").read_text() for n in range(ranks)]


def waits(line):
    line.news(SOON)


@pytest.mark.parametrize("who", [0, 2])
def test_a_killed_rank_is_named_by_one(who, tmp_path):
    def act(line, number):
        os.kill(os.getpid(), signal.SIGKILL) if number == who else waits(line)

    codes, heard, said = job(tmp_path, act)
    assert codes[who] == -signal.SIGKILL
    others = [n for n in range(3) if n != who]
    for other in others:
        assert heard[other].startswith(f"rank {who} of 3 (") and "died without a word" in heard[other]
        assert heard[other].endswith(f"; its log: rank{who}.log")
    assert [bool(said[other]) for other in others] == [True, False]
    assert said[others[0]].startswith(f"error: rank {who} of 3 (")


def test_last_words_are_passed_on(tmp_path):
    def act(line, number):
        if number == 1:
            line.last_words("ValueError: no")
            time.sleep(SOON)  # it is ended all the same, as where a collective holds it up
        waits(line)

    codes, heard, said = job(tmp_path, act)
    assert codes == [0, lifeline.STATUS, 0]
    for other in (0, 2):
        assert heard[other].startswith("rank 1 of 3 (") and heard[other].endswith("failed: ValueError: no")
    assert said == ["", "", ""]  # it has spoken for itself


def test_a_rank_that_is_stuck_is_ended(tmp_path):
    """Its main thread is in a call that does not return; others may be as long in one and nobody minds."""

    def act(line, number):
        if number == 1:
            os._exit(3)
        time.sleep(SOON)

    codes, _, said = job(tmp_path, act)
    assert codes == [lifeline.STATUS, 3, lifeline.STATUS] and "rank 1 of 3" in said[0]


def test_the_end_of_the_work_is_no_death(tmp_path):
    def act(line, number):
        line.close()
        time.sleep(0.3 * number)

    assert job(tmp_path, act) == ([0, 0, 0], ["nothing"] * 3, [""] * 3)


def test_a_worker_does_not_keep_the_connection(tmp_path):
    """A process that was forked off a rank outlives it, as data workers do for some seconds."""

    def act(line, number):
        if number == 1:
            os.register_at_fork(after_in_child=line.let_go)
            if os.fork() == 0:
                time.sleep(4.0)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        waits(line)
        assert time.monotonic() - began < 3.0

    codes, heard, _ = job(tmp_path, act, ranks=2)
    assert codes == [0, -signal.SIGKILL] and "died without a word" in heard[0]


def test_no_lifeline_in_one_process():
    assert lifeline.begin() is None and lifeline.current() is None
    lifeline.end()
