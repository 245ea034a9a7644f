"""One TCP connection accepted from whoever comes first: `tcp-listen://HOST:PORT`."""

from __future__ import annotations

import socket

from zpipe.endpoints import sockets
from zpipe.endpoints.contract import End, EndpointKind, Opening, duration_option, refuse_offset
from zpipe.endpoints.tcp import host_and_port, resolve
from zpipe.errors import open_failed
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


class TcpListen(EndpointKind):
    """`tcp-listen://HOST:PORT`."""

    name = "tcp-listen"
    form = "tcp-listen://HOST:PORT"
    summary = "Listens, accepts one connection and stops listening; port 0: one that is free, told."
    options = {"linger": sockets.LINGER_OPTION}

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        host_and_port(endpoint, any_host=True)
        duration_option(endpoint, "linger", sockets.LINGER)

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._open(endpoint, opening, sink=False)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._open(endpoint, opening, sink=True)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return FdFacts("tcp", nonblocking=True)

    def _open(self, endpoint: Endpoint, opening: Opening, *, sink: bool) -> End:
        refuse_offset(endpoint, opening)
        host, port = host_and_port(endpoint, any_host=True)
        family, address = resolve(endpoint, host, port, passive=True)[0]
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)  # type: ignore[arg-type]
                listener.listen(1)
                listener.setblocking(False)
            except OSError as error:
                raise open_failed(endpoint.text, "listen", error) from error
            if port == 0:
                chosen = listener.getsockname()
                shown = f"[{chosen[0]}]" if family == socket.AF_INET6 else chosen[0]
                opening.waiter.say(f"{endpoint.text}: listening on {shown}:{chosen[1]}")
            linger = duration_option(endpoint, "linger", sockets.LINGER)
            return sockets.accept(
                listener.fileno(), endpoint.text, opening.waiter, sink=sink, linger=linger
            )


KIND: EndpointKind = TcpListen()
