"""Real ends for movers: fds whose other side is in the test's hand.

Nothing here waits or runs in a thread: a source is fed and a sink is taken from between two steps,
so that a test decides when an end is empty, clogged, ended or broken.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from zpipe.endpoints.gather import gather
from zpipe.facts import OpenFd
from zpipe.kernel.pipes import set_capacity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PORTION = 1 << 16


class End:
    """An fd for a mover. Whoever made it closes it."""

    def __init__(self, fd: int, *, fresh: bool = False, owned: bool = True):
        self.fd = fd
        self.fresh = fresh
        self.owned = owned

    def port(self) -> OpenFd:
        """Return the fd with its facts of this moment."""
        return OpenFd(self.fd, gather(self.fd, owned=self.owned, fresh=self.fresh), "end")

    def position(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_CUR)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Source(End):
    """`data` is what a mover without a limit finds there; None: it has no end."""

    data: bytes | None = b""

    def feed(self, portion: int = PORTION) -> bool:
        """Give some more without waiting, at last the end; False when all of it was given."""
        return False


class Sink(End):
    """Collects what a mover delivers."""

    def take(self) -> int:
        """Take what has arrived, without waiting; return how many bytes."""
        return 0

    def content(self, count: int) -> bytes:
        """Return what has arrived, `count` bytes as a rule."""
        raise NotImplementedError


class FileSource(Source):
    """A file or block device by its path; `skip` bytes are passed over."""

    def __init__(self, path: str | Path, *, skip: int = 0):
        super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        with open(path, "rb") as file:
            self.data = file.read()[skip:]
        os.lseek(self.fd, skip, os.SEEK_SET)


class FileSink(Sink):
    """A file or block device by its path; `skip` bytes of it stay as they are."""

    def __init__(self, path: str | Path, *, append: bool = False, skip: int = 0):
        self.path = path
        self.skip = skip
        fresh = not os.path.exists(path) or (os.path.isfile(path) and not os.path.getsize(path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else 0)
        super().__init__(os.open(path, flags), fresh=fresh)
        if skip and not append:
            os.lseek(self.fd, skip, os.SEEK_SET)

    def content(self, count: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.skip)
            # a device is longer than what was written to it
            return file.read() if os.path.isfile(self.path) else file.read(count)


class StreamSource(Source):
    """The reading end of a pipe or socket pair; the test writes."""

    def __init__(self, fds: tuple[int, int], data: bytes, *, blocking: bool = False):
        reader, self.peer = fds
        super().__init__(reader, owned=not blocking)
        os.set_blocking(reader, blocking)
        os.set_blocking(self.peer, False)
        self.data = data
        self.rest = memoryview(data)

    def feed(self, portion: int = PORTION) -> bool:
        if not self.rest:
            return self.end()
        try:
            self.rest = self.rest[os.write(self.peer, self.rest[:portion]) :]
        except BlockingIOError:
            return False
        return True

    def end(self) -> bool:
        """Close the other side: what was given is all there is."""
        if self.peer < 0:
            return False
        os.close(self.peer)
        self.peer = -1
        return True

    def close(self) -> None:
        super().close()
        self.end()


class StreamSink(Sink):
    """The writing end of a pipe or socket pair; the test reads."""

    def __init__(self, fds: tuple[int, int], *, blocking: bool = False):
        self.peer, writer = fds
        super().__init__(writer, owned=not blocking)
        os.set_blocking(writer, blocking)
        os.set_blocking(self.peer, False)
        self.taken = bytearray()
        self.messages: list[bytes] = []

    def take(self) -> int:
        before = len(self.taken)
        try:
            while data := os.read(self.peer, PORTION):
                self.taken += data
                self.messages.append(data)
        except BlockingIOError:
            pass
        return len(self.taken) - before

    def content(self, count: int) -> bytes:
        self.take()
        # what is on its way over loopback arrives by itself
        while len(self.taken) < count and select.select([self.peer], [], [], 10)[0]:
            self.take()
        return bytes(self.taken)

    def leave(self) -> None:
        """Close the reading side: nobody will take any more."""
        if self.peer >= 0:
            os.close(self.peer)
            self.peer = -1

    def close(self) -> None:
        super().close()
        self.leave()


class DeviceSource(Source):
    """/dev/zero: bytes without end."""

    data = None

    def __init__(self) -> None:
        super().__init__(os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC))


class DeviceSink(Sink):
    """/dev/null: what it takes cannot be looked at."""

    def __init__(self) -> None:
        super().__init__(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))

    def content(self, count: int) -> bytes:
        return b""


def pipe(capacity: int = 1 << 16) -> tuple[int, int]:
    """Return reader and writer of a pipe."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    set_capacity(writer, capacity)
    return reader, writer


def tcp() -> tuple[int, int]:
    """Return both ends of a TCP connection over loopback, with small buffers."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server.detach(), client.detach()


def unix(kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[int, int]:
    """Return both ends of a pair of UNIX sockets."""
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    return left.detach(), right.detach()


STREAMS: dict[str, Callable[[], tuple[int, int]]] = {"pipe": pipe, "tcp": tcp, "unix": unix}
