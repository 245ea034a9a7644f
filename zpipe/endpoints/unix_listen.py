"""One UNIX stream connection accepted: `unix-listen:PATH` or `unix-listen:@NAME`."""

from __future__ import annotations

import socket

from zpipe.endpoints import sockets, unix_path
from zpipe.endpoints.contract import (
    End,
    EndpointKind,
    Opening,
    mode,
    option,
)
from zpipe.endpoints.unix import socket_address
from zpipe.errors import open_failed
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


class UnixListen(sockets.SocketKind):
    """`unix-listen:PATH` or `unix-listen:@NAME`; the path is removed once it has served."""

    name = "unix-listen"
    form = "unix-listen:PATH, unix-listen:@NAME"
    summary = "Listens on a path or an abstract name, accepts one connection, removes the path."
    options = {
        "mode": "permission bits of the path, in octal (0600)",
        "linger": sockets.LINGER_OPTION,
    }

    def judge(self, endpoint: Endpoint) -> None:
        socket_address(endpoint)
        option(endpoint, "mode", mode, 0)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return FdFacts("unix", nonblocking=True)

    def join(self, endpoint: Endpoint, opening: Opening, linger: float, *, sink: bool) -> End:
        address = socket_address(endpoint)
        path = address if isinstance(address, str) else None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            try:
                if path is None:
                    listener.bind(address)
                else:
                    known_by = unix_path.bind(listener, path)
            except OSError as error:
                raise open_failed(endpoint.text, "listen", error) from error
            try:
                try:
                    if path is not None:
                        # before listen(): until then nobody can connect
                        unix_path.give(path, known_by, option(endpoint, "mode", mode, 0o600))
                    listener.listen(1)
                    listener.setblocking(False)
                except OSError as error:
                    raise open_failed(endpoint.text, "listen", error) from error
                return sockets.accept(
                    listener.fileno(), endpoint.text, opening.waiter, sink=sink, linger=linger
                )
            finally:
                if path is not None:
                    try:
                        unix_path.remove(path, known_by)
                    except FileNotFoundError:
                        pass  # somebody else has tidied up


KIND: EndpointKind = UnixListen()
