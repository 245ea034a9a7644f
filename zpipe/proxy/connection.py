"""One connection from its accept to its end: where it goes, and why it ended.

What happens once per connection is here, or, until it is known where it goes, in `opening`; what
happens once per message is in `relay`. No socket is made within a batch of events (see `loop`): a
connection begins, and tries another upstream, after it.
"""

from __future__ import annotations

import errno
import os
import socket
from time import time

from zpipe.errors import reason
from zpipe.kernel.network import STREAM, reset_at_close
from zpipe.proxy.counters import Access
from zpipe.proxy.opening import Opening
from zpipe.proxy.relay import IN, ODD, OUT, WATCHED, Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.capture_tape import Tape
    from zpipe.proxy.expiry import Expiry
    from zpipe.proxy.listening import Listener
    from zpipe.proxy.mirror_tap import MirrorTap
    from zpipe.proxy.service import Service
    from zpipe.proxy.upstreams import Target

_make_socket = socket.SocketType
_BROKEN = (errno.ECONNRESET, errno.EPIPE)
# no fault of the upstream: memory, or ports of ours
_OURS = (errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN)
_EPHEMERAL = 32768  # ip_local_port_range begins here unless somebody has changed it
_RETRY_FULL = 0.02  # a UNIX listener whose backlog is full says so at once, and never again
_DROPPED = 1 << 20


class Connection(Opening):
    """A client, and the upstream that it was given."""

    __slots__ = (
        "_began",
        "_ended",
        "_full_since",
        "_idle",
        "_listener",
        "_moved_before",
        "_moved_half",
        "_started",
        "_tape",
        "_took",
        "_tried",
        "_waits",
        "admitted",
        "mirrors",
        "problem",
        "server",
        "target",
    )

    def __init__(self, service: Service, listener: Listener, sock: socket.SocketType, peer: Any):
        super().__init__(service, peer)
        self.client = Side(sock, self, service.shared)
        self.server: Side | None = None
        self.admitted: str | None = None  # the source that it counts for
        self.mirrors: tuple[MirrorTap, ...] = ()
        self._moved_before = self._idle = self._moved_half = 0
        self._listener = listener
        self._tape: Tape | None = None
        self.target: Target | None = None
        self._tried: tuple[Target, ...] = ()
        self._began = time()
        self._started = service.loop.now
        self._took: float | None = None
        self._waits: Expiry[Connection] | None = None  # whose time runs
        self._full_since = 0.0
        self.problem = "no upstream"
        self._ended = False

    @property
    def is_open(self) -> bool:
        """Tell whether it has not ended yet."""
        return not self._ended

    # Whether it may come in

    def _admit(self) -> bool:
        """Ask whether the source that the header names is welcome."""
        refusal = self.service.refusal(self, self.address())
        if refusal is not None:
            self.service.counters.refused[refusal] += 1
            self.refuse()
            self.service.gone(self, None)
        return refusal is None

    def refuse(self) -> None:
        """Turn the client away, before anything was done for it."""
        self._ended = True
        self._drop(self.client, reset=True)

    # Where it goes

    def connect(self) -> None:
        """Try the next upstream; the client is closed when there is none."""
        if self._ended or self.server is not None:
            return
        service = self.service
        while len(self._tried) <= service.settings.retries:
            target = self._balancer.choose(self.address(), service.loop.now, self._tried)
            if target is None:
                break
            family, address = target.address()
            try:
                sock = _make_socket(family, STREAM)
            except OSError as error:
                self.problem = reason(error)
                self.close("no-upstream", reset=True)
                return
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # an urgent byte stays in its place in the stream, instead of being lost beside it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            try:
                code = sock.connect_ex(address)
            except OSError as error:  # a name of a UNIX socket that is too long
                code = error.errno or errno.EINVAL
            if code == errno.EAGAIN and self._may_wait():
                sock.close()
                service.loop.later(_RETRY_FULL, self.connect)
                return
            if code and code != errno.EINPROGRESS:
                sock.close()
                self._no_answer(target, code)
                continue
            self.target = target
            target.active += 1
            self.server = server = Side(sock, self, service.shared)
            server.paced = target.no_pacing
            server.peer = self.client
            self.client.peer = server
            try:
                service.loop.watch(server.fd, WATCHED | OUT, self._connecting)
            except OSError:
                self.close("no-upstream", reset=True)
                return
            self._waits = service.connecting
            service.connecting.add(self)
            return
        self.close("no-upstream", reset=True)

    def _may_wait(self) -> bool:
        """Tell whether a UNIX listener whose backlog is full may be asked again."""
        now = self.service.loop.now
        self._full_since = self._full_since or now
        return now - self._full_since < self.service.settings.timeouts.connect

    def _no_answer(self, target: Target, code: int) -> None:
        self.problem = os.strerror(code)
        if code not in _OURS:
            target.failed(self.service.loop.now)
        self._tried += (target,)
        if len(self._tried) <= self.service.settings.retries:
            self.service.counters.retried += 1

    def connect_failed(self, code: int = errno.ETIMEDOUT) -> None:
        """Give up the upstream that is being connected to, and try another one after the batch."""
        server, target = self.server, self.target
        assert server is not None and target is not None
        self._wait_in(None)
        server.close()
        self.server = None
        target.active -= 1
        self.target = None
        self._no_answer(target, code)
        self.service.loop.after(self.connect)

    def _connecting(self, event: int) -> None:
        server, target = self.server, self.target
        if server is None or target is None or self._ended:
            return
        if event & ODD:
            code = server.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.connect_failed(code)
                return
        if not event & OUT:
            return
        if target.is_doubtful and self._is_own(server):
            self.connect_failed(errno.ECONNREFUSED)
            return
        service = self.service
        service.connecting.discard(self)
        self._waits = None
        service.loop.handle(server.fd, server.ready)
        if server.sock.family == socket.AF_UNIX:
            # the room of a UNIX socket is told of with every read of its peer
            service.loop.change(server.fd, WATCHED)
        else:
            server.out = True
        target.succeeded()
        target.connections += 1
        self._took = service.loop.now - self._started
        client = self.client
        if service.burdens is not None:
            service.burdens.lay_on(self)
        if service.settings.header.send != "no":
            self._introduce()
            if self._ended:
                return
        client.readable = True
        if service.peeks:
            service.loop.handle(client.fd, client.ready)
            client.pull()
        else:
            client.pull(probe=False)  # what is left unread is told of by the watch
            if self._ended:
                return
            try:
                service.loop.watch(client.fd, WATCHED, client.ready)
            except OSError as error:
                self.broken(client, error)
                return
        if event & (IN | ODD) and not self._ended:
            server.ready(event)
        if not self._ended:
            client.requicken()

    def _is_own(self, server: Side) -> bool:
        """Tell whether a socket is connected to itself.

        Where nobody listens at a port of this machine that the kernel also gives to clients, a
        connect may be given that very port, and succeeds (a simultaneous open with itself). Looked
        for only where nobody has answered lately, since most connects to such a port are refused.
        """
        assert self.target is not None
        _, address = self.target.address()
        if not isinstance(address, tuple) or address[1] < _EPHEMERAL:
            return False
        own = server.sock.getsockname()
        return bool(own[:2] == address[:2])

    def _wait_in(self, expiry: Expiry[Connection] | None) -> None:
        """Let another time run than before, or none."""
        if self._waits is not None:
            self._waits.discard(self)
        self._waits = expiry
        if expiry is not None:
            expiry.add(self)

    def record(self, recorder: Recorder) -> Tape:
        """Begin a tape of this connection."""
        self._tape = recorder.connection(self._began, self.peer(), self._listener.address)
        return self._tape

    # How it ends

    def ended(self) -> None:
        server = self.server
        if server is None or self._ended:
            return
        if self.client.finished and server.finished:
            self.close("closed")
        elif self._waits is None:
            self._moved_half = self.moved()
            self._waits = self.service.half_closed
            self._waits.add(self)

    def still_half_closed(self) -> None:
        """End it if nothing has moved since the one side has ended; else look again later."""
        moved = self.moved()
        if moved == self._moved_half:
            self.close("half-closed", reset=True)
        else:
            self._moved_half = moved
            self.service.half_closed.add(self)

    def broken(self, side: Side, error: OSError) -> None:
        if self._ended:
            return
        who = "client" if side is self.client else "upstream"
        how = "reset" if error.errno in _BROKEN else "error"
        # A side that had ended its output already was reset by what it did not want to read any
        # more; what it had said before must still reach the other one.
        self.close(f"{who}-{how}", reset=not side.input_ended)

    def moved(self) -> int:
        """Return the bytes that have passed in both directions."""
        return self.client.count + (self.server.count if self.server is not None else 0)

    def is_idle(self, periods: int) -> bool:
        """Tell whether nothing has moved for so many calls in a row."""
        moved = self.moved()
        self._idle = self._idle + 1 if moved == self._moved_before else 0
        self._moved_before = moved
        return self._idle >= periods

    def close(self, why: str, *, reset: bool = False) -> None:
        """End it; with `reset`, both sides learn that it was broken off."""
        if self._ended:
            return
        self._ended = True
        service, client, server, target = self.service, self.client, self.server, self.target
        for side in (client, server):
            if side is not None and not side.finished:
                for tap in side.taps:
                    tap.end()
        if self._waits is not None:
            self._wait_in(None)
        if why == "closed" and server is not None:
            client.close()
            server.close()
        else:
            lost = self._drop(client, reset=reset)
            if server is not None:
                lost += self._drop(server, reset=reset)
            service.counters.lost += lost
        if target is not None:
            target.active -= 1
            target.sent += client.count
            target.received += server.count if server is not None else 0
        if self._tape is not None:
            self._tape.end(target.name if target is not None else None, why)
        service.gone(self, why)

    def _drop(self, side: Side, *, reset: bool) -> int:
        sock = side.sock
        try:
            if reset:
                reset_at_close(sock)
            elif not side.input_ended:
                # closed over unread input a socket sends RST, which destroys what it has sent
                _read_away(side.fd)
        except OSError:
            pass
        return side.close()

    def access(self, why: str) -> Access:
        """Return what the access log tells."""
        client, server = self.client, self.server
        down = server.count if server is not None else 0
        spliced = client.spliced + (server.spliced if server is not None else 0)
        copied = client.count + down > spliced
        mover = "copy+splice" if spliced and copied else "splice" if spliced else "copy"
        return Access(
            began=self._began,
            peer=self.peer(),
            listener=self._listener.address,
            upstream=self.target.name if self.target is not None else None,
            up=client.count,
            down=down,
            connect=self._took,
            lasted=self.service.loop.now - self._started,
            mover=mover,
            reason=why,
            mirror=",".join(tap.outcome for tap in self.mirrors),
            name=self.name,
        )

    @property
    def spliced(self) -> int:
        """Return the bytes of both directions that went by splice."""
        return self.client.spliced + (self.server.spliced if self.server is not None else 0)


def _read_away(fd: int) -> None:
    buffer = bytearray(64 << 10)
    for _ in range(_DROPPED // len(buffer)):
        if not os.readv(fd, [buffer]):
            return
