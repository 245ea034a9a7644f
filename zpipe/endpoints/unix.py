"""UNIX stream connections: `unix:PATH`, and `unix:@NAME` in the abstract namespace."""

from __future__ import annotations

import os
import socket

from zpipe.endpoints import sockets
from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.errors import UsageError
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint

_LONGEST = 107  # sockaddr_un.sun_path less its NUL (unix(7))


def socket_address(endpoint: Endpoint) -> str | bytes:
    """Return the address to connect or bind: a path, or an abstract name behind a NUL.

    Raises: UsageError  empty, or longer than an address can be.
    """
    encoded = os.fsencode(endpoint.address)
    if encoded in (b"", b"@"):
        raise UsageError(f"{endpoint.text}: give a path, or @NAME")
    if len(encoded) > _LONGEST:
        raise UsageError(
            f"{endpoint.text}: longer than {_LONGEST} bytes, the most of a UNIX address"
        )
    return b"\0" + encoded[1:] if encoded.startswith(b"@") else endpoint.address


class Unix(sockets.SocketKind):
    """`unix:PATH` or `unix:@NAME`."""

    name = "unix"
    form = "unix:PATH, unix:@NAME"
    summary = "A UNIX stream connection made to a path or an abstract name."
    options = {
        "timeout": "longest wait for the connection (30s)",
        "linger": sockets.LINGER_OPTION,
    }

    def judge(self, endpoint: Endpoint) -> None:
        socket_address(endpoint)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return FdFacts("unix", nonblocking=True)

    def join(self, endpoint: Endpoint, opening: Opening, linger: float, *, sink: bool) -> End:
        timeout = sockets.timeout_of(endpoint)
        sock = sockets.connect(
            socket.AF_UNIX, socket_address(endpoint), endpoint.text, opening.waiter, timeout
        )
        return sockets.SocketEnd(sock, endpoint.text, sink=sink, linger=linger)


KIND: EndpointKind = Unix()
