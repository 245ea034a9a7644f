"""TCP connections to somebody who listens: `tcp://HOST:PORT`."""

from __future__ import annotations

import socket

from zpipe.endpoints import sockets
from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.errors import StalledError, TransferError, UsageError
from zpipe.facts import FdFacts
from zpipe.kernel.network import gathers, route_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


def host_and_port(endpoint: Endpoint, *, any_host: bool = False) -> tuple[str, int]:
    """Split `HOST:PORT`, `[V6]:PORT`, and `:PORT` where any host will do.

    Raises: UsageError  no host, no port, or a port that is none.
    """
    host, colon, port = endpoint.address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{endpoint.text}: put an IPv6 address in brackets, like [::1]:80")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not digits or int(port) > 65535:
        raise UsageError(f"{endpoint.text}: give a port from 0 to 65535 after the host")
    if not host and not any_host:
        raise UsageError(f"{endpoint.text}: give a host before the port")
    if int(port) == 0 and not any_host:
        raise UsageError(f"{endpoint.text}: nobody listens on port 0")
    return host, int(port)


def resolve(
    endpoint: Endpoint, host: str, port: int, *, passive: bool = False
) -> list[tuple[int, object]]:
    """Return (family, address) pairs of a host name.

    Raises: TransferError  it does not resolve.
    """
    try:
        found = socket.getaddrinfo(
            host or None,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE if passive else 0,
        )
    except (socket.gaierror, UnicodeError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise TransferError(f"{endpoint.text}: resolve {host}: {text}") from error
    return [(family, address) for family, _, _, _, address in found]


def _connect(endpoint: Endpoint, opening: Opening) -> socket.socket:
    """Try the addresses of the host in order; the last failure is the one reported."""
    timeout = sockets.timeout_of(endpoint)
    host, port = host_and_port(endpoint)
    failure: TransferError | StalledError | None = None
    for family, address in resolve(endpoint, host, port):
        try:
            return sockets.connect(family, address, endpoint.text, opening.waiter, timeout)
        except (TransferError, StalledError) as error:
            failure = error
    assert failure is not None  # getaddrinfo never answers with nothing
    raise failure


class Tcp(sockets.SocketKind):
    """`tcp://HOST:PORT`."""

    name = "tcp"
    form = "tcp://HOST:PORT"
    summary = "A TCP connection made to HOST; a sink is shut down and seen acknowledged at the end."
    options = {
        "timeout": "longest wait for the connection (30s)",
        "linger": sockets.LINGER_OPTION,
    }

    def judge(self, endpoint: Endpoint) -> None:
        host_and_port(endpoint)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        host, port = host_and_port(endpoint)
        family, address = resolve(endpoint, host, port)[0]
        device = route_device(family, str(address[0]))  # type: ignore[index]
        return FdFacts(
            "tcp",
            nonblocking=True,
            route=device,
            scatter_gather=gathers(device) if device is not None else None,
        )

    def join(self, endpoint: Endpoint, opening: Opening, linger: float, *, sink: bool) -> End:
        return sockets.SocketEnd(
            _connect(endpoint, opening), endpoint.text, sink=sink, linger=linger
        )


KIND: EndpointKind = Tcp()
