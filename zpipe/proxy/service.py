"""One proxy in one process: it accepts, admits, and knows its connections.

Accepts only after a batch of events (see `loop`), a few at a time. Out of fds, or with as many
connections as may be, it stops listening until one has gone; it never spins.
"""

from __future__ import annotations

import errno
import select
import socket
from functools import partial

from zpipe.proxy.burdens import burdens_of
from zpipe.proxy.connection import Connection
from zpipe.proxy.counters import Counters
from zpipe.proxy.expiry import Expiry
from zpipe.proxy.limits import Admission, most_connections, within
from zpipe.proxy.mirror import MirrorService
from zpipe.proxy.relay import Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from zpipe.proxy.access_log import AccessLog
    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.checks import Checker
    from zpipe.proxy.listening import Listener
    from zpipe.proxy.loop import Loop
    from zpipe.proxy.plan import Plan
    from zpipe.proxy.pool import Pool
    from zpipe.proxy.resolver import Resolver
    from zpipe.proxy.upstreams import Balancer, Target

_IN_A_ROW = 64  # accepts before others have their turn
_STARVED = 0.1  # seconds until fds are asked for again
_SAMPLES = 4  # looks at a connection within its idle timeout
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_make_socket = socket.SocketType


class Service:
    """Serves one proxy until `close`; `gone` is where every connection ends."""

    def __init__(
        self,
        plan: Plan,
        listeners: list[Listener],
        loop: Loop,
        pool: Pool,
        told: Callable[[str], None],
        *,
        workers: int = 1,
        counters: Counters | None = None,
        recorder: Recorder | None = None,
    ):
        settings = plan.settings
        timeouts = settings.timeouts
        self.settings = settings
        self.loop = loop
        self.plan = plan
        self.counters = counters or Counters()
        self.shared = Shared(loop, pool, splice=settings.splice)
        self.balancer = plan.balancer
        self.routes = plan.routes
        self.takes_header = settings.header.accept != "no"
        self.peeks = self.takes_header or bool(self.routes)
        self.log: AccessLog | None = None
        self.recorder = recorder
        self.empty: Callable[[], None] | None = None  # called when the last connection has gone
        self.connections: set[Connection] = set()
        self.opening: Expiry[Connection] = Expiry(
            loop, timeouts.opening, lambda one: one.close("opening-timeout", reset=True)
        )
        self.connecting: Expiry[Connection] = Expiry(
            loop, timeouts.connect, Connection.connect_failed
        )
        self.half_closed: Expiry[Connection] = Expiry(
            loop, timeouts.half_closed, Connection.still_half_closed
        )
        sample = None if timeouts.idle is None else timeouts.idle / _SAMPLES
        self._idle: Expiry[Connection] = Expiry(loop, sample, self._look_at)
        self._old: Expiry[Connection] = Expiry(
            loop, timeouts.lifetime, lambda one: one.close("lifetime", reset=True)
        )
        self._timed = timeouts.idle is not None or timeouts.lifetime is not None
        self._admission = Admission(settings.limits)
        self.most = most_connections(settings, workers)
        self._refuses = settings.limits.when_full == "refuse"
        self.mirrors = [
            MirrorService(mirror, target, loop, pool, timeouts.connect)
            for mirror, target in zip(settings.mirrors, plan.mirrors, strict=True)
        ]
        self.burdens = burdens_of(settings.limits, self.mirrors, recorder, workers)
        self.listeners = listeners
        self._shared_listeners = workers > 1
        self._listening = False
        self._draining = False
        self._incoming: list[Listener] = []
        self._told = told
        self._checkers: list[Checker] = []
        self._resolver: Resolver | None = None

    def start(self) -> None:
        """Listen, check and resolve."""
        from zpipe.proxy.resolver import Resolver

        self._listen()
        settings = self.settings
        self._resolver = Resolver(self.loop, self.plan.targets, settings.resolve_every, self._told)
        self._resolver.start()
        if settings.check is not None:
            from zpipe.proxy.checks import Checker

            for balancer in self.plan.balancers:
                checker = Checker(self.loop, balancer, settings.check, self._changed)
                self._checkers.append(checker)
                checker.start()

    def _changed(self, target: Target) -> None:
        self._told(f"{target.name}: check: is {'up' if target.up else 'down'}")

    # Coming in

    def _listen(self) -> None:
        if self._listening or self._draining:
            return
        self._listening = True
        events = select.EPOLLIN
        if self._shared_listeners:
            events |= select.EPOLLEXCLUSIVE  # one process wakes, not all of them
        for listener in self.listeners:
            self.loop.watch(listener.socket.fileno(), events, partial(self._arrived, listener))

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            for listener in self.listeners:
                self.loop.forget(listener.socket.fileno())

    def _arrived(self, listener: Listener, event: int) -> None:
        if not self._incoming:
            self.loop.after(self._accept_all)
        self._incoming.append(listener)

    def _accept_all(self) -> None:
        incoming, self._incoming = self._incoming, []
        for listener in incoming:
            if self._listening:
                self._accept(listener)

    def _accept(self, listener: Listener) -> bool:
        """Accept a few. Returns: whether there may be more."""
        accept = listener.socket._accept  # type: ignore[attr-defined]
        family, counters = listener.family, self.counters
        for _ in range(_IN_A_ROW):
            full = len(self.connections) >= self.most
            if full and not self._refuses:
                self._stop_listening()
                return False
            try:
                fd, peer = accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _OUT_OF:
                    counters.refused["no-fds"] += 1
                    self._stop_listening()
                    self.loop.later(_STARVED, self._listen)
                    return False
                continue  # what became of the connection before it was accepted
            sock = _make_socket(family, socket.SOCK_STREAM, 0, fd)
            sock.setblocking(False)
            if family == socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # is not inherited
            connection = Connection(self, listener, sock, peer)
            refusal = "full" if full else None
            if refusal is None and self._admission.asks and not self.takes_header:
                refusal = self.refusal(connection, connection.address())
            if refusal is not None:
                counters.refused[refusal] += 1
                connection.refuse()
                continue
            self.welcome(connection)
        return True

    def welcome(self, connection: Connection) -> None:
        """Let a connection begin, and its time run."""
        self.counters.accepted += 1
        self.connections.add(connection)
        if self._timed:
            self._idle.add(connection)
            self._old.add(connection)
        connection.begin()

    def refusal(self, connection: Connection, address: str) -> str | None:
        """Return why nobody from an address may come in; None: counted until it has gone."""
        refusal = self._admission.refusal(address)
        if refusal is None:
            connection.admitted = address
        return refusal

    def trusts(self, address: str) -> bool:
        """Tell whether a PROXY header from this address is believed."""
        trusted = self.settings.header.trust
        return not trusted or within(address, trusted)

    def route(self, name: str) -> Balancer | None:
        """Return the upstreams for a name; None: there are none."""
        from zpipe.proxy.hello import matches

        if name:
            for pattern, balancer in self.routes:
                if matches(pattern, name):
                    return balancer
        return self.balancer if self.balancer.targets else None

    # On the way

    def _look_at(self, connection: Connection) -> None:
        if connection.is_idle(_SAMPLES):
            connection.close("idle", reset=True)  # what is cut off must not look complete
        else:
            self._idle.add(connection)

    # Going

    def gone(self, connection: Connection, reason: str | None) -> None:
        """Take note of a connection that has ended; without a reason it was refused."""
        self.connections.discard(connection)
        if self._timed:
            self._idle.discard(connection)
            self._old.discard(connection)
        if connection.admitted is not None:
            self._admission.left(connection.admitted)
        if reason is not None:
            counters = self.counters
            counters.closed[reason] += 1
            counters.up += connection.client.count
            counters.down += connection.server.count if connection.server is not None else 0
            counters.spliced += connection.spliced
            if self.log is not None:
                self.log.write(connection.access(reason))
        if not self._listening and not self._draining:
            self.loop.after(self._listen)
        if self.empty is not None and not self.connections:
            self.empty()

    @property
    def busy(self) -> bool:
        """Tell whether connections are open, or mirrors have something left."""
        return bool(self.connections) or any(mirror.active for mirror in self.mirrors)

    def resolve_now(self) -> None:
        """Resolve names at once."""
        if self._resolver is not None:
            self._resolver.now()

    def drain(self, kept: Collection[Listener] = ()) -> None:
        """Take no new connections; the open ones go on.

        Those that a client has been told are made are accepted first: closing would reset them.
        Listeners that are `kept` are another service's from here on, and so is who waits there.
        Not to be called within a batch of events.
        """
        if self._draining:
            return
        listening = self._listening
        # Before the last accepts: what comes from now on at a socket that others listen at, too,
        # wakes one of them, and not this process, which would leave it waiting.
        self._stop_listening()
        self._draining = True
        for listener in self.listeners:
            if listener in kept:
                continue
            while listening and self._accept(listener):
                pass
            if listener.owned:
                listener.close()  # a successor may have the port

    def retire(self, kept: Collection[Listener] = ()) -> None:
        """Drain for as long as it takes, and leave it to a successor to look after upstreams."""
        self.drain(kept)
        self._look_after_nobody()

    def _look_after_nobody(self) -> None:
        for checker in self._checkers:
            checker.close()
        self._checkers.clear()
        if self._resolver is not None:
            self._resolver.close()

    def close(self) -> None:
        """End what is still open, and everything else."""
        self.drain()
        for connection in list(self.connections):
            connection.close("drained", reset=True)
        for mirror in self.mirrors:
            mirror.close()
        self._look_after_nobody()
