"""Standard input and output joined with an upstream: what ssh wants of a ProxyCommand.

The connection is one of a service like any other; its client is one end of a socket pair, and two
threads carry what lies between the other end and the standard fds, which may be anything and are
never made non-blocking. A socket that is both standard input and output (inetd) is the client
itself. As soon as the upstream has ended and all of it is delivered this ends, whether or not
standard input has.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from threading import Thread

from zpipe.errors import ConsumerGone, StalledError, TransferError, reason
from zpipe.kernel.pipes import Pipe
from zpipe.proxy.connection import Connection
from zpipe.proxy.loop import Loop
from zpipe.proxy.pool import Pool
from zpipe.proxy.resolver import resolve_first
from zpipe.proxy.service import Plan, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.proxy.counters import Access
    from zpipe.proxy.settings import Settings

_CHUNK = 1 << 20
_BUFFER = 64 << 10
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_STALLED = ("idle", "half-closed", "lifetime")


class _Here:
    """What stands for a listener."""

    address = "standard input"
    family = int(socket.AF_UNIX)


class _Outcome:
    """Hears how the connection has ended, in place of an access log."""

    def __init__(self) -> None:
        self.access: Access | None = None

    def write(self, access: Access) -> None:
        self.access = access


def join(settings: Settings) -> None:
    """Carry standard input to an upstream, and what it answers to standard output.

    Raises: UsageError     a name does not resolve.
            TransferError  no upstream answers, or it broke the connection off.
            StalledError   a timeout has ended it.
            ConsumerGone   nobody reads standard output.
    """
    plan = Plan(settings)
    resolve_first(plan.targets)
    loop, pool = Loop(), Pool(settings.pipe_size)
    service = Service(plan, [], loop, pool, lambda text: None)
    outcome = _Outcome()
    service.log = outcome  # type: ignore[assignment]
    service.empty = loop.stop
    failures: list[BaseException] = []
    output: Thread | None = None
    client = _as_client()
    ours: socket.socket | None = None
    if client is None:
        ours, theirs = socket.socketpair()
        client = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, theirs.detach())
    client.setblocking(False)
    connection = Connection(service, _Here(), client, None)  # type: ignore[arg-type]
    service.welcome(connection)
    if ours is not None and service.connections:
        end = ours

        def deliver() -> None:
            try:
                _carry(end.fileno(), 1, "standard output")
            except BaseException as error:  # raised where it is waited for
                failures.append(error)
                end.close()
            loop.soon(loop.stop)

        def collect() -> None:
            try:
                _carry(0, end.fileno(), "standard input")
                end.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the upstream has gone: the other thread knows
            except TransferError as error:
                failures.append(error)
                loop.soon(loop.stop)

        output = Thread(target=deliver, daemon=True)
        output.start()
        Thread(target=collect, daemon=True).start()
    try:
        if service.connections:
            loop.run()
    finally:
        if output is not None and not connection.is_open:
            output.join()  # what has arrived is delivered
        if outcome.access is None:
            connection.close("closed")
        service.close()
    for failure in failures:
        raise failure
    _judge(outcome, connection, settings)


def _judge(outcome: _Outcome, connection: Connection, settings: Settings) -> None:
    access = outcome.access
    assert access is not None
    name = access.upstream or ", ".join(one.address.text for one in settings.upstreams)
    if access.reason == "no-upstream":
        raise TransferError(f"{name}: connect: {connection.problem}")
    if access.reason in _STALLED:
        raise StalledError(f"{name}: {access.reason}: ended after {access.lasted:.1f} s")
    if access.reason.startswith("upstream"):
        raise TransferError(f"{name}: read: {os.strerror(errno.ECONNRESET)}")


def _as_client() -> socket.SocketType | None:
    """Return a copy of a stream socket that is both standard input and standard output."""
    try:
        one, other = os.fstat(0), os.fstat(1)
        if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
            return None
        with socket.socket(fileno=os.dup(0)) as end:
            if end.type != socket.SOCK_STREAM or end.family not in (
                socket.AF_INET,
                socket.AF_INET6,
                socket.AF_UNIX,
            ):
                return None
            # an urgent byte stays in its place in the stream
            end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            # shared with whoever has started this, who has handed it over for good
            return socket.SocketType(end.family, end.type, end.proto, end.detach())
    except OSError:
        return None


def _carry(source: int, sink: int, name: str) -> None:
    """Carry everything from one fd to another, waiting as long as it takes.

    Raises: OSError        at the socket's side.
            TransferError  at the standard fd's side.
            ConsumerGone   standard output has no reader.
    """
    try:
        _carry_by_splice(source, sink)
    except OSError as error:
        if sink == 1 and error.errno == errno.EPIPE:
            raise ConsumerGone(f"{name}: write: {reason(error)}") from error
        if sink != 1 and error.errno in (errno.EPIPE, errno.ECONNRESET):
            raise  # the connection, whose end is told of elsewhere
        act = "read" if source == 0 else "write"
        raise TransferError(f"{name}: {act}: {reason(error)}") from error


def _carry_by_splice(source: int, sink: int) -> None:
    pipe = Pipe()
    try:
        while True:
            _wait(source, select.POLLIN)
            try:
                count = os.splice(source, pipe.writer, _CHUNK, flags=_FLAGS)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
                    _copy(source, sink)
                    return
                if _has_broken(source, error):
                    return
                raise
            if not count:
                return
            while count:
                _wait(sink, select.POLLOUT)
                try:
                    count -= os.splice(pipe.reader, sink, count, flags=_FLAGS)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
                        raise
                    # a file in append mode: what is in the pipe first, then the rest
                    _write_all(sink, os.read(pipe.reader, count))
                    count = 0
                    _copy(source, sink)
                    return
    finally:
        pipe.close()


def _copy(source: int, sink: int) -> None:
    while True:
        _wait(source, select.POLLIN)
        try:
            data = os.read(source, _BUFFER)
        except BlockingIOError:
            continue
        except OSError as error:
            if _has_broken(source, error):
                return
            raise
        if not data:
            return
        _write_all(sink, data)


def _has_broken(source: int, error: OSError) -> bool:
    """Tell whether it is the connection that has ended, of which others tell why."""
    return source != 0 and error.errno == errno.ECONNRESET


def _write_all(sink: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        _wait(sink, select.POLLOUT)
        try:
            rest = rest[os.write(sink, rest) :]
        except BlockingIOError:
            continue


def _wait(fd: int, event: int) -> None:
    poller = select.poll()
    poller.register(fd, event)
    poller.poll()
