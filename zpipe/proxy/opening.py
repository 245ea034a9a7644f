"""The beginning of a connection: who the client is, and what it opens with.

The first bytes are looked at without being taken, but for a PROXY header, which may name another
source; the name in a ClientHello chooses the upstreams. What is known of the client is told to the
upstream from here. Refuses to know how one is found and connected to, and who is welcome.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

from zpipe.proxy.relay import ODD, WATCHED, Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zpipe.proxy.connection import Connection
    from zpipe.proxy.expiry import Expiry
    from zpipe.proxy.header import ProxyHeader
    from zpipe.proxy.service import Service
    from zpipe.proxy.upstreams import Balancer

_PEEKED = 17 << 10  # a PROXY header, or a ClientHello of the longest record


class Opening(ABC):
    """What a `Connection` is until it connects. `name` is that which a ClientHello asks for."""

    __slots__ = ("_balancer", "_header", "_peer", "_source", "client", "name", "service")

    client: Side

    def __init__(self, service: Service, peer: Any):
        self.service = service
        self.name = ""
        self._peer = peer  # as accept gave it: made into text only when it is told
        self._source: Any = None  # by a PROXY header
        self._header: ProxyHeader | None = None
        self._balancer: Balancer = service.balancer

    @abstractmethod
    def connect(self) -> None:
        """Go on: it is known which upstreams are asked for."""

    @abstractmethod
    def close(self, why: str, *, reset: bool = False) -> None:
        """End it."""

    @abstractmethod
    def broken(self, side: Side, error: OSError) -> None:
        """End it, since reading from the client has failed."""

    @abstractmethod
    def _admit(self) -> bool:
        """Ask whether the source that a header names is welcome; if not, it has ended."""

    @abstractmethod
    def _wait_in(self, expiry: Expiry[Connection] | None) -> None:
        """Let another time run than before, or none."""

    def begin(self) -> None:
        """Look at what the client opens with, if that is wanted; else connect."""
        if self.service.peeks:
            self._wait_in(self.service.opening)
            self.service.loop.watch(self.client.fd, WATCHED, self._peek)
        else:
            self.connect()

    def _peek(self, event: int) -> None:
        """Judge the first bytes without taking them; come again when there are more."""
        try:
            data = self.client.sock.recv(_PEEKED, socket.MSG_PEEK)
        except BlockingIOError:
            if self._header is None or self.service.routes:
                return
            data = b""  # the header was all so far, and nothing else is waited for
        except OSError as error:
            self.broken(self.client, error)
            return
        else:
            if not data and self._header is None:
                self.close("client-left")
                return
        final = bool(event & ODD) or len(data) == _PEEKED
        if self.service.takes_header and self._header is None:
            length = self._take_header(data, final=final)
            if length is None:
                return
            if length:
                self._peek(event)  # a long header may have hidden what is behind it
                return
        if self.service.routes and not self._take_name(data, final=final):
            return
        self._wait_in(None)
        # what comes now is read when the upstream has answered
        self.service.loop.handle(self.client.fd, _later)
        # the upstream's socket must not get a number that an event of this batch is still about
        self.service.loop.after(self.connect)

    def _take_header(self, data: bytes, *, final: bool) -> int | None:
        """Take the PROXY header off the stream. Returns: its length; None: not yet, or closed."""
        from zpipe.proxy import header

        service = self.service
        wanted = service.settings.header.accept
        trusted = service.trusts(self.address())
        if wanted == "optional":
            starts = header.starts(data) if trusted else False
            if starts is None and not final:
                return None
            if not starts:
                return self._no_header()
        try:
            if not trusted:
                raise header.Malformed("from an address that is not trusted")
            found = header.parse(data)
        except header.Incomplete:
            if final:
                self.close("bad-header", reset=True)
            return None
        except header.Malformed:
            self.close("bad-header", reset=True)
            return None
        self.client.sock.recv(found.length)
        self._header = found
        if not found.local and found.source is not None:
            self._source = found.source
        return found.length if self._admit() else None

    def _no_header(self) -> int | None:
        from zpipe.proxy.header import ProxyHeader

        self._header = ProxyHeader(
            version=1,
            local=True,
            family="unspec",
            source=None,
            destination=None,
            tlvs=b"",
            length=0,
        )
        return 0 if self._admit() else None

    def _take_name(self, data: bytes, *, final: bool) -> bool:
        """Find the upstreams for the name in a ClientHello. Returns: whether one is known."""
        from zpipe.proxy import hello

        try:
            self.name = hello.server_name(data) or ""
        except hello.Incomplete:
            if not final:
                return False
        except hello.NotTls:
            pass
        balancer = self.service.route(self.name)
        if balancer is None:
            self.close("no-route", reset=True)
            return False
        self._balancer = balancer
        return True

    # Who it is

    def address(self) -> str:
        """Return the client's address without a port; empty for a UNIX client."""
        source = self._source or self._peer
        # a client of a dual-stack listener is one of IPv4 all the same
        return source[0].removeprefix("::ffff:") if isinstance(source, tuple) else ""

    def peer(self) -> str:
        """Return the client's address for people."""
        source = self._source or self._peer
        if not isinstance(source, tuple):
            return source if isinstance(source, str) and source else "unix"
        host = self.address()
        return f"[{host}]:{source[1]}" if ":" in host else f"{host}:{source[1]}"

    def _introduce(self) -> None:
        """Tell the upstream who the client is by a PROXY header, before anything else."""
        from zpipe.proxy.header import LOCAL, build

        header = self._header
        tlvs = header.tlvs if header is not None else b""
        destination: Any
        if header is not None and self._source is not None:
            destination = header.destination
        else:
            destination = self.client.sock.getsockname()
        source = self._source or self._peer
        pair = [
            (end[0].removeprefix("::ffff:"), end[1]) if isinstance(end, tuple) else end or None
            for end in (source, destination)
        ]
        version = self.service.settings.header.send
        assert version != "no"
        if version == "v2" and not isinstance(pair[0], tuple):
            self.client.give(LOCAL)
        else:
            self.client.give(build(version, pair[0], pair[1], tlvs))


def _later(event: int) -> None:
    """Leave an event of a client that still has no upstream."""
