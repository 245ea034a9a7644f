"""The two sides of a route, inside the process that measures.

At the far side of a socket or pipe is a process of its own, which reads to the end and counts, or
writes for as long as it is read: what it costs is not ours. Our side does not block, as that of the
engine; a connection is taken out of pacing and a pipe is given the capacity, as it does.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack

from zpipe.bench.cells import MIB
from zpipe.bench.forked import Child
from zpipe.endpoints.gather import gather
from zpipe.facts import OpenFd
from zpipe.kernel import network, pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.bench.cells import Route

_BATCH = 8 * MIB  # bytes of files that are written between two looks at the clock
_FILES = 32
_BUFFER = MIB
_PATIENCE = 20.0  # seconds until a reader must have read all; it is a failure of ours if not


class Ends:
    """Opens both sides, as a context. `source`, and `sinks`: all of them, or files to be written in
    turn. `streams`: a sink is read by somebody.

    Raises: OSError
    """

    def __init__(self, route: Route, source: str, sinks: Sequence[str], outputs: int):
        self._stack = ExitStack()
        self._readers: list[Child] = []
        self._ours: list[int] = []
        self.streams = route.sink != "file"
        try:
            self.source = self._open_source(route.source, source)
            if not self.streams:
                self.sinks = tuple(self._open_file(path) for path in sinks)
            elif route.sink == "tcp":
                self.sinks = (self._connect(),)
            else:
                self.sinks = self._pipes(outputs if route.several else 1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all of our side; those at the far side end by that."""
        self.finish()
        self._stack.close()

    def rewind(self) -> None:
        """Empty the files that are written."""
        for sink in self.sinks:
            os.ftruncate(sink.fd, 0)
            os.lseek(sink.fd, 0, os.SEEK_SET)

    def finish(self) -> None:
        """Let the readers come to the end."""
        while self._ours:
            os.close(self._ours.pop())

    def arrived(self) -> int:
        """Return how many bytes the readers have got, all together, once they have all of it.

        Raises: TooLong, Failed
        """
        self.finish()
        return sum(reader.answer(_PATIENCE) for reader in self._readers)

    def _open_source(self, kind: str, path: str) -> OpenFd:
        if kind in ("file", "log"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._stack.callback(os.close, fd)
            return OpenFd(fd, gather(fd), path)
        if kind == "tcp":
            ours, theirs = self._connection()
            network.do_not_pace(theirs.fileno())
            fd = ours.detach()
            with theirs:
                self._child(theirs.fileno())
        else:
            fd, writer = os.pipe2(os.O_CLOEXEC)
            pipes.grow(fd)
            os.set_blocking(fd, False)
            self._child(writer)
            os.close(writer)
        self._stack.callback(os.close, fd)
        return OpenFd(fd, gather(fd), kind)

    def _child(self, fd: int) -> None:
        """Have somebody write to an fd until it is closed."""
        self._stack.enter_context(Child(lambda: feed(fd), [fd]))

    def _reader(self, *fds: int) -> None:
        child = Child(lambda: drain(fds), fds)
        self._stack.callback(child.close)
        self._readers.append(child)

    def _open_file(self, path: str) -> OpenFd:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        # ext4 writes out at close what was truncated and written anew; not an empty file
        self._stack.callback(os.close, fd)
        self._stack.callback(os.ftruncate, fd, 0)
        return OpenFd(fd, gather(fd, fresh=True), path)

    def _connect(self) -> OpenFd:
        ours, theirs = self._connection()
        with theirs:
            self._keep(ours.fileno())
            network.do_not_pace(ours.fileno())
            self._reader(theirs.fileno())
        fd = ours.detach()
        return OpenFd(fd, gather(fd), "tcp")

    def _pipes(self, count: int) -> tuple[OpenFd, ...]:
        readers, sinks = [], []
        for number in range(count):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            readers.append(reader)
            self._keep(writer)
            pipes.grow(writer)
            os.set_blocking(writer, False)
            sinks.append(OpenFd(writer, gather(writer), f"pipe {number}"))
        self._reader(*readers)
        for reader in readers:
            os.close(reader)
        return tuple(sinks)

    def _keep(self, fd: int) -> None:
        self._ours.append(fd)

    def _connection(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a TCP connection on loopback; ours does not block."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        for end in (ours, theirs):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.setblocking(False)
        return ours, theirs


def batch(size: int) -> int:
    """Return how many files of a size are written between two looks at the clock."""
    return max(1, min(_FILES, _BATCH // size))


def feed(fd: int, count: int | None = None) -> int:
    """Write to an fd until nobody reads any more, or so many bytes; return how many there were."""
    data = memoryview(os.urandom(_BUFFER))
    done = 0
    try:
        while count is None or done < count:
            done += os.write(fd, data if count is None else data[: count - done])
    except (BrokenPipeError, ConnectionResetError):
        pass
    return done


def drain(fds: Sequence[int]) -> int:
    """Read fds to their ends; return how many bytes there were in all."""
    buffer = bytearray(_BUFFER)
    total = 0
    if len(fds) == 1:
        while got := os.readv(fds[0], [buffer]):
            total += got
        return total
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    left = len(fds)
    while left:
        for fd, _ in poller.poll():
            got = os.readv(fd, [buffer])
            total += got
            if not got:
                poller.unregister(fd)
                left -= 1
    return total
