"""What TCP and UNIX stream ends share: connect, accept one, and deliver to the last byte."""

from __future__ import annotations

import errno
import os
import socket
import time
from abc import abstractmethod

from zpipe.endpoints.contract import (
    End,
    EndpointKind,
    Opening,
    duration_option,
    refuse_offset,
)
from zpipe.endpoints.gather import gather
from zpipe.errors import StalledError, TransferError, open_failed, reason
from zpipe.kernel import inspect, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.endpoints.contract import Waiter
    from zpipe.graph.model import Endpoint

# After the last byte is acknowledged, a peer that has read it all closes its side; one that keeps
# it open for its own reasons is not waited for any longer than this.
LINGER = 1.0
LINGER_OPTION = "longest wait of a sink for the peer to close, once all is acknowledged (1s)"
CONNECT_TIMEOUT = 30.0
_GLANCE = 0.02
_TCP_CLOSE = 7  # a state of tcp_info (linux/tcp_states.h)
_LOOK = 0.1  # seconds between two looks at the other side of a socket
_DISCARD = 1 << 16


class SocketEnd(End):
    """A connected stream socket of our own."""

    def __init__(self, sock: socket.socket, name: str, *, sink: bool, linger: float = LINGER):
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # an urgent byte stays in its place in the stream, instead of being lost beside it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        try:
            facts = gather(sock.fileno())
        except OSError:
            sock.close()
            raise
        fd = sock.detach()
        super().__init__(fd, name, facts)
        self._sink = sink
        self._linger = linger
        if sink and self.facts.route == "lo":
            replaced = network.do_not_pace(fd)
            if replaced:
                self.notes.append(f"loopback needs no pacing: reno instead of {replaced}")

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        if self._sink:
            deliver(self.fd, self.name, waiter, self._linger)
        self.close()


class _Sides:
    """What the two ends of one socket know of each other."""

    def __init__(self) -> None:
        self.read = True  # somebody reads, and does so to the end
        self.open = True  # the end of what is sent is not
        self.sends = True  # the sink has neither finished nor given up


class ReadingHalf(SocketEnd):
    """What comes out of a socket that is written, too."""

    def __init__(self, sock: socket.socket, name: str, sides: _Sides, linger: float):
        super().__init__(sock, name, sink=False, linger=linger)
        self._sides = sides

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        if complete:
            self._refuse_reset()
        else:
            self._read_on(waiter)
        self.close()

    def _refuse_reset(self) -> None:
        """Refuse an end that was a reset, of which the kernel has told the other half.

        Raises: TransferError.
        """
        if self.facts.type != "tcp" or not self._sides.open:
            return
        with socket.socket(fileno=os.dup(self.fd)) as sock:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _TCP_CLOSE:  # after an end it would be CLOSE_WAIT
            raise open_failed(self.name, "read", OSError(errno.ECONNRESET, ""))

    def _read_on(self, waiter: Waiter) -> None:
        """Read what nobody wants: else the peer may not read what it is sent, and closing over
        unread bytes sends a reset, which destroys what it has not read yet.
        """
        until: float | None = None
        while True:
            try:
                if _drop_input(self.fd):
                    return
            except OSError as error:
                raise open_failed(self.name, "read", error) from error
            left = _LOOK
            if not self._sides.sends:
                now = time.monotonic()
                until = now + self._linger if until is None else until
                left = until - now
                if left <= 0:
                    return
            waiter.wait(self.fd, self.name, "wait for the peer to close", timeout=left)

    def close(self) -> None:
        self._sides.read = False
        super().close()


class WritingHalf(SocketEnd):
    """What goes into a socket that is read, too: what the peer sends is not dropped."""

    def __init__(self, sock: socket.socket, name: str, sides: _Sides, linger: float):
        super().__init__(sock, name, sink=True, linger=linger)
        self._sides = sides

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self._sides.open = False
        deliver(self.fd, self.name, waiter, self._linger, reads=lambda: self._sides.read)
        self.close()

    def close(self) -> None:
        self._sides.sends = False
        super().close()


class SocketKind(EndpointKind):
    """A kind whose ends are stream sockets: a subclass judges the address and joins the peer."""

    way = "both"

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        self.judge(endpoint)
        timeout_of(endpoint)
        _linger_of(endpoint)

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        refuse_offset(endpoint, opening)
        return self.join(endpoint, opening, _linger_of(endpoint), sink=False)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        refuse_offset(endpoint, opening)
        return self.join(endpoint, opening, _linger_of(endpoint), sink=True)

    def open_both(self, endpoint: Endpoint, opening: Opening) -> tuple[End, End]:
        linger = _linger_of(endpoint)
        with self.join(endpoint, opening, linger, sink=False) as end:
            sides = _Sides()
            # the options of a socket are those of all its fds
            reading = socket.socket(fileno=os.dup(end.fd))
            source = ReadingHalf(reading, end.name, sides, linger)
            try:
                writing = socket.socket(fileno=os.dup(end.fd))
                return source, WritingHalf(writing, end.name, sides, linger)
            except OSError:
                source.close()
                raise

    @abstractmethod
    def judge(self, endpoint: Endpoint) -> None:
        """Judge the address. Raises: UsageError  it cannot be meant."""

    @abstractmethod
    def join(self, endpoint: Endpoint, opening: Opening, linger: float, *, sink: bool) -> End:
        """Connect, or accept one connection. Raises: TransferError, StalledError."""


def timeout_of(endpoint: Endpoint) -> float:
    """Return the longest wait for a connection, in seconds."""
    return duration_option(endpoint, "timeout", CONNECT_TIMEOUT)


def _linger_of(endpoint: Endpoint) -> float:
    return duration_option(endpoint, "linger", LINGER)


def connect(
    family: int, address: object, name: str, waiter: Waiter, timeout: float
) -> socket.socket:
    """Return a connected stream socket.

    Raises: TransferError  with the kernel's reason.
            StalledError   no answer within `timeout` seconds.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        span = timeout if waiter.patience is None else min(timeout, waiter.patience)
        until = time.monotonic() + span
        while (result := sock.connect_ex(address)) == errno.EAGAIN:  # type: ignore[arg-type]
            # a UNIX listener whose backlog is full says so at once; nothing tells when it is not
            if time.monotonic() >= until:
                raise StalledError(f"{name}: connect: no answer within {span:g} s")
            waiter.pause(_GLANCE, name, "connect")
        if result == errno.EINPROGRESS:
            if not waiter.wait(sock.fileno(), name, "connect", write=True, timeout=timeout):
                raise StalledError(f"{name}: connect: no answer within {timeout:g} s")
            result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            raise OSError(result, "")
    except OSError as error:
        sock.close()
        raise open_failed(name, "connect", error) from error
    except BaseException:
        sock.close()
        raise
    return sock


def listens(fd: int) -> bool:
    """Tell whether a socket is a listening one."""
    with socket.socket(fileno=os.dup(fd)) as end:
        return bool(end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def accept(fd: int, name: str, waiter: Waiter, *, sink: bool, linger: float = LINGER) -> End:
    """Wait for one connection to a listening socket, and leave the listener as it is.

    Raises: TransferError  accept failed.
    """
    with socket.socket(fileno=os.dup(fd)) as listener:
        while True:
            waiter.wait(fd, name, "wait for a connection")
            try:
                sock, _ = listener.accept()
                break
            except (BlockingIOError, ConnectionAbortedError):
                continue  # the client left between the poll and the accept
            except OSError as error:
                raise open_failed(name, "accept", error) from error
    return SocketEnd(sock, name, sink=sink, linger=linger)


def deliver(
    fd: int,
    name: str,
    waiter: Waiter,
    linger: float = LINGER,
    *,
    reads: Callable[[], bool] = lambda: False,
) -> None:
    """Shut down sending, and see every byte acknowledged by the peer's kernel.

    What the peer still sends is read and dropped: closing over unread bytes would send a reset,
    and that destroys what the peer has not read yet. Once all is acknowledged, waits up to
    `linger` seconds for the peer to close; one that has only half-closed is still sent to. While
    `reads` says that somebody else reads, that is left to him.

    Raises: TransferError  the connection broke; how many bytes were left is in the text.
            StalledError   for the stall timeout the peer has acknowledged nothing.
    """
    left = 0
    try:
        with socket.socket(fileno=os.dup(fd)) as end:
            if end.type != socket.SOCK_STREAM:
                return
            # what lies in the queue of a UNIX peer stays there when this side is closed
            counts = end.family != socket.AF_UNIX
            end.shutdown(socket.SHUT_WR)
        closed = False
        until: float | None = None
        moving = time.monotonic()
        while True:
            others = reads()
            closed = closed or (not others and _drop_input(fd))
            if error := network.error_of(fd):
                raise OSError(error, "")
            before, left = left, inspect.unsent(fd) if counts else 0
            now = time.monotonic()
            if left:
                if left != before:
                    moving = now
                elif waiter.patience is not None and now - moving >= waiter.patience:
                    raise StalledError(
                        f"{name}: shut down: stalled for {waiter.patience:g} s:"
                        f" {left} bytes are not acknowledged"
                    )
                # no event tells of an acknowledgement
                waiter.pause(_GLANCE, name, "wait for the peer to read")
                continue
            until = now + linger if until is None else until
            if closed or others or now >= until:
                return
            waiter.wait(fd, name, "wait for the peer to close", timeout=until - now)
    except OSError as error:
        lost = f"; up to {left} bytes did not reach it" if left else ""
        raise TransferError(
            f"{name}: shut down: {reason(error)}: the peer may not have read everything{lost}",
            errno=error.errno,
        ) from error


def _drop_input(fd: int) -> bool:
    """Read and drop what waits; True when the peer has closed its side.

    Raises: OSError  ECONNRESET.
    """
    while True:
        try:
            with socket.socket(fileno=os.dup(fd)) as end:
                if not end.recv(_DISCARD, socket.MSG_DONTWAIT):
                    return True
        except BlockingIOError:
            return False
