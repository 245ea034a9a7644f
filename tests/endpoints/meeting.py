"""Open ends in tests: the engine's own waiter, at whose waits the test does the other side's part.

So no test has to guess when an end has begun to wait, and no wait is for ever.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from zpipe.endpoints import kind_of, parse
from zpipe.endpoints.contract import Opening
from zpipe.engine.feedback import Feedback
from zpipe.engine.stop import Stop
from zpipe.engine.waiting import EngineWaiter
from zpipe.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from zpipe.endpoints.contract import End, Waiter

LONG = 20.0  # seconds; a test that waits for so long has failed


class Meeting(EngineWaiter):
    """Does one of `steps` at the beginning of each wait; remembers the acts, and what was said and
    answered."""

    def __init__(self, *steps: Callable[[], object], patience: float = LONG):
        super().__init__(Stop(), Feedback(), patience)
        self.steps = list(steps)
        self.acts: list[str] = []
        self.told: list[str] = []
        self.answers: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)

    def answer(self, text: str) -> None:
        self.answers.append(text)

    def wait(
        self, fd: int, name: str, act: str, *, write: bool = False, timeout: float | None = None
    ) -> bool:
        self.acts.append(act)
        if self.steps:
            self.steps.pop(0)()
        return super().wait(fd, name, act, write=write, timeout=timeout)

    def pause(self, seconds: float, name: str, act: str) -> None:
        self.acts.append(act)
        if self.steps:
            self.steps.pop(0)()
        super().pause(seconds, name, act)

    def port(self) -> int:
        """Return the port that a listener has told."""
        return int(self.told[0].rpartition(":")[2])


class Interrupting(Meeting):
    """Whoever waits is told to stop, as by Ctrl-C; what it waited for has been begun by then."""

    def wait(
        self, fd: int, name: str, act: str, *, write: bool = False, timeout: float | None = None
    ) -> bool:
        self.acts.append(act)
        raise Interrupted(signal.SIGINT)

    def pause(self, seconds: float, name: str, act: str) -> None:
        self.acts.append(act)
        raise Interrupted(signal.SIGINT)


def open_end(text: str, waiter: Waiter, *, sink: bool, **asked: Any) -> End:
    """Open the end that an operand names."""
    endpoint = parse(text, sink=sink)
    kind = kind_of(endpoint.kind)
    opening = Opening(waiter, **asked)
    end = kind.open_sink(endpoint, opening) if sink else kind.open_source(endpoint, opening)
    end.prepare()
    return end


def source(text: str, waiter: Waiter | None = None, **asked: Any) -> End:
    return open_end(text, waiter or Meeting(), sink=False, **asked)


def sink(text: str, waiter: Waiter | None = None, **asked: Any) -> End:
    return open_end(text, waiter or Meeting(), sink=True, **asked)


def ready(fd: int, events: int) -> None:
    """Wait until a poll tells of an event, but not for ever."""
    poller = select.poll()
    poller.register(fd, events)
    assert poller.poll(LONG * 1000), "nothing came"


def read_all(end: End) -> bytes:
    """Read a source to its end, or to its limit."""
    data = bytearray()
    while end.limit is None or len(data) < end.limit:
        if not end.facts.on_disk:
            ready(end.fd, select.POLLIN)
        more = os.read(end.fd, 1 << 16 if end.limit is None else end.limit - len(data))
        if not more:
            break
        data += more
    return bytes(data)


def write_all(end: End, data: bytes) -> None:
    """Write everything to a sink."""
    rest = memoryview(data)
    while rest:
        if not end.facts.on_disk:
            ready(end.fd, select.POLLOUT)
        rest = rest[os.write(end.fd, rest) :]


class Peer(threading.Thread):
    """Reads whatever a sink sends, in a thread, closes, and keeps it for `read`."""

    def __init__(self, connect: Callable[[], socket.socket]):
        super().__init__(daemon=True)
        self._connect = connect
        self._got = bytearray()
        self.start()

    def run(self) -> None:
        with self._connect() as end:
            end.settimeout(LONG)
            while data := end.recv(1 << 16):
                self._got += data

    def read(self) -> bytes:
        self.join(LONG)
        assert not self.is_alive()
        return bytes(self._got)


@contextmanager
def listening(
    family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)
) -> Iterator[tuple[socket.socket, str]]:
    """Listen, and give the listener with the operand that leads to it."""
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen(1)
        listener.settimeout(LONG)
        if family == socket.AF_UNIX:
            yield listener, f"unix:{address}"
        else:
            host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
            yield listener, f"tcp://{host}:{listener.getsockname()[1]}"


def need_family(family: int) -> None:
    """Skip where the kernel has no addresses of that family on loopback."""
    try:
        with socket.socket(family) as probe:
            probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    except OSError as error:
        pytest.skip(f"no loopback address of {socket.AddressFamily(family).name}: {error}")


def accept(listener: socket.socket) -> socket.socket:
    return listener.accept()[0]
