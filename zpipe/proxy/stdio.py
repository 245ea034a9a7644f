"""Standard input and output joined with an upstream: what ssh wants of a ProxyCommand.

The connection is one of a service like any other; its client is one end of a socket pair, and two
threads let movers carry what lies between the other end and the standard fds, which may be anything
and are never made non-blocking. A socket that is both standard input and output (inetd) is the
client itself. As soon as the upstream has ended and all of it is delivered this ends, whether or
not standard input has.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import closing
from threading import Thread

from zpipe.endpoints.gather import gather
from zpipe.errors import ConsumerGone, StalledError, TransferError, reason
from zpipe.facts import OpenFd
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, MoveFault, Tuning, Wait
from zpipe.proxy.connection import Connection
from zpipe.proxy.loop import Loop
from zpipe.proxy.plan import Plan
from zpipe.proxy.pool import Pool
from zpipe.proxy.resolver import resolve_first
from zpipe.proxy.service import Service
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.movers.contract import Side
    from zpipe.proxy.counters import Access
    from zpipe.proxy.settings import Settings

_CHUNK = 1 << 20
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
        ours.setblocking(False)
        client = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, theirs.detach())
    client.setblocking(False)
    connection = Connection(service, _Here(), client, None)  # type: ignore[arg-type]
    service.welcome(connection)
    if ours is not None and service.connections:
        end = ours

        def deliver() -> None:
            try:
                _carry(end.fileno(), 1, "sink", "standard output: write")
            except BaseException as error:  # raised where it is waited for
                failures.append(error)
                end.close()
            loop.soon(loop.stop)

        def collect() -> None:
            try:
                if _carry(0, end.fileno(), "source", "standard input: read"):
                    end.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the connection has gone meanwhile: the other thread knows
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


def _carry(source: int, sink: int, standard: Side, act: str) -> bool:
    """Carry everything from one fd to another, of which `standard` is not the connection's.

    Returns: whether the source has ended; else the connection has, of which others tell why.
    Raises: TransferError  the standard fd failed.
            ConsumerGone   standard output has no reader.
    """
    error: OSError
    try:
        _carry_on(source, sink)
        return True
    except MoveFault as fault:
        if fault.side != standard:
            return False
        error = fault.error
    except OSError as found:
        error = found
    text = f"{act}: {reason(error)}"
    if standard == "sink" and error.errno == errno.EPIPE:
        raise ConsumerGone(text) from error
    raise TransferError(text) from error


def _carry_on(source: int, sink: int) -> None:
    """Carry by splice, or by what serves every pair, and wait as long as it takes.

    Raises: MoveFault  one of them failed.
            OSError    no pipe can be had, or one of them is not open.
    """
    # O_NONBLOCK is left as it is: in a thread of its own a call may wait as well
    one, other = (OpenFd(fd, replace(gather(fd), nonblocking=True), "") for fd in (source, sink))
    for name in ("splice", "plain"):
        with closing(mover_of(name).begin(one, other, None, Tuning())) as transfer:
            while not isinstance(step := transfer.step(_CHUNK), FallBack):
                if isinstance(step, Ended):
                    return
                if isinstance(step, Wait):
                    poller = select.poll()
                    if step.side == "source":
                        poller.register(source, select.POLLIN)
                    else:
                        poller.register(sink, select.POLLOUT)
                    poller.poll()
