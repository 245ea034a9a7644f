"""One TCP connection accepted from whoever comes first: `tcp-listen://HOST:PORT`."""

from __future__ import annotations

import socket

from zpipe.endpoints import sockets
from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.endpoints.tcp import host_and_port, resolve
from zpipe.errors import open_failed
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


class TcpListen(sockets.SocketKind):
    """`tcp-listen://HOST:PORT`."""

    name = "tcp-listen"
    form = "tcp-listen://HOST:PORT"
    summary = "Listens, accepts one connection and stops listening; port 0: one that is free, told."
    options = {"linger": sockets.LINGER_OPTION}

    def judge(self, endpoint: Endpoint) -> None:
        host_and_port(endpoint, any_host=True)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return FdFacts("tcp", nonblocking=True)

    def join(self, endpoint: Endpoint, opening: Opening, linger: float, *, sink: bool) -> End:
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
            return sockets.accept(
                listener.fileno(), endpoint.text, opening.waiter, sink=sink, linger=linger
            )


KIND: EndpointKind = TcpListen()
