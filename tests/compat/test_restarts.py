"""Attempts of a job that share a store do not read one another's words."""

import threading

import torch.distributed as dist

from bestiary.compat import restarts


def meeting(store, ranks):
    """What each rank of an attempt calls it."""
    names = [None] * ranks

    def come(rank):
        names[rank] = restarts.agree(store.clone(), rank, ranks)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in reversed(range(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return names


def test_each_attempt_has_a_name(monkeypatch):
    monkeypatch.setattr(restarts, "_attempts", [])
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert restarts.attempt() == 0
    assert meeting(store, 3) == ["bestiary/attempt/1"] * 3 and restarts.attempt() == 0
    store.set("bestiary/hello/2", "of a rank that died before it was answered")
    assert meeting(store, 3) == ["bestiary/attempt/2"] * 3 and restarts.attempt() == 1
    assert meeting(store, 2) == ["bestiary/attempt/3"] * 2 and restarts.attempt() == 2
