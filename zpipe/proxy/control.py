"""The socket between a worker and the process that watches over it: words down, snapshots up.

A word is one byte. Each question is answered by a snapshot, with the number of the question before
it; the last one, which no question asked for, has the number 0. When the socket ends, the other one
has gone. Knows nothing of forks and of who takes whose place.
"""

from __future__ import annotations

import json
import os
import select
import struct
import threading
from functools import partial
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.worker import Worker

TERMINATE, RELOAD, REPLACE = b"t", b"r", b"x"
PATIENCE = 2.0  # seconds for a worker's answer
_ASK = b"?"
_HEAD = struct.Struct("II")  # of an answer: the number of the question, the length


class Child:
    """A worker as the supervisor knows it."""

    def __init__(self, place: int, pid: int, control: socket.socket, drain: float):
        self.place = place
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.control = control
        self.drain = drain  # how long its connections may go on once it is to end
        self.born = monotonic()
        self.lock = threading.Lock()
        self._asked = 0
        self._heard = b""
        self.last: Snapshot | None = None

    def tell(self, word: bytes) -> None:
        """Let it do something; one that has died is not told."""
        try:
            self.control.sendall(word)
        except OSError:
            pass

    def ask(self) -> bool:
        """Ask it for its snapshot, which is the `last` one then. Returns: whether it answers."""
        with self.lock:
            self._asked += 1
            try:
                self.control.sendall(_ASK)
                # an earlier one may have come too late for its question
                while self._answer() != self._asked:
                    pass
            except (OSError, ValueError):
                return False
            return True

    def part(self) -> None:
        """Hear its last words, for it has died, and close what was its own here."""
        with self.lock:
            try:
                while True:
                    self._answer()
            except (OSError, ValueError):
                pass
            self.close()

    def close(self) -> None:
        """Close what is its own."""
        self.control.close()
        os.close(self.pidfd)

    def _answer(self) -> int:
        """Take one answer; what has come of one that did not come whole is kept.

        Returns: the number of the question.
        """
        while True:
            if len(self._heard) >= _HEAD.size:
                number, length = _HEAD.unpack_from(self._heard)
                end = _HEAD.size + length
                if len(self._heard) >= end:
                    text, self._heard = self._heard[_HEAD.size : end], self._heard[end:]
                    self.last = json.loads(text)
                    return int(number)
            more = self.control.recv(1 << 16)
            if not more:
                raise ConnectionResetError
            self._heard += more


class Remote:
    """The worker's end of the socket by which it is told what to do."""

    def __init__(self, worker: Worker, control: socket.socket):
        self._worker = worker
        self._control = control
        self._asked = 0
        control.setblocking(False)
        worker.loop.watch(control.fileno(), select.EPOLLIN, self._heard)

    def _heard(self, event: int) -> None:
        worker = self._worker
        try:
            words = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if not words:
            worker.loop.forget(self._control.fileno())
            worker.terminate()
            return
        for word in words:
            if word == TERMINATE[0]:
                worker.terminate()
            elif word == RELOAD[0]:
                worker.reload()
            elif word == REPLACE[0]:
                worker.be_replaced()
            else:
                self._asked += 1
                # after what it was told before, which is done after the batch
                worker.loop.after(partial(self._answer, self._asked))

    def part(self) -> None:
        """Tell the last that there is to tell."""
        self._answer(0)

    def _answer(self, number: int) -> None:
        text = json.dumps(self._worker.snapshot()).encode()
        # a few KiB, into a socket that holds 200: the supervisor reads it, or has gone
        self._control.setblocking(True)
        self._control.settimeout(PATIENCE)
        try:
            self._control.sendall(_HEAD.pack(number, len(text)) + text)
        except OSError:
            pass
        finally:
            self._control.setblocking(False)
