"""A rank that dies is noticed at once, and named: killed for want of memory, ended by a library, or by an error.

Every rank holds a connection to the first one. The system closes it with the process, however that ends, so nothing has
to be asked again and again, and a rank that is merely busy is never taken for dead. The others then end, too: their
next collective would wait for the dead one, on GPUs for as long as the time-out of the process group.
"""

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from typing import Any

import torch.distributed as dist

GRACE = 8.0  # seconds for the main thread to end by itself once another rank is known to be dead
CONNECTING = 20.0  # seconds until a rank that cannot be reached is done without
STATUS = 70  # EX_SOFTWARE of sysexits.h: this rank ended because another one died
KEY = "bestiary-lifeline"


class Lifeline:
    """A rank's end of the connections.

    Args:
        rank, world_size: of the job.
        store: of the process group, to tell the others where the first rank listens.
        one_machine: nobody else than this machine has to reach the first rank.
        log: this rank's log file, to be named if it dies.
    """

    def __init__(self, rank: int, world_size: int, store: Any, one_machine: bool, log: str | None = None) -> None:
        self.rank, self.world_size, self.log = rank, world_size, log
        self.death: str | None = None  # of another rank, in words
        self._heard, self._over = threading.Event(), threading.Event()
        self._names: dict[int, str] = {}
        self._logs: dict[int, str | None] = {0: log}
        self._words: dict[int, str] = {}
        self._left: set[int] = set()
        self._lock = threading.Lock()
        if rank == 0:
            server = socket.create_server(("127.0.0.1" if one_machine else "", 0), backlog=world_size)
            token = secrets.token_hex(16)
            place = dict(token=token, port=server.getsockname()[1], hosts=_hosts(one_machine))
            store.set(KEY, json.dumps(place))
            self._ends = self._welcome(server, token)
            target = self._watch_all
        else:
            place = json.loads(store.get(KEY))
            self._ends = {0: self._connect(place)}
            target = self._watch_first
        threading.Thread(target=target, name="lifeline", daemon=True).start()

    def last_words(self, text: str) -> None:
        """Tell the others why this rank is about to end; it ends soon, also if something holds it up."""
        self._words[self.rank] = text
        self._tell({"dead": 0, "text": self._sentence(0)} if self.rank == 0 else {"words": text})
        threading.Thread(target=self._end, name="lifeline-end", daemon=True).start()

    def close(self) -> None:
        """This rank's work is done: its end is no death."""
        self._over.set()
        self._tell({"bye": True})
        if self.rank != 0:
            return
        for end in self._ends.values():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)

    def let_go(self) -> None:
        """In a process that was forked off this one, a data worker: it must not hold the connections open."""
        for end in self._ends.values():
            end.close()

    def news(self, seconds: float) -> str | None:
        """The death of another rank, if one is heard of in so many seconds."""
        self._heard.wait(seconds)
        return self.death

    def _welcome(self, server: socket.socket, token: str) -> dict[int, socket.socket]:
        """The connections of all other ranks; strangers are turned away."""
        ends: dict[int, socket.socket] = {}
        self._names[0] = _name()
        last = time.monotonic() + CONNECTING
        with server:
            while len(ends) < self.world_size - 1:
                server.settimeout(max(0.1, last - time.monotonic()))
                end, _ = server.accept()
                end.settimeout(5.0)
                try:
                    hello = json.loads(_line(end))
                    if not secrets.compare_digest(str(hello["token"]), token):
                        raise ValueError("a stranger")
                    rank = hello["rank"]
                    self._names[rank], self._logs[rank] = hello["name"], hello["log"]
                    end.sendall((json.dumps(dict(name=self._names[0], log=self.log)) + "\n").encode())
                except (OSError, ValueError, KeyError, TypeError):
                    end.close()
                    continue
                _keep(end)
                ends[rank] = end
        return ends

    def _connect(self, place: dict[str, Any]) -> socket.socket:
        """The connection to the first rank."""
        trouble = OSError("the first rank gave no address")
        for host in place["hosts"]:
            try:
                end = socket.create_connection((host, place["port"]), timeout=CONNECTING / 2)
                hello = dict(token=place["token"], rank=self.rank, name=_name(), log=self.log)
                end.sendall((json.dumps(hello) + "\n").encode())
                answer = json.loads(_line(end))
                self._names[0], self._logs[0] = answer["name"], answer["log"]
                _keep(end)
                return end
            except OSError as error:
                trouble = error
        raise trouble

    def _tell(self, message: dict[str, Any]) -> None:
        data = (json.dumps(message) + "\n").encode()
        with self._lock:
            for end in self._ends.values():
                with contextlib.suppress(OSError):
                    end.sendall(data)

    def _watch_all(self) -> None:
        """The first rank's: hear of each death, tell all others."""
        with selectors.DefaultSelector() as selector:
            for rank, end in self._ends.items():
                selector.register(end, selectors.EVENT_READ, (rank, bytearray()))
            while selector.get_map():
                for key, _ in selector.select():
                    rank, buffer = key.data
                    messages, ended = _read(key.fileobj, buffer)
                    for message in messages:
                        if "words" in message:
                            self._words[rank] = message["words"]
                            self._hear(rank, self._sentence(rank))
                        elif "bye" in message:
                            self._left.add(rank)
                    if ended:
                        selector.unregister(key.fileobj)
                        if rank not in self._left:
                            self._hear(rank, self._sentence(rank))

    def _watch_first(self) -> None:
        """Any other rank's: hear what the first one tells, or that it is gone."""
        buffer = bytearray()
        while True:
            messages, ended = _read(self._ends[0], buffer)
            for message in messages:
                if "bye" in message:
                    self._left.add(0)
                elif "dead" in message and message["dead"] != self.rank:
                    self._hear(message["dead"], message["text"])
            if ended:
                if 0 not in self._left:
                    self._hear(0, self._sentence(0))
                return

    def _sentence(self, rank: int) -> str:
        name = self._names.get(rank, "")
        who = f"rank {rank} of {self.world_size}{f' ({name})' if name else ''}"
        if words := self._words.get(rank):
            return f"{who} failed: {words}"
        log = f"; its log: {self._logs[rank]}" if self._logs.get(rank) else ""
        return f"{who} died without a word: killed (for want of memory?), crashed, or ended by a library{log}"

    def _hear(self, rank: int, text: str) -> None:
        if self.death is not None or self._over.is_set() or self.rank in self._words:
            return
        self.death = text
        if self.rank == 0:
            self._tell({"dead": rank, "text": text})
        # One rank says it for all; a rank that had words has said them itself.
        if self.rank == (1 if rank == 0 else 0) and " failed: " not in text:
            _print(f"error: {text}; all ranks end")
        self._heard.set()
        threading.Thread(target=self._end, name="lifeline-end", daemon=True).start()

    def _end(self) -> None:
        """End this process, should its main thread be stuck in a collective that the dead rank will never join."""
        if not self._over.wait(GRACE):
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(STATUS)


_current: Lifeline | None = None


def begin(log: str | None = None) -> Lifeline | None:
    """Connect this rank with the others of the process group; None in a job of one, and where they are out of reach.

    Args:
        log: this rank's log file.
    """
    global _current
    if _current is not None or not dist.is_initialized() or dist.get_world_size() == 1:
        return _current
    rank, ranks = dist.get_rank(), dist.get_world_size()
    one_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == ranks
    store = dist.distributed_c10d._get_default_store()
    try:
        _current = Lifeline(rank, ranks, store, one_machine, log)
        os.register_at_fork(after_in_child=_current.let_go)
    except OSError as error:
        _print(f"warning: rank {rank}: the first rank is out of reach ({error}): a rank that dies will be noticed late")
    return _current


def current() -> Lifeline | None:
    """This process's lifeline."""
    return _current


def end() -> None:
    """Close this process's lifeline, if it has one."""
    global _current
    if _current is not None:
        _current.close()
        _current = None


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _hosts(one_machine: bool) -> list[str]:
    """Under which names the first rank may be reached."""
    if one_machine:
        return ["127.0.0.1"]
    found = []
    if master := os.environ.get("MASTER_ADDR"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((master, 9))  # sends nothing; tells which of this machine's addresses leads there
            found.append(probe.getsockname()[0])
        found.append(master)
    return list(dict.fromkeys([*found, socket.getfqdn(), socket.gethostname()]))


def _name() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def _keep(end: socket.socket) -> None:
    """Wait for ever, and have the system notice a machine that is gone."""
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _line(end: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        if not (more := end.recv(1)) or len(data) > 10_000:
            raise OSError("the connection was closed")
        data += more
    return data


def _read(end: socket.socket, buffer: bytearray) -> tuple[list[dict[str, Any]], bool]:
    """(messages that are complete, whether the connection is at its end)."""
    try:
        more = end.recv(65536)
    except OSError:
        more = b""
    buffer += more
    *lines, rest = bytes(buffer).split(b"\n")
    buffer[:] = rest
    return [json.loads(line) for line in lines if line], not more
